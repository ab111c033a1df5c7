"""The stages after the algorithm's: register every compression, sum a model's up, let the policy decide."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from fastprune import checkpoint, tracking
from fastprune.stages.folders import read_json, record_of, write_json


def register(*, pruned: Path, report: Path, released: Path, model_name: str, run_id: str = "",
             tracking_uri: str = "") -> dict:
    """Log the compression as a whole, register its model, and close its run.

    Parameters
    ----------
    pruned, report : Path
    released : Path
        Output: ``released.json``, with the ``version``; empty where tracking failed, which never fails the stage.
    """
    begin = time.perf_counter()
    metrics = read_json(report / "metrics.json")
    made = {"model_name": model_name,
            "version": tracking.finish(tracking_uri, run_id, report, pruned, metrics, model_name)}
    with checkpoint.new_folder(released) as folder:
        write_json(folder / "released.json", made)
    return record_of("register", begin, {}, made)


def summarise(*, report: Sequence[Path], released: Sequence[Path], summary: Path, policy: str = "", run_id: str = "",
              tracking_uri: str = "") -> dict:
    """Hold a model's compressions against each other and against the policy.

    Parameters
    ----------
    report, released : sequence of Path
        Of every budget, in the same order.
    summary : Path
        Output: ``summary.json``, ``summary.html`` and ``pareto.png``.
    """
    from fastprune.reports.summary import Compression, plot, render, sum_up  # matplotlib

    begin = time.perf_counter()
    compressions = [Compression.of(read_json(one / "metrics.json"), read_json(two / "released.json")["version"])
                    for one, two in zip(report, released, strict=True)]
    found = sum_up(compressions, policy)
    with checkpoint.new_folder(summary) as folder:
        write_json(folder / "summary.json", found)
        (folder / "summary.html").write_text(render(found), encoding="utf-8")
        plot(found).savefig(folder / "pareto.png", dpi=150)
    tracking.log(tracking_uri, run_id, artifacts=sorted(summary.iterdir()))
    tracking.end(tracking_uri, run_id)
    return record_of("summarise", begin, {"compressions": len(compressions)}, {"picked": found["picked"]})


def gate(*, summary: Path, verdict: Path, model_name: str, policy: str, run_id: str = "",
         tracking_uri: str = "") -> dict:
    """Promote the compression that the summary picked, if the whole policy accepts it.

    Parameters
    ----------
    summary : Path
    verdict : Path
        Output: ``verdict.json``, with ``version`` and ``promotion``: ``champion``, or why not.
    """
    begin = time.perf_counter()
    found = read_json(summary / "summary.json")
    version = found["compressions"][found["picked"]]["version"]
    made = {"version": version, "promotion": tracking.promote(tracking_uri, run_id, model_name, version, policy)}
    with checkpoint.new_folder(verdict) as folder:
        write_json(folder / "verdict.json", made)
    tracking.end(tracking_uri, run_id)
    return record_of("gate", begin, {}, made)
