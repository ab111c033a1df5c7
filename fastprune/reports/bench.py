"""The page of ``fastprune bench``: accuracy against latency."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from fastprune.reports import page
from fastprune.reports.page import KEPT, MUTED, STYLE, svg


def render(record: Mapping) -> str:
    """The page of what :func:`fastprune.export.bench.bench` measured: a picture, and all of it as a table."""
    candidates = [{**one, "label": Path(one["name"]).name} for one in record["candidates"]]
    return page.render(
        "bench.html",
        title="Accuracy against latency",
        metric=candidates[0]["metric"]["name"],
        candidates=candidates,
        sizes=list(candidates[0]["batch"]),
        picture=svg(plot(record)),
        record=record,
    )


def plot(record: Mapping) -> Figure:
    """A panel for each batch size; the bars are standard errors."""
    sizes = list(record["candidates"][0]["batch"])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * len(sizes), 3.2), layout="constrained")
        for axes, size in zip(figure.subplots(1, len(sizes), squeeze=False, sharey=True)[0], sizes, strict=True):
            for place, one in enumerate(record["candidates"]):
                across, up = one["batch"][size]["p50_ms"], 100 * one["metric"]["value"]
                error = 100 * one["metric"].get("standard_error", 0)
                axes.errorbar(across, up, error, fmt="o", color=MUTED if place == 0 else KEPT, elinewidth=0.6)
                axes.annotate(
                    f"{Path(one['name']).name} ({one['what']})", (across, up), (4, 4), textcoords="offset points"
                )
            axes.set_xscale("log")
            axes.margins(x=0.25)
            axes.set_xlabel(f"p50 of a batch of {size}, ms")
            axes.spines[["top", "right"]].set_visible(False)
        figure.axes[0].set_ylabel(f"{record['candidates'][0]['metric']['name']}, %")
        return figure
