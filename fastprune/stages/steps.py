"""A stage as an orchestrator runs it: tracked in MLflow, and given what passes between stages beside their folders.

The components of Kubeflow (:func:`attempt`) and the tasks of Airflow (:func:`run_stage`) call this and nothing else.
"""

from __future__ import annotations

import html
import itertools
import os
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from fastprune.errors import InputError, Unreachable
from fastprune.signals import interruptible
from fastprune.stages.failures import FAILED, KILLED, WAS_KILLED, Failure, failure_in, first_failure, mark
from fastprune.stages.tries import pods_before
from fastprune.sweep.stages import STAGES, Stage
from fastprune.tracking import runs

Folders = Mapping[str, str | Path | Sequence[str | Path] | None]


def open_run(run: Mapping, *, parent: str = "", tracking_uri: str = "", tags: Mapping[str, str] | None = None) -> str:
    """The id of the run that a model, or a budget of it, is tracked in.

    Parameters
    ----------
    run : mapping
        ``name``, ``parameters`` and ``experiment`` of a new run; empty goes on with the parent.
    """
    if not run:
        return parent
    return runs.start(
        tracking_uri, run["name"], run["parameters"], experiment=run["experiment"], parent=parent, tags=tags
    )


def open_run_once(file: str | Path, run: Mapping, **given) -> str:
    """:func:`open_run`, or the run that a try before has left in the file."""
    file = Path(file)
    if not file.is_file():
        file.write_text(open_run(run, **given), encoding="utf-8")
    return file.read_text(encoding="utf-8")


def run_stage(
    name: str, folders: Folders, parameters: Mapping = {}, *, run_id: str = "", tracking_uri: str = ""
) -> dict:
    """Run a stage of :mod:`fastprune.sweep.graph`; return what it has to tell.

    Kubernetes ends a pod by SIGTERM: the stage then removes what it has begun, closes its run and exits with 143.

    Parameters
    ----------
    name : str
    folders : mapping
        The stage's inputs and outputs by name; an input may be a list.
    parameters : mapping
    run_id : str
        From :func:`open_run`, in whichever process; empty tracks nothing.
    """
    paths, stage = {key: _path(value) for key, value in folders.items()}, _stage(name)
    shown = f"{name} {parameters['shard']}" if "shard" in parameters else name  # no two runs of one name
    with interruptible(), runs.stage(tracking_uri, run_id, shown) as log:
        run = getattr(import_module(stage.place), name)  # torch: its seconds are the stage's
        _keep_to_cpu_limit()
        tracked = {"run_id": run_id, "tracking_uri": tracking_uri} if stage.releases else {}
        record = run(**paths, **parameters, **tracked)
        log.record(record)
        if name == "prepare":
            data = parameters["task"]
            runs.log_data(
                tracking_uri,
                run_id,
                record,
                {
                    "sample": data or parameters["train_file"],
                    "evaluation": data or parameters["eval_file"] or parameters["train_file"],
                },
            )
        if name in _SHOWN:
            output, file = _SHOWN[name]
            log.artifacts.append(paths[output] / file)
    return record


def _keep_to_cpu_limit() -> None:
    import torch

    from fastprune.environment import usable_threads

    torch.set_num_threads(usable_threads())


def attempt(
    name: str, folders: Folders, parameters: Mapping = {}, *, run_id: str = "", tracking_uri: str = "", retries: int = 0
) -> dict:
    """:func:`run_stage` as a task that never fails: what goes wrong stands in its outputs.

    A stage one of whose inputs has failed hands that on, unless it is one that is told of failures.

    Parameters
    ----------
    retries : int
        How often to try again, after 30 s, 60 s and so on, what is not the input's fault, a server that is away say;
        and how many killed pods before this one cost no more than time (:mod:`fastprune.stages.tries`).

    Returns
    -------
    dict
        What the stage has to tell; without settings and metrics where it failed.
    """
    begin, stage = time.perf_counter(), _stage(name)
    given = [_path(folders.get(key)) for key in stage.inputs]
    inputs = [folder for one in given for folder in (one if isinstance(one, list) else [one]) if folder]
    failure = None if stage.regardless else first_failure(inputs)
    if not failure and (os.environ.get(KILLED) or pods_before() > retries):
        failure = Failure(name, WAS_KILLED)
        runs.close_killed(tracking_uri, run_id)
    if failure:
        runs.end(tracking_uri, run_id, "FAILED")
    else:
        done = _persist(name, folders, parameters, run_id, tracking_uri, retries)
        if not isinstance(done, Failure):
            return done
        failure = done
    print(f"{FAILED} {failure}", flush=True)
    for key in stage.outputs:
        mark(_path(folders[key]), failure)
    return {"stage": name, "seconds": time.perf_counter() - begin, "settings": {}, "metrics": {}}


def _persist(
    name: str, folders: Folders, parameters: Mapping, run_id: str, tracking_uri: str, retries: int
) -> dict | Failure:
    """What a stage has to tell, tried again where that may help."""
    for tries in itertools.count():
        try:
            return run_stage(name, folders, parameters, run_id=run_id, tracking_uri=tracking_uri)
        except Exception as error:
            traceback.print_exc()
            lasting = isinstance(error, InputError) and not isinstance(error, Unreachable)
            if lasting or tries == retries:
                return Failure.of(name, error)
            time.sleep(30 * 2**tries)
    raise AssertionError("unreachable")


def show(page: str | Path, output: str | Path) -> None:
    """Copy a stage's page to where Kubeflow shows it; of one that failed, what failed."""
    page = Path(page)
    failure = failure_in(page.parent)
    text = html.escape(str(failure)) if failure else page.read_text(encoding="utf-8")
    Path(output).write_text(text, encoding="utf-8")


_SHOWN = {
    "profile": ("table", "lut.json"),
    "search": ("searched", "masks.safetensors"),
    "rearrange": ("rearranged", "masks.safetensors"),
    "tune": ("tuned", "masks.safetensors"),
}
"""Small files that go into the run of the stage that makes them."""


def _stage(name: str) -> Stage:
    [stage] = [stage for stage in STAGES if stage.name == name]
    return stage


def _path(value):
    if isinstance(value, list | tuple):
        return [Path(folder) for folder in value]
    return Path(value) if value else None
