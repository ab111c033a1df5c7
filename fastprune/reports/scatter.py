"""A picture of accuracy against latency: points with their names beside them, none over another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator
from matplotlib.transforms import Bbox

from fastprune.reports.page import INK, MUTED

LOGARITHMIC = 3
"""From this ratio of the greatest to the least on, an axis is logarithmic."""

_PLACES = [
    (distance * x, distance * y, side)
    for distance in (8, 12, 17, 23, 30)
    for x, y, side in ((1, 0, "left"), (0.7, 1, "left"), (0.7, -1, "left"), (-1, 0, "right"))
    + ((-0.7, 1, "right"), (-0.7, -1, "right"), (0, 1.4, "center"), (0, -1.4, "center"))
]


@dataclass(frozen=True)
class Point:
    """A model: its cost across, its metric up in per cent with a standard error, how it is drawn, and its name."""

    across: float
    up: float
    name: str
    colour: str
    error: float = 0.0
    mark: str = "o"


def draw(axes: Axes, points: Sequence[Point]) -> None:
    """Draw points with their standard errors and names."""
    for point in points:
        axes.errorbar(
            point.across,
            point.up,
            point.error or None,
            fmt=point.mark,
            color=point.colour,
            elinewidth=0.6,
            markersize=5,
        )
    axes.margins(x=0.2, y=0.2)
    _scale(axes, [point.across for point in points])
    axes.spines[["top", "right"]].set_visible(False)


def write_names(axes: Axes, points: Sequence[Point]) -> None:
    """Write the name beside each point, where it covers neither a point nor another name; when all else is drawn."""
    canvas = FigureCanvasAgg(axes.figure)  # type: ignore[arg-type]
    canvas.draw()
    renderer, whole = canvas.get_renderer(), axes.get_window_extent()
    places = axes.transData.transform([(point.across, point.up) for point in points])
    taken = [Bbox.from_bounds(x - 7, y - 7, 14, 14) for x, y in places]
    for point in points:
        best, least = None, 0.0
        for across, up, side in _PLACES:
            name = axes.annotate(
                point.name,
                (point.across, point.up),
                (across, up),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=8,
                color=INK,
                arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 4},
            )
            name.set_in_layout(False)
            name.update_positions(renderer)
            box = Text.get_window_extent(name, renderer)
            outside = not (whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1)
            cost = 2.0 * outside + sum(box.overlaps(other) for other in taken)
            if best is None or cost < least:
                if best is not None:
                    best.remove()
                best, least, kept = name, cost, box
            else:
                name.remove()
            if not least:
                break
        taken.append(kept)


def _scale(axes: Axes, values: Sequence[float]) -> None:
    if min(values) > 0 and max(values) / min(values) >= LOGARITHMIC:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(LogLocator(subs=()))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
