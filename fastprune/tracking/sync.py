"""Sending what is kept, and closing runs whose process is gone: by the next run, or by ``fastprune sync``."""

from __future__ import annotations

import logging
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fastprune.store.secrets import shown
from fastprune.tracking import channel, deadlines, mlflow_store, operations
from fastprune.tracking.spool import Spool

SILENT = 600.0
"""Seconds without a sample of system metrics after which a stage on another machine is taken for dead."""
ABANDONED = 86400.0
"""Seconds without a sign of life after which any run is: a step may wait in a queue for long."""

_log = logging.getLogger(__name__)


@dataclass
class Sent:
    """What came of it: how many operations of how many runs were sent, the runs closed, and what is left and why."""

    operations: int = 0
    runs: int = 0
    closed: list[str] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)


def catch_up(uri: str, run: str) -> None:
    """Send what earlier runs could not, and close those that were killed, within the time of a run that has begun."""

    def both() -> Sent:
        sent = send_kept(uri, Spool.open(), wait=False)
        sent.closed = close_orphans(mlflow_store.connect(uri))
        return sent

    sent = channel.attempt(uri, run, "what earlier runs have left", both)
    if sent and (sent.operations or sent.closed):
        _log.warning("MLflow at %s: %s", shown(uri), told(sent))


def told(sent: Sent) -> str:
    """What came of it, in words."""
    text = f"sent {sent.operations} operations of {sent.runs} runs that were kept"
    if sent.closed:
        text += f"; closed as killed, their processes being gone: {', '.join(sent.closed)}"
    for reason, count in sent.left.items():
        text += f"; left {count}: {reason}"
    return text


def settle(uri: str, run: str) -> str:
    """MLflow's id of a run, with all sent that is kept of its model; empty where nothing of it can be found.

    Raises
    ------
    InputError
        MLflow is out of reach, or refuses.
    """
    if not run:
        return ""
    family, state = operations.family_of(run), channel.state_of(uri, run)
    seconds = max(deadlines.probe(), min(deadlines.operation(), deadlines.run() - state.spent))
    spool = Spool.open()

    def both() -> str:
        if spool.keys(family):
            send_kept(uri, spool, [family])
        return operations.resolve(mlflow_store.connect(uri), run)

    import mlflow.tracking  # noqa: F401  # its seconds are not the store's

    try:
        with mlflow_store.explained(uri):
            settled = deadlines.within(seconds, both)
    except operations.NoSuchRun:  # kept on a disk that this step does not see
        return ""
    channel.forget(family)
    return settled


def send_kept(uri: str, spool: Spool, families: Iterable[str] | None = None, *, wait: bool = True) -> Sent:
    """Send the operations of a spool that are this store's, in their order, each once.

    Raises whatever says that the store is out of reach, or does not let this user in; what it refuses for another
    reason stays below ``refused``, and is told.

    Parameters
    ----------
    uri : str
    spool : Spool
    families : iterable of str, optional
        Only of these models' runs.
    wait : bool
        For another process that sends it; else leave it to that one.
    """
    sent = Sent()
    while spool.families():
        with spool.alone() as alone:
            if alone:
                kept = spool.families()
                for family in kept if families is None else families:
                    _send_family(uri, spool, family, sent)
                return sent
        if not wait:
            return sent
        time.sleep(0.2)
    return sent


def _send_family(uri: str, spool: Spool, family: str, sent: Sent) -> None:
    kept = [(key, operation) for key in spool.keys(family) if (operation := spool.read(key))]
    runs, left = set(), 0
    for key, operation in sorted(kept, key=lambda pair: (pair[1]["do"] != "start", pair[1]["at"])):
        if operation["store"] != shown(uri):
            sent.left[f"they are of MLflow at {operation['store']}; name it with --tracking-uri"] += 1
            left += 1
            continue
        try:
            with tempfile.TemporaryDirectory() as folder:
                operation["files"] = _fetch(spool, operation.get("files", []), Path(folder))
                operations.send(uri, operation, again=True)
        except operations.NoSuchRun as error:
            sent.left[f"{error}; sync the spool that its start is kept in first"] += 1
            left += 1
            continue
        except Exception as error:
            if mlflow_store.is_away(error) or mlflow_store.status_of(error) in (401, 403):
                raise
            reason = mlflow_store.first_line(error)
            spool.refuse(key, operation, reason)
            sent.left[f"refused ({reason}), see {spool.place}/refused"] += 1
        spool.delete(key)
        sent.operations += 1
        runs.add(operation["run"])
    sent.runs += len(runs)
    if not left:
        spool.clear(family)
        channel.forget(family)


def _fetch(spool: Spool, files: list, folder: Path) -> list:
    fetched = []
    for number, (key, artifact_folder) in enumerate(files):
        file = folder / str(number) / Path(key).name
        file.parent.mkdir()
        if spool.download(key, file):
            fetched.append([str(file), artifact_folder])
    return fetched


def close_orphans(client) -> list[str]:
    """Close as ``KILLED`` the runs of ours whose process is gone; return their names.

    On this machine that is known at once. A run of another machine, or one that no process here belongs to, is closed
    when it has given no sign of life for long: a stage is sampled every few seconds, and a model's or a budget's run
    lives as long as the runs below it.
    """
    experiments, token, running = [one.experiment_id for one in client.search_experiments(max_results=1000)], None, []
    while True:
        page = client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=1000, page_token=token)
        running += [run for run in page if operations.KEY in run.data.tags]
        if not (token := page.token):
            break
    closed = []
    for run in running:
        if _is_gone(client, run):
            client.set_tag(run.info.run_id, "fastprune.closed", "its process is gone")
            client.set_terminated(run.info.run_id, "KILLED", int(_last_sign(client, run) * 1000))
            closed.append(run.info.run_name)
    return closed


def _is_gone(client, run) -> bool:
    tags = run.data.tags
    if tags.get(operations.HOST) == operations.machine():
        return not operations.is_alive(tags[operations.PROCESS])
    dead = time.time() - (SILENT if operations.MONITORED in run.data.metrics else ABANDONED)
    return run.info.start_time / 1000 < dead and _last_sign(client, run) < dead


def _last_sign(client, run) -> float:
    """When a run, or one below it, was last seen alive: seconds since 1970."""
    seen = [run.info.start_time, run.info.end_time or 0]
    if operations.MONITORED in run.data.metrics:
        seen += [metric.timestamp for metric in client.get_metric_history(run.info.run_id, operations.MONITORED)]
    below = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    return max([max(seen) / 1000, *(_last_sign(client, one) for one in below)])
