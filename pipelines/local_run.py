"""The Kubeflow pipeline of a sweep on this machine, every step in a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
import uuid
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, redirect_stdout, suppress
from pathlib import Path

from kfp import local

from fastprune.errors import InputError, PipelineError
from fastprune.model.card import CARD
from fastprune.pipelines.fork_server import forked_steps
from fastprune.pipelines.kubeflow import define
from fastprune.signals import interruptible
from fastprune.stages.conclude import CONCLUSION
from fastprune.stages.failures import FAILED, MARK, failure_in, told
from fastprune.store.output import check_output, check_place, new_folder
from fastprune.store.partials import partial_folder
from fastprune.sweep.config import Sweep
from fastprune.sweep.release import check_release
from fastprune.tracking import mlflow_store, runs

LOG = "pipeline.log"


def run(
    sweep: Sweep, output_dir: str | Path, *, work_dir: str | Path = ".cache/pipeline", runner: object = None
) -> Path:
    """Run a sweep's pipeline on this machine.

    Parameters
    ----------
    sweep : Sweep
        ``tracking.uri`` is by default ``MLFLOW_TRACKING_URI`` or else a SQLite store in the current folder.
    output_dir : str or Path
        Must not exist. It gets ``pipeline.log`` and, for every model and budget, ``<model>/<budget>/`` with the pruned
        model (``model/``), its export where one is asked for (``onnx/`` or ``openvino/``), ``report.html``,
        ``metrics.json`` and ``README.md`` (the model's card, with its figures), or of one that failed
        ``failed.json``; of several budgets also ``<model>/summary.html``. The only compression of a sweep lies in
        ``output_dir`` itself. Where every compression failed there is nothing.
    work_dir : str or Path
        For what passes between the steps; kept when something fails, else removed. What a killed run left is removed by
        the next one.
    runner : kfp.local runner, optional
        By default steps are processes of this Python (:mod:`pipelines.fork_server`): SIGTERM, SIGINT and whatever else
        ends this process ends the one that runs, and no other begins. Steps of another runner are heard of when KFP
        does.

    Raises
    ------
    InputError
        ``output_dir`` exists or cannot be made, or the policy could promote nothing. Told before any step runs; where
        it cannot be written when all is done, the message says where the result is kept.
    PipelineError
        Something failed: the message names every compression that did, its stage and why.
    """
    output_dir, needed = Path(output_dir), _bytes_of_models(sweep)
    check_output(output_dir, needed)
    check_place(work_dir, needed)
    tracking_uri = sweep.tracking.uri or mlflow_store.tracking_uri()
    check_release(sweep, {**os.environ, "MLFLOW_TRACKING_URI": tracking_uri})
    Path(work_dir).mkdir(parents=True, exist_ok=True)
    # Hidden while it is worked in: what a killed run left there goes with the next one.
    with interruptible(), partial_folder(Path(work_dir).resolve() / "run") as work:
        try:
            outputs = _run_steps(sweep, work, runner, tracking_uri)
        except RuntimeError as error:
            kept = _keep(work)
            raise PipelineError(_explain(error, kept / LOG).replace(str(work), str(kept))) from error
        conclusion = json.loads(Path(outputs[f"conclusion_{len(sweep.models) - 1}"].path, CONCLUSION).read_text())
        problems = told(conclusion)
        if len(conclusion["failed"]) == conclusion["compressions"]:
            kept = _keep(work)  # what a step says of its folders is so of their new name
            raise PipelineError(f"{problems.replace(str(work), str(kept))}\nThe whole log: {kept / LOG}")
        try:
            with new_folder(output_dir) as folder:
                _gather(sweep, outputs, folder, _copy)
                shutil.copy(work / LOG, folder)
        except (OSError, InputError) as error:  # a full disk, or a name that is taken by now
            why = error if isinstance(error, InputError) else f"{output_dir}: cannot be written ({error})"
            with suppress(OSError):  # moving takes no room; where even that fails, all is still below the folder
                _gather(sweep, outputs, work / "result", shutil.move)
            raise InputError(f"{why}; the result is kept in {_keep(work) / 'result'}: move it from there") from error
        if problems:
            kept = _keep(work)
            told_where = f"What did not fail is in {output_dir}; what passed between the steps in {kept}"
            raise PipelineError(f"{problems.replace(str(work), str(kept))}\n{told_where}")
    return output_dir


def _run_steps(sweep: Sweep, work: Path, runner: object, tracking_uri: str) -> dict:
    """Run every step with its folders below ``work``; return the pipeline's outputs. RuntimeError if a step fails."""
    os.environ.setdefault("TQDM_MININTERVAL", "10")  # bars become lines of the log
    temporary = work / "tmp"  # what is left there goes with the run
    temporary.mkdir()
    local.init(runner or local.SubprocessRunner(use_venv=False), pipeline_root=str(work), workspace_root=str(temporary))
    with (
        open(work / LOG, "w", encoding="utf-8") as log,
        redirect_stdout(_Progress(log, sys.stdout)) as progress,
        warnings.catch_warnings(),
    ):
        for message in ("You may be attemping to run a task", ".*have no effect in the current local runner"):
            warnings.filterwarnings("ignore", message=message)
        if runner:
            return _call(sweep, tracking_uri)
        # KFP waits in ways that no signal ends: all steps of a loop run, and then the next ones. So it runs in a
        # thread, and this one hears the signal.
        with forked_steps(temporary) as stop, ThreadPoolExecutor(1) as thread, ExitStack() as at_the_end:
            at_the_end.callback(stop)
            at_the_end.callback(setattr, progress, "screen", log)  # KFP names steps that it would begin now
            return thread.submit(_call, sweep, tracking_uri).result()


def _call(sweep: Sweep, tracking_uri: str) -> dict:
    return define(sweep, fails=False)(tracking_uri=tracking_uri).outputs


def _gather(sweep: Sweep, outputs: dict, folder: Path, put: Callable) -> None:
    """Put the models, reports and metrics of a sweep into a folder, as copies or by moving them."""
    single = len(sweep.models) == len(sweep.budgets) == 1
    for number, model in enumerate(sweep.models):
        made = [outputs[f"{name}_{number}"] for name in ("pruned", "report", "released")]
        exported = outputs.get(f"exported_{number}") or [None] * len(sweep.budgets)
        for budget, pruned, report, released, served in zip(sweep.budgets, *made, exported, strict=True):
            place = folder if single else folder / model.name / budget.label
            place.mkdir(parents=True, exist_ok=True)
            if failure_in(Path(released.path)):
                put(Path(released.path, MARK), place / MARK)
                continue
            put(pruned.path, place / "model")
            if served and sweep.export:
                put(served.path, place / sweep.export.format)
            for file in ("report.html", "metrics.json", CARD):
                put(Path(report.path, file), place / file)
        summary = outputs.get(f"summary_{number}")
        if summary and not failure_in(Path(summary.path)):
            for path in Path(summary.path).iterdir():
                put(path, (folder if single else folder / model.name) / path.name)


def _copy(source: str | Path, target: Path) -> None:
    if Path(source).is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def _bytes_of_models(sweep: Sweep) -> int:
    """What the pruned models of a sweep take at most, as far as their sources are folders here."""
    files = (file for model in sweep.models for file in Path(model.source).glob("*.safetensors"))
    return len(sweep.budgets) * sum(file.stat().st_size for file in files)


def _keep(work: Path) -> Path:
    """Give the folder of a run that failed a name that stays."""
    return work.rename(work.with_name(f"run-{uuid.uuid4().hex[:8]}"))


class _Progress:
    """Stands in for stdout during a local run: everything to a log; to people the steps, and lost tracking."""

    _EVENT = re.compile(r"(Executing task|Task) '([\w-]+)'(?: finished with status (\w+))?$")
    _COLOUR = re.compile(r"\x1b\[\d+m")

    def __init__(self, log, screen):
        self.log, self.screen, self.begin, self.failed = log, screen, 0.0, False

    def write(self, text: str) -> int:
        plain = self._COLOUR.sub("", text)
        self.log.write(plain)
        if event := self._EVENT.search(plain.rstrip()):
            what, step, status = event.groups()
            if what == "Executing task":
                self.begin = time.perf_counter()
                self.screen.write(f"  {step:<18}")
                self.failed = False
            elif status:
                ended = "failed" if self.failed else status.lower()
                self.screen.write(f"{ended:<9}{time.perf_counter() - self.begin:6.1f} s\n")
            self.screen.flush()
        elif FAILED in plain:
            self.failed = True
        elif runs.WITHOUT in plain:
            self.screen.write(f"\n  {plain.strip()}\n  {'':<18}")
        return len(text)

    def flush(self) -> None:
        self.log.flush()


def _explain(error: RuntimeError, log_file: Path) -> str:
    failed = re.search(r"Inner task failed: '([\w-]+)'", _Progress._COLOUR.sub("", str(error)))
    said = [line.rstrip() for line in log_file.read_text(encoding="utf-8").splitlines() if line.strip()]
    last = next((line.strip() for line in reversed(said) if re.match(r"\s*[\w.]*(Error|Exception)\b", line)), "")
    step = f"step {failed.group(1)} failed" if failed else str(error)
    return f"{step}: {last}\nThe whole log: {log_file}"
