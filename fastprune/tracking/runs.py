"""MLflow: one run per compression, a nested run per stage, the pruned model as a registered version.

mlflow is imported inside functions alone, here and where versions are registered and released: every pipeline step is
a process of its own and most of them start without it. A run is named by its id, a string that travels between those
processes.

Tracking never costs a compression its result: whatever fails is warned about, and to a store that is away nothing more
is sent by this process.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fastprune.errors import InputError
from fastprune.store.secrets import shown
from fastprune.store.storage import sha256_of
from fastprune.tracking import mlflow_store

EXPERIMENT = "fastprune"
SAMPLING = 5
"""Seconds between two samples of system metrics."""
WITHOUT = "going on without tracking"

_WORKFLOW = {
    "KFP_RUN_ID",
    "KFP_POD_NAME",
    "KFP_POD_UID",
    "AIRFLOW_CTX_DAG_ID",
    "AIRFLOW_CTX_DAG_RUN_ID",
    "AIRFLOW_CTX_TASK_ID",
    "AIRFLOW_CTX_TRY_NUMBER",
    "AIRFLOW_CTX_LOGICAL_DATE",
}

_log = logging.getLogger(__name__)
_given_up: set[str] = set()


def workflow_tags() -> dict[str, str]:
    """The Kubeflow or Airflow run that this process is a step of, from the environment."""
    return {
        name.lower().replace("airflow_ctx_", "airflow.").replace("kfp_", "kfp."): value
        for name, value in sorted(os.environ.items())
        if name in _WORKFLOW and value
    }


def best_effort(default, *, vital: bool = False):
    """Decorate a function whose first argument is a tracking URI: on failure warn and return ``default``.

    For whatever a compression must not fail by. An empty URI means ``MLFLOW_TRACKING_URI``; where that is not set
    either, nothing is tracked. A store that is away, or fails at something vital, is given up.
    """

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapper(uri: str, *args, **kwargs):
            uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
            if not uri or uri in _given_up:
                return default
            try:
                return function(uri, *args, **kwargs)
            except InputError:  # a store of this machine that a person must mend
                raise
            except Exception as error:  # whatever a store or a network can raise
                if gives_up := vital or mlflow_store.is_away(error):
                    _given_up.add(uri)
                _log.warning(
                    "MLflow at %s failed (%s: %s); %s",
                    shown(uri),
                    function.__name__.strip("_"),
                    mlflow_store.first_line(error),
                    WITHOUT if gives_up else "the record lacks this",
                )
                return default

        return wrapper

    return decorate


@best_effort("", vital=True)
def start(
    uri: str,
    name: str,
    parameters: Mapping[str, object],
    *,
    experiment: str = EXPERIMENT,
    parent: str = "",
    tags: Mapping[str, str] | None = None,
) -> str:
    """Create the run of one compression, and the experiment if need be.

    Call it once, before any stage runs: of processes that race to create an experiment the losers would log into
    the default one. The compressions of a sweep are grouped below the run ``parent``, made by this function too.

    Returns
    -------
    str
        The run's id; empty when tracking failed, and then the stages do not track either.
    """
    client = mlflow_store.connect(uri, check_version=not parent)
    tags = {**workflow_tags(), **(tags or {})}
    if parent:
        tags["mlflow.parentRunId"] = parent
    run_id = client.create_run(experiment_id(uri, client, experiment), run_name=name, tags=tags).info.run_id
    log(uri, run_id, parameters=parameters)
    return run_id


def experiment_id(uri: str, client, name: str = EXPERIMENT) -> str:
    """The id of an experiment, made or brought back if need be."""
    from mlflow import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=mlflow_store.artifact_location(uri))
        except MlflowException:  # another compression was first
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


@best_effort(None)
def log(
    uri: str,
    run_id: str,
    *,
    parameters: Mapping[str, object] = {},
    metrics: Mapping[str, object] = {},
    artifacts: Iterable[str | Path] = (),
    folder: str | None = None,
) -> None:
    """Add to a run: parameters, metrics, and files or folders as artifacts (below ``folder``, if given).

    Of nested metrics the numbers are taken, by dotted name. The SHA-256 of every file becomes a tag.
    """
    if not run_id:
        return
    from mlflow.entities import Metric, Param, RunTag

    client, now, paths = (mlflow_store.connect(uri), int(time.time() * 1000), [Path(path) for path in artifacts])
    digests = {
        file.relative_to(path.parent): sha256_of(file)
        for path in paths
        for file in (path.rglob("*") if path.is_dir() else [path])
        if not file.is_dir()
    }
    client.log_batch(
        run_id,
        params=[Param(name, str(value)) for name, value in parameters.items()],
        metrics=[Metric(name, value, now, 0) for name, value in _numbers(metrics).items()],
        tags=[RunTag(f"sha256.{name}", digest) for name, digest in digests.items()],
    )
    for path in paths:
        if path.is_dir():
            client.log_artifacts(run_id, str(path), "/".join(filter(None, (folder, path.name))))
        else:
            client.log_artifact(run_id, str(path), folder)


@best_effort(None)
def log_data(uri: str, run_id: str, record: Mapping, sources: Mapping[str, str]) -> None:
    """Add the data sets of a compression, as ``mlflow.data`` has them.

    Parameters
    ----------
    record : mapping
        What :func:`fastprune.stages.prepare.prepare` returned.
    sources : mapping
        Where the rows of ``sample`` and ``evaluation`` are from: a file, an ``s3://`` location or a data set's name.
    """
    if not run_id:
        return
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for name, source in sources.items():
        digest = record["settings"][f"{name}_sha256"]
        profile = {"rows": record["metrics"][f"{name}_size"], "sha256": digest}
        data = Dataset(
            name=f"{record['settings']['task']} {name}",
            digest=digest[:36],  # all that MLflow keeps of it
            source_type="s3" if source.startswith("s3://") else "local" if "." in source else "hub",
            source=json.dumps({"uri": source}),
            profile=json.dumps(profile),
        )
        inputs.append(DatasetInput(data, [InputTag("mlflow.data.context", name)]))
    mlflow_store.connect(uri).log_inputs(run_id, inputs)


@best_effort(None)
def log_curve(uri: str, run_id: str, points: Iterable[tuple[float, float]]) -> None:
    """Add ``validation_metric`` by keep ratio, the ratio in thousandths as the step."""
    if run_id and (points := list(points)):
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        mlflow_store.connect(uri).log_batch(
            run_id, metrics=[Metric("validation_metric", metric, now, round(1000 * ratio)) for ratio, metric in points]
        )


@dataclass
class StageLog:
    """What a stage has to tell; sent to its run when the stage ends."""

    parameters: dict[str, object] = field(default_factory=dict)
    metrics: dict[str, object] = field(default_factory=dict)
    artifacts: list[str | Path] = field(default_factory=list)

    def record(self, record: Mapping) -> None:
        """Take over what a stage of :mod:`fastprune.stages` returned."""
        self.parameters |= record["settings"]
        self.metrics |= record["metrics"] | {"seconds": record["seconds"]}


@contextmanager
def stage(uri: str, parent_id: str, name: str) -> Iterator[StageLog]:
    """Track a stage as a run nested in its compression's run.

    Seconds are measured, if the stage does not tell its own. A stage that raises ends as failed, and so does its
    compression.

    Parameters
    ----------
    uri : str
    parent_id : str
        What :func:`start` returned, in whichever process; empty tracks nothing.
    name : str
    """
    record, run_id = StageLog(), _start_child(uri, parent_id, name)
    monitor = _start_monitor(uri, run_id)
    begin = time.perf_counter()
    try:
        yield record
    except BaseException:
        _stop_monitor(uri, monitor)
        end(uri, run_id, "FAILED")
        end(uri, parent_id, "FAILED")
        raise
    metrics = {"seconds": time.perf_counter() - begin} | record.metrics
    _stop_monitor(uri, monitor)
    log(uri, run_id, parameters=record.parameters, metrics=metrics, artifacts=record.artifacts)
    end(uri, run_id)


@best_effort("")
def _start_child(uri: str, parent_id: str, name: str) -> str:
    if not parent_id:
        return ""
    client = mlflow_store.connect(uri)
    experiment_id = client.get_run(parent_id).info.experiment_id
    return client.create_run(experiment_id, run_name=name, tags={"mlflow.parentRunId": parent_id}).info.run_id


@best_effort(None)
def _start_monitor(uri: str, run_id: str):
    """Processor, memory, disk and network of this machine, sampled into a run (``system/...``)."""
    if not run_id:
        return None
    mlflow_store.connect(uri)
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
    monitor = SystemMetricsMonitor(run_id, sampling_interval=SAMPLING, tracking_uri=uri)
    monitor.start()
    return monitor


@best_effort(None)
def _stop_monitor(uri: str, monitor) -> None:
    if monitor is not None:
        monitor.finish()
        monitor.collect_metrics()  # a short stage would have none
        monitor.publish_metrics(monitor.aggregate_metrics())
        monitor.mlflow_logger.flush()


@best_effort(None)
def end(uri: str, run_id: str, status: str = "FINISHED") -> None:
    """Close a run as ``FINISHED`` or ``FAILED``."""
    if run_id:
        mlflow_store.connect(uri).set_terminated(run_id, status)


def _numbers(values: Mapping, prefix: str = "") -> dict[str, float]:
    """The numbers in nested mappings, by dotted name."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            found[f"{prefix}{name}"] = float(value)
    return found
