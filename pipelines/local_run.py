"""The Kubeflow pipeline of a sweep on this machine, every step in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

from kfp import local

from fastprune.errors import PipelineError
from fastprune.pipelines.fork_server import forked_steps
from fastprune.pipelines.kubeflow import define
from fastprune.store.output import check_absent, new_folder
from fastprune.sweep.config import Sweep
from fastprune.tracking import mlflow_store, runs


def run(
    sweep: Sweep, output_dir: str | Path, *, work_dir: str | Path = ".cache/pipeline", runner: object = None
) -> Path:
    """Run a sweep's pipeline on this machine.

    Parameters
    ----------
    sweep : Sweep
        ``tracking.uri`` is by default ``MLFLOW_TRACKING_URI`` or else a SQLite store in the current folder.
    output_dir : str or Path
        Must not exist. When the whole pipeline has succeeded it gets ``pipeline.log`` and, for every model and budget,
        ``<model>/<budget>/`` with the pruned model (``model/``), ``report.html`` and ``metrics.json``; of several
        budgets also ``<model>/summary.html``. The only compression of a sweep lies in ``output_dir`` itself.
    work_dir : str or Path
        For what passes between the steps; kept when a step fails, else removed.
    runner : kfp.local runner, optional
        By default steps are processes of this Python (:mod:`pipelines.fork_server`).

    Raises
    ------
    InputError
        ``output_dir`` exists.
    PipelineError
        A step failed.
    """
    output_dir = Path(output_dir)
    check_absent(output_dir)
    Path(work_dir).mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="run-", dir=work_dir)).resolve()
    log_file = work / "pipeline.log"
    os.environ.setdefault("TQDM_MININTERVAL", "10")  # bars become lines of the log
    local.init(runner or local.SubprocessRunner(use_venv=False), pipeline_root=str(work))
    with (
        nullcontext() if runner else forked_steps(),
        open(log_file, "w", encoding="utf-8") as log,
        redirect_stdout(_Progress(log, sys.stdout)),
    ):
        try:
            with warnings.catch_warnings():
                for told in ("You may be attemping to run a task", ".*have no effect in the current local runner"):
                    warnings.filterwarnings("ignore", message=told)
                outputs = define(sweep)(tracking_uri=sweep.tracking.uri or mlflow_store.tracking_uri()).outputs
        except RuntimeError as error:
            raise PipelineError(_explain(error, log_file)) from error
    with new_folder(output_dir) as folder:
        for number, model in enumerate(sweep.models):
            made = [outputs[f"{name}_{number}"] for name in ("pruned", "report")]
            for budget, pruned, report in zip(sweep.budgets, *made, strict=True):
                single = len(sweep.models) == len(sweep.budgets) == 1
                place = folder if single else folder / model.name / budget.label
                place.mkdir(parents=True, exist_ok=True)
                shutil.copytree(pruned.path, place / "model")
                for file in ("report.html", "metrics.json"):
                    shutil.copy(Path(report.path, file), place)
            if summary := outputs.get(f"summary_{number}"):
                shutil.copytree(summary.path, folder if single else folder / model.name, dirs_exist_ok=True)
        shutil.copy(log_file, folder)
    shutil.rmtree(work)
    return output_dir


class _Progress:
    """Stands in for stdout during a local run: everything to a log; to people the steps, and lost tracking."""

    _EVENT = re.compile(r"(Executing task|Task) '([\w-]+)'(?: finished with status (\w+))?$")
    _COLOUR = re.compile(r"\x1b\[\d+m")

    def __init__(self, log, screen):
        self.log, self.screen, self.begin = log, screen, 0.0

    def write(self, text: str) -> int:
        plain = self._COLOUR.sub("", text)
        self.log.write(plain)
        if event := self._EVENT.search(plain.rstrip()):
            what, step, status = event.groups()
            if what == "Executing task":
                self.begin = time.perf_counter()
                self.screen.write(f"  {step:<18}")
            elif status:
                self.screen.write(f"{status.lower():<9}{time.perf_counter() - self.begin:6.1f} s\n")
            self.screen.flush()
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
