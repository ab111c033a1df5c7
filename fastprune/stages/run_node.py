"""One task of a sweep, its folders by URI: what Airflow's tasks and pods call as ``fastprune stage``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from fastprune.errors import InputError
from fastprune.stages import steps
from fastprune.stages.failures import MARK, Failure, mark
from fastprune.store import copies, s3, storage
from fastprune.store.partials import partial_folder
from fastprune.sweep.config import Sweep
from fastprune.sweep.graph import Node, nodes, parameters, run_of
from fastprune.sweep.stages import CONCLUDES
from fastprune.tracking import spool

RUN_ID = "run_id"
"""Beside the folders of a node that opened an MLflow run."""


def find_node(sweep: Sweep, name: str) -> Node:
    """The task of that name.

    Raises
    ------
    InputError
        There is none; the message lists them.
    """
    known = {node.name: node for node in nodes(sweep)}
    if name not in known:
        raise InputError(f"{sweep.name} has no task {name!r}; it has {', '.join(known)}")
    return known[name]


def run_node(sweep: Sweep, node: Node, root: str | Path, *, tags: Mapping[str, str] | None = None) -> dict:
    """Run one task, after those that it waits for; return what its stage has to tell.

    Parameters
    ----------
    sweep : Sweep
    node : Node
    root : str or Path
        A folder or ``s3://`` prefix of this run of the sweep alone; a task's outputs lie in ``<root>/<task>/<output>``.
        What is there from a try before is taken if it is whole, and refused if it was made from something else. While
        a task runs, and when it has failed, ``failed.json`` lies beside its outputs.
    tags : mapping
        For the MLflow run of the model.

    Raises
    ------
    InputError
        There is no root, an input is missing or of something else, or the stage refuses it.
    PipelineError
        The conclusion of the last model, where something has failed.
    """
    if not str(root).strip():  # else it would be the root of this machine's file system
        raise InputError("--root is empty; name the folder or s3:// prefix of this run of the sweep")
    store = storage.open_store(f"{root}/{node.name}")
    _note(store, Failure(node.stage.name, "did not end: it was killed, perhaps for its memory or its time"))
    try:
        record = _run(sweep, node, root, tags)
    except Exception as error:
        _note(store, Failure.of(node.stage.name, error))
        raise
    store.delete(MARK)
    return record


def _note(store: storage.Store, failure: Failure) -> None:
    store.delete(MARK)
    store.create(MARK, failure.content)


def _run(sweep: Sweep, node: Node, root: str | Path, tags: Mapping[str, str] | None) -> dict:
    root, uri = str(root), sweep.tracking.uri
    given = parameters(sweep, node.model, node.stage) | ({} if node.shard is None else {"shard": node.shard})
    if node.stage.name == "budget" and node.budget is not None:
        given |= node.budget.settings
    with partial_folder(Path(tempfile.gettempdir(), "fastprune")) as work:
        remote = s3.is_s3(root)
        place = work if remote else Path(root, node.name)
        fetch = partial(_result_or_failure, sweep, work) if node.stage.regardless else _result
        inputs = {
            name: [fetch(root, maker, output) for maker, output in makers] for name, makers in node.inputs.items()
        }
        folders = {name: found if name in node.stage.lists else found[0] for name, found in inputs.items()}
        folders |= {name: place / name for name in node.stage.outputs}
        if node.stage.releases or node.stage.regardless:  # a second try does so again
            for output in node.stage.outputs:
                shutil.rmtree(place / output, ignore_errors=True)
        with spool.below(root):
            run_id = _run_id(sweep, node, root, tags)
            record = steps.run_stage(node.stage.name, folders, given, run_id=run_id, tracking_uri=uri)
        if remote:
            store = storage.open_store(f"{root}/{node.name}")
            for output in node.stage.outputs:
                files = sorted(file for file in (place / output).rglob("*") if file.is_file())
                for file in files:
                    store.upload(file, str(file.relative_to(place)), storage.sha256_of(file))
    return record


def _result(root: str, maker: str, output: str) -> str | Path:
    return copies.local(f"{root}/{maker}/{output}")


def _result_or_failure(sweep: Sweep, work: Path, root: str, maker: str, output: str) -> str | Path:
    """What a task has made; where it has not, a folder that says which task failed."""
    store = storage.open_store(f"{root}/{maker}")
    if store.keys(f"{output}/") and store.read(MARK) is None:
        return _result(root, maker, output)
    folder = work / f"{maker}-{output}"
    mark(folder, _what_failed(sweep, root, maker))
    return folder


def _what_failed(sweep: Sweep, root: str, task: str) -> Failure:
    """Why a task has no result: the first failure among those that it waits for, and itself."""
    known = {node.name: node for node in nodes(sweep)}
    wanted = {task}
    for name in reversed(known):
        wanted |= set(known[name].after) if name in wanted else set()
    # The conclusion of another model is not one of this model's failures.
    own = [name for name, node in known.items() if name in wanted and node.model == known[task].model]
    for name in own:
        if failure := Failure.parse(storage.open_store(f"{root}/{name}").read(MARK)):
            return failure
    return Failure(known[task].stage.name, "has not run")


def _run_id(sweep: Sweep, node: Node, root: str, tags: Mapping[str, str] | None) -> str:
    """The MLflow run of this task's model or budget; opened by the first task of either, once.

    The conclusion is of no one model, and has none.
    """
    if node.stage.name == CONCLUDES:
        return ""
    if node.stage.name == "prepare":
        return _opened(root, node.name, sweep, run_of(sweep, node.model), "", tags)
    parent = _read(root, f"prepare-{node.model.name}")
    if node.budget is None or len(sweep.budgets) == 1:
        return parent
    first = f"budget-{node.model.name}-{node.budget.label}"
    if node.stage.name == "budget":
        return _opened(root, first, sweep, run_of(sweep, node.model, node.budget), parent, None)
    return _read(root, first)


def _opened(root: str, name: str, sweep: Sweep, run: dict, parent: str, tags: Mapping[str, str] | None) -> str:
    store = storage.open_store(f"{root}/{name}")
    if (known := store.read(RUN_ID)) is not None:  # a second try
        return known.decode()
    opened = steps.open_run(run, parent=parent, tracking_uri=sweep.tracking.uri, tags=tags)
    store.create(RUN_ID, opened.encode())
    return opened


def _read(root: str, name: str) -> str:
    return (storage.open_store(f"{root}/{name}").read(RUN_ID) or b"").decode()
