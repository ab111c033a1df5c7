"""The compression as a Kubeflow pipeline: compile it for a cluster, or run the same definition here.

    python -m pipelines.compression compile --output compression.yaml
    python -m pipelines.compression run --source MODEL --train-file F --eval-file F --text-column A \\
        --label-column Y --output-dir OUT
"""

import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import click
from kfp import compiler, dsl, local

from components.budget import budget
from components.evaluate_dense import evaluate_dense
from components.evaluate_pruned import evaluate_pruned
from components.fisher import fisher
from components.prepare import prepare
from components.rearrange import rearrange
from components.register import register
from components.report import report
from components.search import search
from components.tune import tune
from fastprune import tracking
from fastprune.budget import NO_DROP
from fastprune.errors import InputError


class PipelineError(RuntimeError):
    """A step of a local run failed; the message names it and ends with what it said last."""


@dsl.pipeline(name="fastprune", description="Prune a fine-tuned encoder to a fraction of its MACs.")
def compression(
    source: str,
    keep_ratio: float = 0.6,
    task: str = "",
    train_file: str = "",
    eval_file: str = "",
    text_columns: list = [],
    label_column: str = "",
    metric: str = "",
    max_length: int = 0,
    num_samples: int = 2048,
    seed: int = 0,
    selection: str = "surgeon",
    estimator: str = "per_sample",
    tuning: str = "weights",
    max_accuracy_drop: float = NO_DROP,
    batch_size: int = 32,
    device: str = "auto",
    allow_untuned: bool = False,
    experiment: str = tracking.EXPERIMENT,
    model_name: str = "fastprune",
    policy: str = "",
    tracking_uri: str = "",
) -> NamedTuple("Outputs", [("pruned", dsl.Model), ("report", dsl.Artifact)]):
    """The stages of fastprune.stages, in order, and the registration; see fastprune.compress for the parameters.

    ``policy`` is the content of a policy file, in YAML or JSON: a model that meets it becomes the champion.
    """
    made = prepare(
        source=source, keep_ratio=keep_ratio, task=task, train_file=train_file, eval_file=eval_file,
        text_columns=text_columns, label_column=label_column, metric=metric, max_length=max_length,
        num_samples=num_samples, seed=seed, selection=selection, estimator=estimator, tuning=tuning,
        max_accuracy_drop=max_accuracy_drop, allow_untuned=allow_untuned, experiment=experiment,
        policy=policy, pipeline_job=dsl.PIPELINE_JOB_ID_PLACEHOLDER, tracking_uri=tracking_uri,
    ).outputs
    model, calibration, evaluation = made["model"], made["calibration"], made["evaluation"]
    tracked = {"run_id": made["run_id"], "tracking_uri": tracking_uri}
    settings = {"batch_size": batch_size, "device": device, **tracked}

    dense = evaluate_dense(model=model, evaluation=evaluation, allow_untuned=allow_untuned, **settings)
    gradients = fisher(model=model, calibration=calibration, selection=selection, estimator=estimator, **settings)
    gradients.after(dense)  # which refuses a model that was never fine-tuned
    information = gradients.outputs["fisher"]
    settled = budget(
        model=model, calibration=calibration, fisher=information, keep_ratio=keep_ratio,
        max_accuracy_drop=max_accuracy_drop, tuning=tuning, **settings,
    ).outputs
    keep_ratio = settled["settled"]
    searched = search(fisher=information, keep_ratio=keep_ratio, **tracked).outputs["searched"]
    rearranged = rearrange(fisher=information, searched=searched, **tracked).outputs["rearranged"]
    pruned = tune(
        model=model, calibration=calibration, evaluation=evaluation, fisher=information, rearranged=rearranged,
        keep_ratio=keep_ratio, tuning=tuning, **settings,
    ).outputs["pruned"]
    measured = evaluate_pruned(
        model=model, evaluation=evaluation, searched=searched, rearranged=rearranged, pruned=pruned, **settings,
    ).outputs["measured"]
    summed_up = report(
        model=model, dense=dense.outputs["dense"], fisher=information, chosen=settled["chosen"],
        searched=searched, rearranged=rearranged, pruned=pruned, measured=measured, **tracked,
    ).outputs["report"]
    register(pruned=pruned, report=summed_up, model_name=model_name, policy=policy, **tracked)
    return NamedTuple("Outputs", [("pruned", dsl.Model), ("report", dsl.Artifact)])(pruned, summed_up)


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
        elif tracking.WITHOUT in plain:
            self.screen.write(f"\n  {plain.strip()}\n  {'':<18}")
        return len(text)

    def flush(self) -> None:
        self.log.flush()


