"""What is done to a run of MLflow, as documents: sent at once, or kept and sent later.

Each may be sent twice and is done once: a run has a key of ours among its tags and is found by it, and what is logged
again is the same.

A run is named by a path of ids, from the model's run down to it (``MODEL.BUDGET.STAGE``): a string that travels
between the processes of a pipeline. An id is MLflow's, or ``spooled-KEY`` where MLflow has not made the run yet.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress

from fastprune.tracking import deadlines, mlflow_store

SPOOLED = "spooled-"
KEY, HOST, PROCESS = "fastprune.key", "fastprune.host", "fastprune.process"
"""Tags of a run of ours: what it is found by, and the machine and process that it lives with."""
MONITORED = "system/cpu_utilization_percentage"


class NoSuchRun(LookupError):
    """No run of MLflow has this key, and none of the operations that are kept makes one."""


def family_of(run: str) -> str:
    """The model's run that a run is below, or is."""
    return run.split(".")[0]


def parents_of(run: str) -> list[str]:
    """A run and those above it, upwards."""
    ids = run.split(".")
    return [".".join(ids[:count]) for count in range(len(ids), 0, -1)]


def send(uri: str, operation: dict, again: bool = False) -> str:
    """Do an operation; return MLflow's id of its run.

    Parameters
    ----------
    uri : str
    operation : dict
        ``do`` (``start``, ``log``, ``data`` or ``end``), ``run``, ``at`` (milliseconds), and what these take.
    again : bool
        It may have been done before.
    """
    client = mlflow_store.connect(uri, check_version=operation["do"] == "start" and "." not in operation["run"])
    if operation["do"] == "start":
        run_id = _start(uri, client, operation, again)
    else:
        run_id = resolve(client, operation["run"])
        _DONE[operation["do"]](client, run_id, operation)
    return run_id


def resolve(client, run: str) -> str:
    """MLflow's id of a run."""
    run_id = run.rpartition(".")[2]
    if not run_id.startswith(SPOOLED):
        return run_id
    found = find(client, run_id.removeprefix(SPOOLED))
    if not found:
        raise NoSuchRun(f"MLflow has no run {run_id}")
    return found


def find(client, key: str) -> str:
    """The run that has a key; empty if there is none."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments(max_results=1000)]
    return next(iter(_with_key(client, key, experiments)), "")


def experiment_id(uri: str, client, name: str) -> str:
    """The id of an experiment, made or brought back if need be."""
    from mlflow import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, artifact_location=mlflow_store.artifact_location(uri))
        except MlflowException:  # another compression was first
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return experiment.experiment_id


def _start(uri: str, client, operation: dict, again: bool) -> str:
    above, _, own = operation["run"].rpartition(".")
    key, tags = own.removeprefix(SPOOLED), dict(operation["tags"])
    run_id = find(client, key) if again else ""
    if not run_id:
        if above:
            tags["mlflow.parentRunId"] = resolve(client, above)
        experiment = (
            client.get_run(tags["mlflow.parentRunId"]).info.experiment_id
            if above and not operation["experiment"]
            else experiment_id(uri, client, operation["experiment"])
        )
        run_id = client.create_run(
            experiment, start_time=operation["at"], run_name=operation["name"], tags=tags | {KEY: key}
        ).info.run_id
    if again or uri.startswith("http"):
        _leave_one(client, key, run_id)
    if operation["parameters"]:
        _log(client, run_id, operation)
    return run_id


def _leave_one(client, key: str, own: str) -> None:
    """Leave one run of a key: where an answer is lost, MLflow's client makes another.

    A try that was given up may also come through while the next is made. Each looks after it has made its own, so that
    at least one of them sees both, and it is the late one that gives way.
    """
    from mlflow import MlflowException

    others = [run_id for run_id in _with_key(client, key, [client.get_run(own).info.experiment_id]) if run_id != own]
    if others and deadlines.is_late():
        client.delete_run(own)
        raise NoSuchRun(f"run {others[0]} was made meanwhile")
    for other in others:
        with suppress(MlflowException):  # it has given way itself
            client.delete_run(other)


def _with_key(client, key: str, experiments: list[str]) -> list[str]:
    return [run.info.run_id for run in client.search_runs(experiments, f"tags.`{KEY}` = '{key}'")]


def _log(client, run_id: str, operation: dict) -> None:
    from mlflow.entities import Metric, Param, RunTag

    client.log_batch(
        run_id,
        params=[Param(name, value) for name, value in operation.get("parameters", {}).items()],
        metrics=[Metric(*metric) for metric in operation.get("metrics", [])],
        tags=[
            *(RunTag(f"sha256.{name}", digest) for name, digest in operation.get("digests", {}).items()),
            *(RunTag(name, value) for name, value in operation.get("tags", {}).items()),
        ],
    )
    for file, folder in operation.get("files", []):
        client.log_artifact(run_id, str(file), folder or None)


def _log_data(client, run_id: str, operation: dict) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    client.log_inputs(
        run_id,
        [
            DatasetInput(Dataset(**given["dataset"]), [InputTag("mlflow.data.context", given["context"])])
            for given in operation["inputs"]
        ],
    )


def _end(client, run_id: str, operation: dict) -> None:
    client.set_terminated(run_id, operation["status"], operation["at"])


_DONE = {"log": _log, "data": _log_data, "end": _end}


def machine() -> str:
    """This machine, and on it the space of process numbers: a container has its own."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = sys.platform
    return f"{socket.gethostname()} {space}"


def owner(model: bool) -> dict[str, str]:
    """The tags that say with which process a run lives; empty where nothing here does.

    Parameters
    ----------
    model : bool
        Whether it is the run of a model or a budget: it outlives the step that opens it, and ends with the process
        that a local pipeline forks its steps from. A stage's ends with this process.
    """
    import psutil

    process = psutil.Process()
    if model:
        steps = [above for above in process.parents() if _forks_steps(above)]
        if not steps:
            return {}
        process = steps[0]
    return {HOST: machine(), PROCESS: f"{process.pid} {process.create_time():.2f}"}


def is_alive(process: str) -> bool:
    """Whether a process of this machine, as :func:`owner` writes it, still runs."""
    import psutil

    pid, _, made = process.partition(" ")
    try:
        found = psutil.Process(int(pid))
        same = abs(found.create_time() - float(made)) < 2  # clocks are set
        return same and found.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _forks_steps(process) -> bool:
    import psutil

    try:
        return "fastprune.pipelines.fork_server" in process.cmdline()
    except psutil.Error:
        return False
