"""The stages after the algorithm's: register every compression, sum a model's up, let the policy decide."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from fastprune.errors import InputError
from fastprune.stages.folders import read_json, record_of, write_json
from fastprune.store import storage
from fastprune.tracking import mlflow_store, runs

_log = logging.getLogger(__name__)


def register(
    *, pruned: Path, report: Path, released: Path, model_name: str, run_id: str = "", tracking_uri: str = ""
) -> dict:
    """Log the compression as a whole, register its model, and close its run.

    Parameters
    ----------
    pruned, report : Path
    released : Path
        Output: ``released.json``, with the ``version``; empty where tracking failed, which never fails the stage.
    """
    begin = time.perf_counter()
    metrics = read_json(report / "metrics.json")
    runs.log(tracking_uri, run_id, metrics=metrics, artifacts=sorted(report.glob("*.*")))
    runs.log(tracking_uri, run_id, artifacts=[pruned / "manifest.json"])
    runs.log_curve(tracking_uri, run_id, metrics.get("curve", {}).get("points", []))
    made = {"model_name": model_name, "version": _register(tracking_uri, run_id, pruned, model_name, metrics)}
    runs.end(tracking_uri, run_id)
    with storage.new_folder(released) as folder:
        write_json(folder / "released.json", made)
    return record_of("register", begin, {}, made)


def summarise(
    *,
    report: Sequence[Path],
    released: Sequence[Path],
    summary: Path,
    policy: str = "",
    run_id: str = "",
    tracking_uri: str = "",
) -> dict:
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
    compressions = [
        Compression.of(read_json(one / "metrics.json"), read_json(two / "released.json")["version"])
        for one, two in zip(report, released, strict=True)
    ]
    found = sum_up(compressions, policy)
    with storage.new_folder(summary) as folder:
        write_json(folder / "summary.json", found)
        (folder / "summary.html").write_text(render(found), encoding="utf-8")
        plot(found).savefig(folder / "pareto.png", dpi=150)
    runs.log(tracking_uri, run_id, artifacts=sorted(summary.iterdir()))
    runs.end(tracking_uri, run_id)
    return record_of("summarise", begin, {"compressions": len(compressions)}, {"picked": found["picked"]})


def gate(
    *, summary: Path, verdict: Path, model_name: str, policy: str, run_id: str = "", tracking_uri: str = ""
) -> dict:
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
    made = {"version": version, "promotion": _promote(tracking_uri, run_id, model_name, version, policy)}
    with storage.new_folder(verdict) as folder:
        write_json(folder / "verdict.json", made)
    runs.end(tracking_uri, run_id)
    return record_of("gate", begin, {}, made)


@runs.best_effort("")
def _register(uri: str, run_id: str, model_dir: Path, name: str, metrics: Mapping) -> str:
    """The version, empty where it failed: a registration costs a compression nothing."""
    if not run_id:
        return ""
    from fastprune.releases import registration

    try:
        return registration.register(uri, model_dir, name, metrics, run_id=run_id, by=mlflow_store.user(uri))
    except InputError as error:  # rights: MLflow itself is there, and the run can be ended
        _log.warning("not registered: %s", error)
        return ""


@runs.best_effort("")
def _promote(uri: str, run_id: str, name: str, version: str, policy: str) -> str:
    """``champion``, or why the version was not promoted; empty where MLflow failed."""
    if not version:
        return ""
    from fastprune.releases import promotion
    from fastprune.releases.policy import parse_policy

    try:
        promotion.promote(uri, name, version, parse_policy(policy), why=f"compression {run_id}")
    except InputError as error:  # the policy, another promotion, rights: MLflow itself is there
        _log.warning("%s", error)
        return f"not promoted: {str(error).splitlines()[0]}"
    return promotion.CHAMPION
