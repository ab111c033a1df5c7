"""MLflow: one run per compression, a nested run per stage, the pruned model as a registered version.

mlflow is imported inside functions alone, here and where versions are registered and released: every pipeline step is
a process of its own and most of them start without it. A run is named by a path of ids
(:mod:`fastprune.tracking.operations`), a string that travels between those processes.

Tracking never costs a compression its result, nor more than a stated time (:mod:`fastprune.tracking.deadlines`). Once
a store has failed, whatever the rest of the run has to tell is kept (:mod:`fastprune.tracking.spool`), and sent by the
next run or by ``fastprune sync``.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fastprune.store.secrets import shown
from fastprune.store.storage import sha256_of
from fastprune.tracking import channel, deadlines, mlflow_store, operations, sync

EXPERIMENT = "fastprune"
SAMPLING = 5
"""Seconds between two samples of system metrics."""
PIPELINE_JOB = "kfp.pipeline_job"
"""Tag of a model's run, and of its versions: the run of Kubeflow that made it."""

WITHOUT = channel.WITHOUT

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


def workflow_tags() -> dict[str, str]:
    """The Kubeflow or Airflow run that this process is a step of, from the environment."""
    return {
        name.lower().replace("airflow_ctx_", "airflow.").replace("kfp_", "kfp."): value
        for name, value in sorted(os.environ.items())
        if name in _WORKFLOW and value
    }


def store_of(uri: str) -> str:
    """The store that a URI means: the empty one ``MLFLOW_TRACKING_URI``; where that is not set either, none."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI", "")


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
    the default one. The compressions of a sweep are grouped below the run ``parent``, made by this function too. A
    run without a parent first sends what earlier ones could not, and closes those that were killed.

    Returns
    -------
    str
        The run, as a path of ids; empty where nothing is tracked.
    """
    if not (uri := store_of(uri)):
        return ""
    run = _open(
        uri, name, parent, experiment=experiment, parameters=parameters, tags={**workflow_tags(), **(tags or {})}
    )
    if not parent and not channel.state_of(uri, run).away:
        sync.catch_up(uri, run)
    return run


def _open(
    uri: str, name: str, parent: str, *, experiment: str = "", parameters: Mapping[str, object] = {}, tags: Mapping
) -> str:
    """The path of a new run; empty where it can be neither made nor kept."""
    above, own = f"{parent}." if parent else "", operations.SPOOLED + uuid.uuid4().hex
    run_id = channel.tell(
        uri,
        _operation(
            "start",
            above + own,
            name=name,
            experiment=experiment,
            parameters=_shown(parameters),
            tags={**tags, **operations.owner(model=bool(experiment))},
        ),
    )
    return "" if run_id is None else above + (run_id or own)


def close_killed(uri: str, run: str) -> None:
    """Close the runs whose processes were killed, that of a stage below ``run`` among them."""
    if run and (uri := store_of(uri)):
        channel.attempt(uri, run, "runs of killed processes", lambda: sync.close_orphans(mlflow_store.connect(uri)))


def log(
    uri: str,
    run: str,
    *,
    parameters: Mapping[str, object] = {},
    metrics: Mapping[str, object] = {},
    artifacts: Iterable[str | Path] = (),
    folder: str = "",
    tags: Mapping[str, str] = {},
) -> None:
    """Add to a run: parameters, metrics, tags, and files or folders as artifacts (below ``folder``, if given).

    Of nested metrics the numbers are taken, by dotted name. The SHA-256 of every file becomes a tag.
    """
    if not run or not (uri := store_of(uri)):
        return
    found = [
        (file, file.relative_to(path.parent))
        for path in map(Path, artifacts)
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if not file.is_dir()
    ]
    try:
        digests = {name.as_posix(): sha256_of(file) for file, name in found}
    except OSError as error:
        _log.warning("%s cannot be read (%s); the record lacks this", error.filename, error.strerror)
        found, digests = [], {}
    now = _now()
    channel.tell(
        uri,
        _operation(
            "log",
            run,
            parameters=_shown(parameters),
            metrics=[[name, value, now, 0] for name, value in _numbers(metrics).items()],
            digests=digests,
            tags=dict(tags),
            files=[[str(file), _join(folder, name.parent.as_posix())] for file, name in found],
        ),
    )