def run(output_dir: str | Path, *, work_dir: str | Path = ".cache/pipeline", **arguments) -> Path:
    """Run the pipeline on this machine, every step in a process of its own.

    Parameters
    ----------
    output_dir : str or Path
        Must not exist. Gets the pruned model (``model/``), ``report.html``, ``metrics.json`` and ``pipeline.log``
        when the whole pipeline has succeeded.
    work_dir : str or Path
        For what passes between the steps; kept for a look when a step fails, else removed.
    **arguments
        Of the pipeline :func:`compression`. ``tracking_uri`` is by default ``MLFLOW_TRACKING_URI`` or else a SQLite
        store in the current folder.

    Raises
    ------
    InputError
        ``output_dir`` exists.
    PipelineError
        A step failed.
    """
    from fastprune import checkpoint  # torch: not for compiling

    output_dir = Path(output_dir)
    checkpoint.check_absent(output_dir)
    arguments.setdefault("tracking_uri", tracking.tracking_uri())
    for name in ("source", "train_file", "eval_file"):  # steps may run in another folder
        if arguments.get(name) and Path(arguments[name]).exists():
            arguments[name] = str(Path(arguments[name]).resolve())
    Path(work_dir).mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="run-", dir=work_dir)).resolve()
    log_file = work / "pipeline.log"
    os.environ.setdefault("TQDM_MININTERVAL", "10")  # bars become lines of the log
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(work))
    with open(log_file, "w", encoding="utf-8") as log, redirect_stdout(_Progress(log, sys.stdout)):
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="You may be attemping to run a task")
                outputs = compression(**arguments).outputs
        except RuntimeError as error:
            raise PipelineError(_explain(error, log_file)) from error
    with checkpoint.new_folder(output_dir) as folder:
        shutil.copytree(outputs["pruned"].path, folder / "model")
        for file in ("report.html", "metrics.json"):
            shutil.copy(Path(outputs["report"].path, file), folder)
        shutil.copy(log_file, folder)
    shutil.rmtree(work)
    return output_dir


def _explain(error: RuntimeError, log_file: Path) -> str:
    failed = re.search(r"Inner task failed: '([\w-]+)'", _Progress._COLOUR.sub("", str(error)))
    said = [line.rstrip() for line in log_file.read_text(encoding="utf-8").splitlines() if line.strip()]
    last = next((line.strip() for line in reversed(said) if re.match(r"\s*[\w.]*(Error|Exception)\b", line)), "")
    step = f"step {failed.group(1)} failed" if failed else str(error)
    return f"{step}: {last}\nThe whole log: {log_file}"


@click.group(context_settings={"show_default": True})
def main() -> None:
    """The compression as a Kubeflow pipeline."""


@main.command("compile")
@click.option("--output", default="compression.yaml", type=click.Path(path_type=Path))
def compile_command(output: Path) -> None:
    """Write the pipeline as YAML for a cluster."""
    compiler.Compiler().compile(compression, str(output))
    click.echo(f"wrote {output}")


@main.command("run")
@click.option("--source", required=True, help="The fine-tuned model: a local folder or a hub name.")
@click.option("--output-dir", required=True, type=click.Path(path_type=Path))
@click.option("--work-dir", default=".cache/pipeline", type=click.Path(path_type=Path),
              help="For what passes between the steps.")
@click.option("--task", default="", help="A GLUE task or squad, in place of files and columns.")
@click.option("--train-file", default="")
@click.option("--eval-file", default="")
@click.option("--text-column", "text_columns", multiple=True, help="Twice for pairs of texts.")
@click.option("--label-column", default="")
@click.option("--metric", default="")
@click.option("--keep-ratio", type=float, default=0.6, help="Fraction of the MACs to keep.")
@click.option("--max-accuracy-drop", type=float, default=NO_DROP,
              help="Find the smallest keep ratio that loses at most so much (absolute); negative: use --keep-ratio.")
@click.option("--num-samples", type=int, default=2048)
@click.option("--seed", type=int, default=0)
@click.option("--selection", type=click.Choice(["surgeon", "fisher"]), default="surgeon")
@click.option("--fisher", "estimator", type=click.Choice(["per_sample", "per_batch"]), default="per_sample")
@click.option("--tuning", type=click.Choice(["weights", "mask", "none"]), default="weights")
@click.option("--device", default="auto")
@click.option("--model-name", default="fastprune", help="Registered model in MLflow to add a version to.")
@click.option("--policy", "policy_file", type=click.Path(path_type=Path),
              help="Make the model the champion if it meets this policy (YAML or JSON).")
@click.option("--allow-untuned", is_flag=True)
def run_command(output_dir: Path, text_columns: tuple[str, ...], policy_file: Path | None, **arguments) -> None:
    """Run the pipeline on this machine."""
    try:
        if policy_file:
            from fastprune.policy import read_policy

            arguments["policy"] = read_policy(policy_file).model_dump_json()
        run(output_dir, text_columns=list(text_columns), **arguments)
    except (InputError, PipelineError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"model, report and metrics in {output_dir}")


if __name__ == "__main__":
    main()
