"""The model card of a pruned model: ``README.md`` in its folder, with the licence that its source has."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fastprune.errors import InputError
from fastprune.store.bounded import decode, parse_yaml, read_bytes

CARD = "README.md"

_LOADED = {
    "free": "Its layers differ in size: transformers loads it with `trust_remote_code=True`, which runs the Python "
    "files here.",
    "portable": "It is a plain model of its architecture, with fewer layers and filters: any program that reads those "
    "loads it, without `trust_remote_code`.",
}
"""How a model is loaded, by its layout."""

_TEXTS = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*")
_FIELDS = ("license", "license_name", "license_link", "language")
_BYTES = 1 << 20


def about_source(source: str | Path) -> dict[str, Any]:
    """What the card of a model in a folder says of licence and language.

    A source that is no folder here, and a card that cannot be read, say nothing.
    """
    file = Path(source) / CARD
    try:
        content = decode(read_bytes(file, _BYTES), file)
        head = content.split("---\n", 2)[1] if content.startswith("---\n") else ""
        about, _ = parse_yaml(head, file)
    except (OSError, InputError, IndexError):
        return {}
    return {name: about[name] for name in _FIELDS if name in about} if isinstance(about, dict) else {}


def write_card(
    folder: Path, source: str | Path, manifest: Mapping | None = None, metrics: Mapping | None = None
) -> None:
    """Write ``README.md`` into the folder of a model, and beside it the licence texts of the source.

    Parameters
    ----------
    source : str or Path
        The folder of the source model; a name on the hub says nothing.
    manifest, metrics : mapping, optional
        Of the pruned model; without a manifest the card holds no more than the licence.
    """
    if Path(source).is_dir():
        for file in sorted(file for pattern in _TEXTS for file in Path(source).glob(pattern)):
            if file.is_file() and file.stat().st_size <= _BYTES:
                shutil.copyfile(file, folder / file.name)
    about = about_source(source)
    if about or manifest:
        (folder / CARD).write_text(card(about, manifest, metrics), encoding="utf-8")


def card(about: Mapping, manifest: Mapping | None = None, metrics: Mapping | None = None) -> str:
    """The content of a card: its head for programs, and its :func:`text`."""
    head = dict(about) | ({"library_name": "transformers", "tags": ["fastprune", "pruned"]} if manifest else {})
    return (f"---\n{yaml.safe_dump(head, sort_keys=True)}---\n\n" if head else "") + text(about, manifest, metrics)


def text(about: Mapping, manifest: Mapping | None = None, metrics: Mapping | None = None) -> str:
    """What the model is, how it was made, its figures, limits and licence, in Markdown."""
    parts = [_what(manifest), _figures(metrics), _limits(manifest, metrics)] if manifest else []
    return "\n".join([*parts, _licence(about)])


def headline(manifest: Mapping, metrics: Mapping) -> str:
    """What a list of versions shows of one: its metric, and what it has of the dense model's MACs."""
    name = metrics["metric"].replace("_", " ")
    return f"{name} {metrics['pruned']:.4f} (dense {metrics['dense']:.4f}) at {_kept(manifest)} of the MACs"


def _kept(manifest: Mapping) -> str:
    return f"{100 * manifest['macs_after'] / manifest['macs_before']:.1f}%"


# MLflow's page breaks a line wherever the text does: a paragraph is one line.
def _what(manifest: Mapping) -> str:
    source = manifest["source_model"]
    return (
        f"# {_code(Path(str(source)).name)}, pruned to {_kept(manifest)} of its MACs\n\n"
        f"A smaller version of {_code(source)} for {manifest['problem'].replace('-', ' ')}, pruned after training, "
        f"without retraining, by fastprune {_code(manifest['versions']['fastprune'])}. Heads and filters were cut, and "
        f"what is left was made up for: selection {_code(manifest['selection'])}, tuning {_code(manifest['tuning'])}, "
        f"on {manifest['sample_size']:,} rows drawn with seed {manifest['seed']}. `manifest.json` has the digests of "
        "model and rows, and what each layer keeps.\n"
    )


def _figures(metrics: Mapping | None) -> str:
    if metrics is None:
        return "## Figures\n\nIt was measured as it lies here: see `README.md` of its report, and its version's page.\n"
    rows = [
        f"- {metrics['metric'].replace('_', ' ')}: **{_with_error(metrics, 'pruned')}**, "
        f"dense {_with_error(metrics, 'dense')}"
    ]
    if "rows" in metrics:
        rows[0] += f"; behind +- stands one standard error, of {metrics['rows']:,} evaluation rows"
    if latency := metrics.get("latency_ms"):
        rows.append(
            f"- latency: **{latency['pruned']:.1f} ms**, dense {latency['dense']:.1f} ms; the median of a batch of "
            f"{latency['batch_size']} rows of {latency['seq_len']} tokens on "
            f"{latency.get('device_name', latency.get('device'))}; elsewhere the ratio is another"
        )
    if size := metrics.get("megabytes"):
        rows.append(f"- weights: **{size['pruned']:.4g} MB**, dense {size['dense']:.4g} MB")
    return "\n".join(["## Figures\n", *rows, ""])


def _limits(manifest: Mapping, metrics: Mapping | None) -> str:
    measured = "the evaluation rows" if metrics is None or "rows" not in metrics else f"{metrics['rows']:,} rows"
    return (
        f"## Limits\n\n- It was measured on {measured} and nothing else. Rows of another kind, groups of people, and "
        "inputs that want to deceive were not looked at; pruning may cost them more than the average. The source's "
        f"limits are its own.\n- Texts are cut at {manifest['max_length']} tokens.\n- "
        f"{_LOADED[manifest.get('layout', 'free')]}\n"
    )


def _licence(about: Mapping) -> str:
    if "license" not in about:
        return "## Licence\n\nThe source's card states none; ask its authors before you pass the model on.\n"
    name = about.get("license_name") or about["license"]
    return f"## Licence\n\n{_code(name)}, that of the source; its texts, if it has any, lie beside this file.\n"


def _with_error(metrics: Mapping, name: str) -> str:
    error = (metrics.get("standard_error") or {}).get(name)
    return f"{metrics[name]:.4f}" + ("" if error is None else f" +- {error:.4f}")


def _code(text: object) -> str:
    """A text of the user's in one line of code."""
    return "`" + "".join(letter if letter.isprintable() and letter != "`" else "?" for letter in str(text)) + "`"
