"""How the pages and their pictures look; the HTML is in ``templates/``."""

from __future__ import annotations

import io
from typing import Any

import jinja2
import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

INK, MUTED, RULE = "#1f2933", "#5b6673", "#dfe4e8"
KEPT, PRUNED, SERVED = "#2f6f8f", "#e6eaed", "#a3541a"

_VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", KEPT: "accent", PRUNED: "pruned", SERVED: "served"}
"""What the colours of a picture are called in the page, which has others in the dark."""

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "svg.fonttype": "none",  # text stays text, in the page's own font
    "svg.hashsalt": "fastprune",
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("fastprune.reports"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


def render(template: str, **values) -> str:
    """A page of HTML that needs no other file."""
    return _TEMPLATES.get_template(template).render(**values)


def svg(figure: Figure) -> Markup:
    """A picture for a page: its colours are the page's."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    for colour, name in _VARIABLES.items():
        text = text.replace(colour, f"var(--{name})")
    return Markup(text[text.index("<svg") :].replace("<svg", '<svg aria-hidden="true"', 1))
