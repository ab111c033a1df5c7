"""A page of a model's compressions side by side. What it shows is decided in :mod:`fastprune.releases.choice`."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib
from matplotlib.figure import Figure

from fastprune.reports import page
from fastprune.reports.page import INK, KEPT, MUTED, RULE, STYLE, svg


def plot(summary: Mapping) -> Figure:
    """The accuracy of every compression against its cost, with the front as a line."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes, compressions = figure.subplots(), summary["compressions"]
        front = sorted((one[summary["cost"]], one["pruned"]) for one in compressions if one["on_front"])
        axes.plot(*([100 * value for value in values] for values in zip(*front)), color=KEPT, linewidth=1)
        for number, one in enumerate(compressions):
            place = (100 * one[summary["cost"]], 100 * one["pruned"])
            axes.plot(
                *place, "o", color=KEPT if one["on_front"] else RULE, markersize=9 if number == summary["picked"] else 5
            )
            axes.annotate(one["label"], place, xytext=(5, -11), textcoords="offset points", color=INK, fontsize=8)
        axes.axhline(100 * compressions[0]["dense"], color=MUTED, linewidth=0.8, linestyle=":")
        axes.text(
            0.01,
            100 * compressions[0]["dense"],
            " dense",
            va="bottom",
            color=MUTED,
            transform=axes.get_yaxis_transform(),
        )
        axes.margins(x=0.15, y=0.15)
        axes.set_xlabel({"macs": "MACs kept, %", "latency": "latency, % of the dense model's"}[summary["cost"]])
        axes.set_ylabel(f"{compressions[0]['metric'].replace('_', ' ')}, %")
        axes.spines[["top", "right"]].set_visible(False)
        return figure


def render(summary: Mapping) -> str:
    """A page of its own."""
    compressions = summary["compressions"]
    return page.render(
        "summary.html",
        title="Accuracy against cost",
        compressions=compressions,
        picked=summary["picked"],
        failed=summary["failed"],
        picture=svg(plot(summary)) if compressions else "",
        metric=compressions[0]["metric"].replace("_", " ") if compressions else "",
    )
