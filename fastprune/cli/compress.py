"""``fastprune compress``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import zip_longest
from pathlib import Path
from typing import get_args

import click

from fastprune.cli.group import command
from fastprune.errors import InputError
from fastprune.settings import POOLINGS, SELECTIONS, TUNINGS, UNLABELLED, Effort, Layout
from fastprune.store.bounded import read_json
from fastprune.store.output import check_output


@command()
@click.argument("model")
@click.option("--task", "task_name", help="A GLUE task, or squad: data, columns and metric come with it.")
@click.option(
    "--train-file",
    type=click.Path(path_type=Path),
    help="Rows to draw the pruning sample from: .csv, .tsv, .jsonl, .parquet, SQuAD's .json, or a folder of images.",
)
@click.option("--eval-file", type=click.Path(path_type=Path), help="Rows to evaluate on.")
@click.option(
    "--text-column",
    "-A",
    "--text-column-a",
    "text_columns",
    multiple=True,
    help="Column of the text (question); twice for pairs. For embeddings: of either file.",
)
@click.option("--text-column-b", "-B", help="Column of the second text (context).")
@click.option("--label-column", "-Y", help="Column of the label (answers).")
@click.option("--problem", help="What the model is asked; by default what its configuration tells.")
@click.option("--metric", help="Primary metric; by default the first of the problem's. agreement reads no labels.")
@click.option(
    "--pooling",
    type=click.Choice(POOLINGS),
    help="Makes an embedding model of an encoder without a task head; a folder of sentence-transformers has its own.",
)
@click.option("--max-length", type=click.IntRange(min=8), help="Cut texts after this many tokens.")
@click.option(
    "--constraint",
    type=click.Choice(["macs", "latency"]),
    default=None,
    help="What the budget limits; by default MACs.",
)
@click.option("--keep-ratio", type=float, help="Fraction of the MACs, or of the latency, to keep.")
@click.option("--lut", type=click.Path(path_type=Path), help="With --constraint latency: table of `fastprune profile`.")
@click.option("--latency-ms", type=float, help="Budget in milliseconds of the table's batch, instead of --keep-ratio.")
@click.option(
    "--solver",
    type=click.Choice(["exact", "piecewise"]),
    default="exact",
    help="With --constraint latency: on the table itself, or on the paper's piece-wise linear fit.",
)
@click.option(
    "--max-accuracy-drop",
    type=float,
    help="Find the smallest keep ratio that loses at most this much (absolute), on rows outside the sample.",
)
@click.option(
    "--confidence",
    type=float,
    help="With --max-accuracy-drop: how sure it must be, 0.95 say, that new rows lose no more either.",
)
@click.option(
    "--validation-file",
    "validation",
    type=click.Path(path_type=Path),
    help="Labelled rows for --max-accuracy-drop; by default a fifth of the training rows.",
)
@click.option(
    "--num-samples",
    type=click.IntRange(min=1),
    help="Size of the pruning sample; by default 2,048 (512 with --effort low), of long texts fewer.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of the draw of the pruning sample.")
@click.option(
    "--selection",
    type=click.Choice(SELECTIONS),
    default="surgeon",
    help="Importance of a unit: removal cost after compensation, or the paper's Fisher with rearrangement.",
)
@click.option("--fisher", "old_estimator", hidden=True)
@click.option(
    "--estimator",
    type=click.Choice(["per_sample", "per_batch"]),
    default="per_sample",
    help="With --selection fisher: the gradients of examples, or of mini-batches as published.",
)
@click.option(
    "--tuning",
    type=click.Choice(TUNINGS),
    default="weights",
    help="Solve for the kept weights as a whole, or scale each unit as in the paper.",
)
@click.option(
    "--effort",
    type=click.Choice(get_args(Effort)),
    default="default",
    help="low: a few times faster, from fewer examples, and less like the dense model.",
)
@click.option(
    "--layout",
    type=click.Choice(get_args(Layout)),
    default="free",
    help="portable: whole layers and one number of filters are cut, so that the model needs no code of fastprune's.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=32)
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
@click.option("--memory", help="What it may take, such as 8GiB; by default what the machine or container has left.")
@click.option(
    "--processes",
    type=click.IntRange(1, 64),
    default=1,
    help="That share importance and reconstruction on this machine; each holds the model and a part of the sample.",
)
@click.option("--output-dir", type=click.Path(path_type=Path), help="Folder to make for the pruned model.")
@click.option(
    "--allow-untuned", is_flag=True, help="Go on although the dense model does no better than the majority class."
)
@click.option("--export", type=click.Choice(["onnx", "openvino"]), help="Also as a runtime serves it, in OUT/onnx.")
@click.option("--quantize", type=click.Choice(["int8", "fp16"]), help="With --export: int8 for CPUs, fp16 for GPUs.")
@click.option("--dry-run", is_flag=True, help="Say what would be kept; tune, evaluate and write nothing.")
@click.option(
    "--track", is_flag=True, help="Track it as a run in MLflow; `register` then adds its version to that run."
)
@click.option("--tracking-uri", default="", help="With --track: else MLFLOW_TRACKING_URI, else mlflow.db here.")
@click.option("--json", "as_json", is_flag=True, help="Print the content of metrics.json.")
def compress(
    model: str,
    task_name: str | None,
    train_file: Path | None,
    eval_file: Path | None,
    text_columns: tuple[str, ...],
    text_column_b: str | None,
    label_column: str | None,
    problem: str | None,
    metric: str | None,
    pooling: str | None,
    max_length: int | None,
    output_dir: Path | None,
    dry_run: bool,
    track: bool,
    tracking_uri: str,
    as_json: bool,
    old_estimator: str | None,
    **settings,
) -> None:
    """Prune MODEL, a local folder or a hub name of a fine-tuned encoder, to a fraction of its MACs or latency."""
    from fastprune import compression
    from fastprune.data import glue_task, load_glue
    from fastprune.data.preparation import table_task

    if old_estimator:
        raise InputError(f"--fisher is called --estimator since version 0.2.0; write --estimator {old_estimator}")
    if not (output_dir or dry_run):
        raise InputError("no --output-dir: name a folder for the pruned model, or use --dry-run")
    if track and dry_run:
        raise InputError("--track goes with a compression, not with --dry-run; leave one of them out")
    if output_dir:
        check_output(output_dir)  # before any data is fetched
    if task_name:
        own = (train_file, eval_file, text_columns, text_column_b, label_column, problem, metric, pooling, max_length)
        if any(own):
            raise InputError(
                "--task brings its own data, columns, problem, metric and length: use it without the options for those"
            )
        task = glue_task(task_name)
        dataset, evaluation = load_glue(task_name)
    else:
        if not (train_file and (eval_file or not label_column or metric in UNLABELLED)):
            raise InputError(
                "no data: give --task, or --train-file and --eval-file with --text-column and --label-column"
            )
        columns = (*text_columns, *([text_column_b] if text_column_b else []))
        task = table_task(model, columns, label_column, metric, max_length, problem, pooling)
        dataset, evaluation = train_file, eval_file
    settings["pooling"] = pooling
    with _tracked(tracking_uri, model, output_dir, settings) if track else nullcontext():
        compressed = compression.compress(
            model, dataset=dataset, evaluation=evaluation, task=task, output_dir=output_dir, dry_run=dry_run, **settings
        )
    made = compressed.manifest
    if as_json:
        click.echo(json.dumps(compressed.metrics))
        return
    click.echo(summary(compressed.metrics))
    click.echo(f"{'sample':<12}{made['sample_size']:,} rows, {made['sample_tokens']:,} tokens")
    click.echo(f"{'threads':<12}{made['threads']}")
    if output_dir and not dry_run:
        click.echo(f"saved in {output_dir}")


@contextmanager
def _tracked(tracking_uri: str, model: str, folder: Path | None, settings: Mapping) -> Iterator[None]:
    """Track a compression as one run; its version will belong to it, since the run names the artifact."""
    from fastprune.releases.registration import read_manifest, seal
    from fastprune.tracking import mlflow_store, runs

    uri = tracking_uri or mlflow_store.tracking_uri()
    given = {name: value for name, value in settings.items() if value is not None}
    run = runs.start(uri, f"compress {Path(model).name}", {"source": model, **given}, tags=runs.workflow_tags())
    try:
        yield
    except BaseException:
        runs.end(uri, run, "FAILED")
        raise
    if folder is None:  # click has refused that
        return
    made = {"registers": seal(folder, read_manifest(folder)).digest}
    runs.log(uri, run, metrics=read_json(folder / "metrics.json"), artifacts=sorted(folder.glob("m*.json")), tags=made)
    runs.end(uri, run)


def _error(metrics: dict, name: str) -> str:
    error = metrics.get("standard_error", {}).get(name)
    return "" if error is None else f" +- {error:.4f}"


def summary(metrics: dict) -> str:
    """A few lines for the terminal, from ``metrics.json``'s content."""
    lines = [
        f"{metrics['metric']:<11} dense {metrics['dense']:.4f}{_error(metrics, 'dense')}"
        + (f"   pruned {metrics['pruned']:.4f}{_error(metrics, 'pruned')}" if "pruned" in metrics else ""),
        f"{'MACs kept':<12}{metrics['macs_kept']:.4f}   (keep ratio {metrics['keep_ratio']:.4g})",
        f"{'params kept':<12}{metrics['params_kept']:.4f}",
    ]
    if "latency_kept" in metrics:
        lines.append(f"{'latency kept':<13}{metrics['latency_kept']:.4f}   (predicted by the look-up table)")
    if latency := metrics.get("latency_ms"):
        lines.append(
            f"{'latency':<12}dense {latency['dense']:.1f} ms   pruned {latency['pruned']:.1f} ms   "
            f"({latency['dense'] / latency['pruned']:.2f}x, batch {latency['batch_size']}, "
            f"{latency['seq_len']} tokens)"
        )
    if exported := metrics.get("exported"):
        times = exported["latency_ms"]["batch_8"]
        form = exported["quantize"] or "float32"
        same = exported["agreement"]
        lines.append(
            f"{exported['format']:<12}{form}: {metrics['metric']} {exported['metric']:.4f}, "
            + ("" if same is None else f"agreement with the dense model {same:.4f}, ")
            + f"{exported['megabytes']:.1f} MB, "
            f"{times['dense'] / times['exported']:.2f}x (batch 8, one thread)"
        )
    curve = metrics.get("curve", {"points": [], "margins": []})
    form = f" as {curve['form']}" if curve.get("form") else ""
    for (ratio, metric), margin in zip_longest(curve["points"], curve["margins"]):
        sure = "" if margin is None else f", perhaps {margin:.4f} less on others"
        lines.append(f"{'tried':<12}keep ratio {ratio:.3f}   {metric:.4f}{form} on the validation rows{sure}")
    lines.append(f"{'heads':<12}{json.dumps(metrics['heads'])} of {metrics['num_heads']}")
    lines.append(f"{'filters':<12}{json.dumps(metrics['filters'])} of {metrics['num_filters']}")
    lines.append(f"{'seconds':<12}" + ", ".join(f"{stage} {value:.1f}" for stage, value in metrics["seconds"].items()))
    return "\n".join(lines)
