"""The compression as a Kubeflow pipeline: compile it for a cluster, or run the same definition here.

    python -m pipelines.compression compile --output compression.yaml
    python -m pipelines.compression compile --constraint latency --profiler-accelerator nvidia.com/gpu
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
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import click
from kfp import compiler, dsl, kubernetes, local

from components.budget import budget
from components.evaluate_dense import evaluate_dense
from components.evaluate_pruned import evaluate_pruned
from components.fisher import fisher
from components.prepare import prepare
from components.profile import profile
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


def define(constraint: str = "macs", accelerator: str = "", node_selector: Mapping[str, str] = {}):
    """The pipeline under a MAC budget, or under a latency budget, which alone has a profiler.

    Parameters
    ----------
    constraint : {"macs", "latency"}
    accelerator : str
        What the profiler asks for one of, such as ``nvidia.com/gpu``: the device that the pruned model is for.
    node_selector : mapping
        Labels of the nodes to profile on, such as ``{"cloud.google.com/gke-accelerator": "nvidia-tesla-v100"}``.
    """
    @dsl.pipeline(name="fastprune", description=f"Prune a fine-tuned encoder to a fraction of its {constraint}.")
    def compression(
        source: str,
        keep_ratio: float = 0.6,
        latency_ms: float = 0.0,
        lut: str = "",
        lut_store: str = "",
        latency_batch_size: int = 8,
        latency_seq_len: int = 64,
        solver: str = "exact",
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
            max_accuracy_drop=max_accuracy_drop, constraint=constraint, latency_ms=latency_ms,
            allow_untuned=allow_untuned, experiment=experiment, policy=policy,
            pipeline_job=dsl.PIPELINE_JOB_ID_PLACEHOLDER, tracking_uri=tracking_uri,
        ).outputs
        model, calibration, evaluation = made["model"], made["calibration"], made["evaluation"]
        tracked = {"run_id": made["run_id"], "tracking_uri": tracking_uri}
        settings = {"batch_size": batch_size, "device": device, **tracked}

        dense = evaluate_dense(model=model, evaluation=evaluation, allow_untuned=allow_untuned, **settings)
        ready, table = dense, {}  # dense refuses a model that was never fine-tuned
        if constraint == "latency":
            ready = profile(model=model, lut=lut, lut_store=lut_store, latency_batch_size=latency_batch_size,
                            latency_seq_len=latency_seq_len, device=device, **tracked)
            ready.after(dense)
            if accelerator:
                ready.set_accelerator_type(accelerator).set_accelerator_limit(1)
            for label, value in node_selector.items():
                kubernetes.add_node_selector(ready, label, value)
            table = {"table": ready.outputs["table"]}
        gradients = fisher(model=model, calibration=calibration, selection=selection, estimator=estimator, **settings)
        gradients.after(ready)
        information = gradients.outputs["fisher"]
        settled = budget(
            model=model, calibration=calibration, fisher=information, keep_ratio=keep_ratio, latency_ms=latency_ms,
            solver=solver, max_accuracy_drop=max_accuracy_drop, tuning=tuning, **settings, **table,
        ).outputs
        chosen_ratio = settled["settled"]
        searched = search(
            fisher=information, keep_ratio=chosen_ratio, solver=solver, **tracked, **table,
        ).outputs["searched"]
        rearranged = rearrange(fisher=information, searched=searched, **tracked, **table).outputs["rearranged"]
        pruned = tune(
            model=model, calibration=calibration, evaluation=evaluation, fisher=information, rearranged=rearranged,
            keep_ratio=chosen_ratio, solver=solver, tuning=tuning, **settings, **table,
        ).outputs["pruned"]
        measured = evaluate_pruned(
            model=model, evaluation=evaluation, searched=searched, rearranged=rearranged, pruned=pruned, **settings,
            **table,
        ).outputs["measured"]
        summed_up = report(
            model=model, dense=dense.outputs["dense"], fisher=information, chosen=settled["chosen"],
            searched=searched, rearranged=rearranged, pruned=pruned, measured=measured, **tracked, **table,
        ).outputs["report"]
        register(pruned=pruned, report=summed_up, model_name=model_name, policy=policy, **tracked)
        return NamedTuple("Outputs", [("pruned", dsl.Model), ("report", dsl.Artifact)])(pruned, summed_up)

    return compression


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


def run(output_dir: str | Path, *, work_dir: str | Path = ".cache/pipeline", constraint: str = "macs",
        **arguments) -> Path:
    """Run the pipeline on this machine, every step in a process of its own.

    Parameters
    ----------
    output_dir : str or Path
        Must not exist. Gets the pruned model (``model/``), ``report.html``, ``metrics.json`` and ``pipeline.log``
        when the whole pipeline has succeeded.
    work_dir : str or Path
        For what passes between the steps; kept for a look when a step fails, else removed.
    constraint : {"macs", "latency"}
    **arguments
        Of the pipeline that :func:`define` gives. ``tracking_uri`` is by default ``MLFLOW_TRACKING_URI`` or else a
        SQLite store in the current folder.

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
    for name in ("source", "train_file", "eval_file", "lut"):  # steps may run in another folder
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
                outputs = define(constraint)(**arguments).outputs
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
@click.option("--constraint", type=click.Choice(["macs", "latency"]), default="macs")
@click.option("--profiler-accelerator", "accelerator", default="", help="For the profiler, such as nvidia.com/gpu.")
@click.option("--profiler-node", "nodes", multiple=True, metavar="LABEL=VALUE", help="Nodes that the profiler runs on.")
@click.option("--output", default="compression.yaml", type=click.Path(path_type=Path))
def compile_command(constraint: str, accelerator: str, nodes: tuple[str, ...], output: Path) -> None:
    """Write the pipeline as YAML for a cluster."""
    if (accelerator or nodes) and constraint != "latency":
        raise click.UsageError("--profiler-accelerator and --profiler-node go with --constraint latency")
    for node in nodes:
        if "=" not in node:
            raise click.BadParameter(f"{node!r} is not of the form LABEL=VALUE", param_hint="--profiler-node")
    pipeline = define(constraint, accelerator, dict(node.split("=", 1) for node in nodes))
    compiler.Compiler().compile(pipeline, str(output))
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
@click.option("--constraint", type=click.Choice(["macs", "latency"]), default="macs", help="What the budget limits.")
@click.option("--keep-ratio", type=float, default=0.6, help="Fraction of the MACs, or of the latency, to keep.")
@click.option("--latency-ms", type=float, default=0.0, help="Budget in milliseconds, instead of --keep-ratio.")
@click.option("--lut", default="", help="Look-up table to use; otherwise the store's, or a new one is measured.")
@click.option("--lut-store", default="", help="Folder or s3:// prefix that keeps tables by device and shape.")
@click.option("--latency-batch-size", type=int, default=8, help="Examples in the batch that is timed.")
@click.option("--latency-seq-len", type=int, default=64, help="Tokens of each of them.")
@click.option("--solver", type=click.Choice(["exact", "piecewise"]), default="exact")
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
