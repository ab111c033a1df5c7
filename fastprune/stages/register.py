"""A compression becomes a version of its registered model."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from fastprune.errors import InputError, with_remedy
from fastprune.stages.folders import SERVED, read_json, record_of, served_by, write_json
from fastprune.store.output import new_folder
from fastprune.tracking import channel, mlflow_store, runs, sync

_log = logging.getLogger(__name__)


def register(
    *,
    evaluation: Path,
    pruned: Path,
    report: Path,
    released: Path,
    exported: Path | None = None,
    model_name: str,
    tags: Mapping[str, str] = {},
    run_id: str = "",
    tracking_uri: str = "",
) -> dict:
    """Log the compression as a whole, register its model, and close its run.

    Parameters
    ----------
    evaluation, pruned, report : Path
        What the rows of the evaluation are served must be what they were evaluated as.
    exported : Path, optional
        What the version serves, where that is a model for ONNX Runtime.
    released : Path
        Output: ``released.json``, with the ``version``; empty where no MLflow is named at all.
    tags : mapping
        Of the version (``release.tags``).

    Raises
    ------
    InputError
        It could not be registered. The message says why, where the pruned model lies, and what to do.
    """
    begin = time.perf_counter()
    metrics = read_json(report / "metrics.json")
    runs.log(tracking_uri, run_id, metrics=metrics, artifacts=sorted(report.glob("*.*")))
    runs.log(tracking_uri, run_id, artifacts=[pruned / "manifest.json"])
    runs.log_curve(tracking_uri, run_id, metrics.get("curve", {}).get("points", []))
    version = ""
    if uri := runs.store_of(tracking_uri):
        served = served_by(exported)
        version = _register(uri, run_id, evaluation, pruned, served, report, model_name, metrics, tags)
    else:
        _log.warning("not registered: no MLflow is named; set MLFLOW_TRACKING_URI, or tracking.uri of the sweep")
    runs.end(tracking_uri, run_id)
    made = {"model_name": model_name, "version": version}
    with new_folder(released) as folder:
        write_json(folder / "released.json", made)
    return record_of("register", begin, {}, made)


def _register(
    uri: str,
    run: str,
    evaluation: Path,
    pruned: Path,
    exported: Path | None,
    report: Path,
    name: str,
    metrics: Mapping,
    tags: Mapping[str, str],
) -> str:
    from fastprune.releases import registration

    try:
        run_id = sync.settle(uri, run)
        return registration.register(
            uri,
            pruned,
            name,
            metrics,
            run_id=run_id,
            by=mlflow_store.user(uri),
            tags=tags,
            rows=read_json(evaluation / SERVED)["texts"],
            measured=report,
            exported=exported,
        )
    except InputError as error:
        channel.give_up(uri, run, error.__cause__)
        raise with_remedy(
            error,
            f"not registered as {name}; the pruned model is whole in {pruned}: when that is mended, run this "
            f"step again, or `fastprune register {pruned}{f' --serve {exported}' if exported else ''} --name {name} "
            f"--metrics {report / 'metrics.json'}`",
        ) from error
