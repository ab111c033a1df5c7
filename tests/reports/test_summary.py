"""The page of a model's compressions: it draws what was decided, and decides nothing."""

import random
import subprocess
import sys
from itertools import combinations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from fastprune.reports import scatter
from fastprune.reports.scatter import Point
from fastprune.reports.summary import forms, plot, plot_forms, render


def compression(macs, pruned, *, on_front=True, refused=(), exported=None, judged=None):
    return {
        "label": f"MACs {macs}",
        "metric": "accuracy",
        "dense": 0.9,
        "pruned": pruned,
        "macs": macs,
        "latency": 0.8,
        "params": 0.7,
        "megabytes": 30.0,
        "version": "",
        "on_front": on_front,
        "refused": list(refused),
        "standard_error": {"dense": 0.01, "pruned": 0.0123, "drop": 0.004},
        "exported": exported,
        "judged": judged or {"form": "PyTorch", "metric": pruned, "error": 0.0123, "latency": 0.8},
    }


def test_the_page_shows_the_front_and_the_pick():
    found = [compression(0.7, 0.9), compression(0.4, 0.87), compression(0.5, 0.8, on_front=False, refused=["too bad"])]
    page = render({"cost": "macs", "picked": 1, "compressions": found, "failed": []})
    assert page.count("<svg") == 2 and page.count('class="picked"') == 1
    assert "87.00 &plusmn; 1.23" in page and "90.00" in page and ">picked</td>" in page and "too bad" in page


def test_a_compression_is_drawn_as_it_is_served():
    int8 = {"form": "onnx int8", "metric": 0.86, "error": 0.02, "latency": 0.1}
    found = [compression(0.7, 0.88), compression(0.4, 0.89, judged=int8)]
    for cost, across in (("macs", [40, 70]), ("latency", [10, 80])):
        summary = {"cost": cost, "picked": None, "compressions": found, "failed": []}
        front = plot(summary).axes[0].lines[0].get_xydata()
        assert sorted(front.tolist()) == [[across[0], 86], [across[1], 88]]
    assert "onnx int8</td>" in (page := render(summary)) and "86.00 &plusmn; 2.00" in page


def test_every_form_is_a_point_and_a_row():
    """The dense model, what is pruned, and what is exported of it, each with its own figures."""
    int8 = {
        "form": "onnx int8",
        "metric": 0.885,
        "error": 0.0111,
        "agreement": 0.97,
        "megabytes": 7.5,
        "latency": 0.125,
    }
    found = {"cost": "macs", "picked": None, "compressions": [compression(0.5, 0.89, exported=int8)], "failed": []}
    assert [(one["form"], one["metric"], one["latency"]) for one in forms(found)] == [
        ("PyTorch", 0.9, 1.0),
        ("PyTorch", 0.89, 0.8),
        ("onnx int8", 0.885, 0.125),
    ]
    drawn = plot_forms(found).axes[0]
    places = [tuple(bar.lines[0].get_xydata()[0]) for bar in drawn.containers]
    assert places == [(100, 90), (80, 89), (12.5, 88.5)]
    assert {name.get_text() for name in drawn.texts} == {"dense", "MACs 0.5", "MACs 0.5 onnx int8"}
    assert "88.50 &plusmn; 1.11</td>" in (page := render(found)) and "12.5</td>" in page and "97.00</td>" in page


def test_names_cover_neither_points_nor_each_other():
    draw, figure = random.Random(0), Figure(figsize=(4.4, 3.4))
    points = [Point(draw.uniform(1, 3), draw.uniform(85, 90), f"model {number}", "#2f6f8f") for number in range(9)]
    axes = figure.subplots()
    scatter.draw(axes, points)
    scatter.write_names(axes, points)
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [Text.get_window_extent(name, renderer) for name in axes.texts]
    marks = axes.transData.transform([(point.across, point.up) for point in points])
    assert len(boxes) == 9 and not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert not any(box.contains(*mark) for box in boxes for mark in marks)


def test_reports_know_nothing_of_releases():
    script = (
        "import sys, fastprune.reports.report, fastprune.reports.summary; "
        "print([name for name in sys.modules if name.startswith('fastprune.releases')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
