"""The page of ``fastprune bench``: accuracy against latency."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from fastprune.reports import page
from fastprune.reports.page import KEPT, MUTED, SERVED, STYLE, svg
from fastprune.reports.scatter import Point, draw, write_names


def render(record: Mapping) -> str:
    """The page of what :func:`fastprune.export.bench.bench` measured: pictures, and all of it as a table."""
    candidates = [{**one, "label": label} for one, label in zip(record["candidates"], labels(record), strict=True)]
    sizes = list(candidates[0]["batch"])
    return page.render(
        "bench.html",
        title="Accuracy against latency",
        metric=candidates[0]["metric"]["name"],
        candidates=candidates,
        sizes=sizes,
        pictures={size: svg(plot(record, size)) for size in sizes},
        record=record,
    )


def labels(record: Mapping) -> list[str]:
    """What the candidates are called: their folders, without what lies above where that leaves each its own name."""
    names = [one["name"] for one in record["candidates"]]
    short = [Path(name).name for name in names]
    return short if len(set(short)) == len(short) else names


def plot(record: Mapping, size: str) -> Figure:
    """Every candidate at a batch size; the bars are standard errors."""
    points = [
        Point(
            one["batch"][size]["p50_ms"],
            100 * one["metric"]["value"],
            label,
            MUTED if place == 0 else KEPT if one["what"] == "PyTorch" else SERVED,
            100 * one["metric"].get("standard_error", 0),
            "o" if one["what"] == "PyTorch" else "D",
        )
        for place, (one, label) in enumerate(zip(record["candidates"], labels(record), strict=True))
    ]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 3.4), layout="constrained")
        axes = figure.subplots()
        draw(axes, points)
        axes.set_xlabel(f"p50 of a batch of {size}, ms")
        axes.set_ylabel(f"{record['candidates'][0]['metric']['name']}, %")
        write_names(axes, points)
        return figure
