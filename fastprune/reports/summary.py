"""A page of a model's compressions side by side. What it shows is decided in :mod:`fastprune.releases.choice`."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib
from matplotlib.figure import Figure

from fastprune.reports import page
from fastprune.reports.page import KEPT, MUTED, SERVED, STYLE, svg
from fastprune.reports.scatter import Point, draw, write_names


def plot(summary: Mapping) -> Figure:
    """The accuracy of every compression, as it is served, against its cost, with the front as a line."""
    compressions, cost = summary["compressions"], summary["cost"]
    costs = [one["macs"] if cost == "macs" else one["judged"]["latency"] for one in compressions]
    points = [
        Point(100 * across, 100 * one["judged"]["metric"], one["label"], KEPT if one["on_front"] else MUTED)
        for one, across in zip(compressions, costs)
    ]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 3.0), layout="constrained")
        axes = figure.subplots()
        front = sorted((point.across, point.up) for point, one in zip(points, compressions) if one["on_front"])
        axes.plot(*zip(*front), color=KEPT, linewidth=1)
        draw(axes, points)
        if summary["picked"] is not None:
            picked = points[summary["picked"]]
            axes.plot(picked.across, picked.up, "o", color=KEPT, markersize=9)
        dense = 100 * compressions[0]["dense"]
        axes.axhline(dense, color=MUTED, linewidth=0.8, linestyle=":")
        axes.text(0.01, dense, " dense", va="bottom", color=MUTED, transform=axes.get_yaxis_transform())
        axes.set_xlabel({"macs": "MACs kept, %", "latency": "latency, % of the dense model's"}[cost])
        axes.set_ylabel(f"{compressions[0]['metric'].replace('_', ' ')}, %")
        write_names(axes, points)
        return figure


def forms(summary: Mapping) -> list[dict]:
    """Every model that could be served: the dense one, and each compression pruned and as it was exported.

    Metrics and standard errors are fractions; latency is one of the dense PyTorch model's, timed in turn with it.
    """
    first = summary["compressions"][0]
    error = (first["standard_error"] or {}).get("dense")
    found = [{"name": "dense", "form": "PyTorch", "metric": first["dense"], "error": error, "latency": 1.0}]
    for one in summary["compressions"]:
        error = (one["standard_error"] or {}).get("pruned")
        found.append(
            {
                "name": one["label"],
                "form": "PyTorch",
                "metric": one["pruned"],
                "error": error,
                "megabytes": one["megabytes"],
                "latency": one["latency"],
            }
        )
        if one["exported"]:
            found.append({"name": one["label"], **one["exported"]})
    return found


def plot_forms(summary: Mapping) -> Figure:
    """The accuracy of :func:`forms` against their latency; the bars are standard errors."""
    points = [
        Point(
            100 * one["latency"],
            100 * one["metric"],
            " ".join(filter(None, (one["name"], "" if one["form"] == "PyTorch" else one["form"]))),
            MUTED if place == 0 else KEPT if one["form"] == "PyTorch" else SERVED,
            100 * (one["error"] or 0),
            "o" if one["form"] == "PyTorch" else "D",
        )
        for place, one in enumerate(forms(summary))
    ]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 3.4), layout="constrained")
        axes = figure.subplots()
        draw(axes, points)
        axes.set_xlabel("latency, % of the dense PyTorch model's")
        axes.set_ylabel(f"{summary['compressions'][0]['metric'].replace('_', ' ')}, %")
        write_names(axes, points)
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
        latencies=svg(plot_forms(summary)) if compressions else "",
        forms=forms(summary) if compressions else [],
        metric=compressions[0]["metric"].replace("_", " ") if compressions else "",
    )
