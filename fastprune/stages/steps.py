"""A stage as an orchestrator runs it: tracked in MLflow, and given what passes between stages beside their folders.

The components of Kubeflow and the tasks of Airflow call this and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from fastprune.signals import interruptible
from fastprune.sweep.stages import STAGES
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
    paths = {key: _path(value) for key, value in folders.items()}
    with interruptible(), runs.stage(tracking_uri, run_id, name) as log:
        [stage] = [stage for stage in STAGES if stage.name == name]
        run = getattr(import_module(stage.place), name)  # torch: its seconds are the stage's
        tracked = {"run_id": run_id, "tracking_uri": tracking_uri} if stage.releases else {}
        record = run(**paths, **parameters, **tracked)
        log.record(record)
        if name == "prepare":
            data = parameters["task"]
            runs.log_data(
                tracking_uri,
                run_id,
                record,
                {"sample": data or parameters["train_file"], "evaluation": data or parameters["eval_file"]},
            )
        if name in _SHOWN:
            output, file = _SHOWN[name]
            log.artifacts.append(paths[output] / file)
    return record


_SHOWN = {
    "profile": ("table", "lut.json"),
    "search": ("searched", "masks.safetensors"),
    "rearrange": ("rearranged", "masks.safetensors"),
    "tune": ("tuned", "masks.safetensors"),
}
"""Small files that go into the run of the stage that makes them."""


def _path(value):
    if isinstance(value, list | tuple):
        return [Path(folder) for folder in value]
    return Path(value) if value else None
