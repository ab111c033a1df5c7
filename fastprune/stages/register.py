"""A compression becomes a version of its registered model."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from fastprune.errors import InputError
from fastprune.stages.folders import read_json, record_of, write_json
from fastprune.store.output import new_folder
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
    with new_folder(released) as folder:
        write_json(folder / "released.json", made)
    return record_of("register", begin, {}, made)


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