def log_data(uri: str, run: str, record: Mapping, sources: Mapping[str, str]) -> None:
    """Add the data sets of a compression, as ``mlflow.data`` has them.

    Parameters
    ----------
    record : mapping
        What :func:`fastprune.stages.prepare.prepare` returned.
    sources : mapping
        Where the rows of ``sample`` and ``evaluation`` are from: a file, an ``s3://`` location or a data set's name.
    """
    if not run or not (uri := store_of(uri)):
        return
    inputs = []
    for name, source in sources.items():
        digest = record["settings"][f"{name}_sha256"]
        profile = {"rows": record["metrics"][f"{name}_size"], "sha256": digest}
        dataset = {
            "name": f"{record['settings']['task']} {name}",
            "digest": digest[:36],  # all that MLflow keeps of it
            "source_type": "s3" if source.startswith("s3://") else "local" if "." in source else "hub",
            "source": json.dumps({"uri": shown(source)}),
            "profile": json.dumps(profile),
        }
        inputs.append({"dataset": dataset, "context": name})
    channel.tell(uri, _operation("data", run, inputs=inputs))


def log_curve(uri: str, run: str, points: Iterable[tuple[float, float]]) -> None:
    """Add ``validation_metric`` by keep ratio, the ratio in thousandths as the step."""
    now = _now()
    metrics = [["validation_metric", metric, now, round(1000 * ratio)] for ratio, metric in points]
    if run and metrics and (uri := store_of(uri)):
        channel.tell(uri, _operation("log", run, metrics=metrics))


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
def stage(uri: str, parent: str, name: str) -> Iterator[StageLog]:
    """Track a stage as a run nested in its compression's run.

    Seconds are measured, if the stage does not tell its own. A stage that raises ends as failed, and so do the runs
    above it, up to the model's; one that is interrupted ends as killed.

    Parameters
    ----------
    uri : str
    parent : str
        What :func:`start` returned, in whichever process; empty tracks nothing.
    name : str
    """
    uri = store_of(uri)
    record, run = StageLog(), _open(uri, name, parent, tags={}) if uri and parent else ""
    monitor = _start_monitor(uri, run)
    begin = time.perf_counter()
    try:
        yield record
    except Exception:
        _stop_monitor(uri, run, monitor)
        for failed in operations.parents_of(run) if run else []:
            end(uri, failed, "FAILED")
        raise
    except BaseException:  # told to stop, with little time
        for killed in operations.parents_of(run) if run else []:
            end(uri, killed, "KILLED", deadlines.INTERRUPTED)
        raise
    metrics = {"seconds": time.perf_counter() - begin} | record.metrics
    _stop_monitor(uri, run, monitor)
    log(uri, run, parameters=record.parameters, metrics=metrics, artifacts=record.artifacts)
    end(uri, run)


def _start_monitor(uri: str, run: str):
    """Processor, memory, disk and network of this machine, sampled into a run (``system/...``)."""
    if not run or run.rpartition(".")[2].startswith(operations.SPOOLED):
        return None
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)

    def begin():
        monitor = SystemMetricsMonitor(run.rpartition(".")[2], sampling_interval=SAMPLING, tracking_uri=uri)
        monitor.start()
        return monitor

    return channel.attempt(uri, run, "system metrics", begin)


def _stop_monitor(uri: str, run: str, monitor) -> None:
    def finish() -> None:
        monitor.finish()
        monitor.collect_metrics()  # a short stage would have none
        monitor.publish_metrics(monitor.aggregate_metrics())
        monitor.mlflow_logger.flush()

    if monitor is not None:
        channel.attempt(uri, run, "system metrics", finish)


def end(uri: str, run: str, status: str = "FINISHED", limit: float | None = None) -> None:
    """Close a run as ``FINISHED``, ``FAILED`` or ``KILLED``, in at most ``limit`` seconds."""
    if run and (uri := store_of(uri)):
        channel.tell(uri, _operation("end", run, status=status), limit)
        if "." not in run:
            channel.settled(uri, run)


def _operation(do: str, run: str, **content) -> dict:
    return {"do": do, "run": run, "at": _now(), **content}


def _now() -> int:
    return int(time.time() * 1000)


def _join(folder: str, below: str) -> str:
    return "/".join(part for part in (folder, below) if part not in ("", "."))


def _shown(parameters: Mapping[str, object]) -> dict[str, str]:
    return {name: shown(value) for name, value in parameters.items()}


def _numbers(values: Mapping, prefix: str = "") -> dict[str, float]:
    """The numbers in nested mappings, by dotted name."""
    numbers: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            numbers |= _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            numbers[f"{prefix}{name}"] = float(value)
    return numbers
