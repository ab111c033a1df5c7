"""``fastprune export``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from fastprune.cli.group import command
from fastprune.errors import InputError


@command()
@click.argument("model")
@click.option("--format", type=click.Choice(["onnx", "openvino"]), default="onnx", help="What is written.")
@click.option("--quantize", type=click.Choice(["int8", "fp16"]), help="int8 for CPUs, fp16 for GPUs.")
@click.option("--opset", type=int, default=18, help="Of ONNX: 18 to 23.")
@click.option("--eval-file", type=click.Path(path_type=Path), help="Rows: the metric before and after.")
@click.option(
    "--train-file",
    type=click.Path(path_type=Path),
    help="Rows as they come, labels are not read: on them int8 finds the weights that must stay in float32.",
)
@click.option(
    "--trim-vocabulary", is_flag=True, help="Keep the pieces of --train-file's texts, and single characters, alone."
)
@click.option("--text-column", "-A", "text_columns", multiple=True, help="Column of the text; twice for pairs.")
@click.option("--label-column", "-Y", help="Column of the label.")
@click.option("--metric", help="By default the first of the problem's.")
@click.option("--max-length", type=click.IntRange(min=8), help="Cut texts after this many tokens.")
@click.option("--output-dir", required=True, type=click.Path(path_type=Path), help="Folder to make.")
def export(
    model: str,
    format: str,
    quantize: str | None,
    opset: int,
    eval_file: Path | None,
    train_file: Path | None,
    trim_vocabulary: bool,
    text_columns: tuple[str, ...],
    label_column: str | None,
    metric: str | None,
    max_length: int | None,
    output_dir: Path,
) -> None:
    """Write MODEL, a folder that fastprune saved or a dense one, as a runtime serves it, checked and measured."""
    from fastprune.export import exporting, rows, vocabulary
    from fastprune.store.output import check_output

    check_output(output_dir)
    if trim_vocabulary and not train_file:
        raise InputError("--trim-vocabulary keeps the pieces of --train-file's texts: give that too")
    task = None
    if eval_file or train_file:
        judged = eval_file is not None
        task = rows.task_of(model, text_columns, label_column, metric, max_length, judged=judged)
    with tempfile.TemporaryDirectory() as scratch:
        source, told = model, {}
        if trim_vocabulary and train_file and task:
            source = str(Path(scratch, "trimmed"))
            kept, before = vocabulary.trim_folder(model, rows.texts_of(train_file, task), source)
            told = {"vocabulary": {"kept": kept, "of": before}}
        record = exporting.export(
            source,
            output_dir,
            format=format,
            quantize=quantize or "",
            opset=opset,
            evaluation=rows.read_rows(source, eval_file, task) if eval_file and task else None,
            sample=(
                rows.read_rows(source, train_file, task, labelled=False, count=exporting.SAMPLE_ROWS)
                if train_file and task and quantize == "int8"
                else None
            ),
            told={"source": model, **told},
        )
    click.echo(summary(record))
    click.echo(f"saved in {output_dir}")


def summary(record: dict) -> str:
    """A few lines for the terminal, from the content of ``export.json``."""
    size = record["megabytes"]
    lines = [
        f"{'outputs':<12}differ by at most {record['max_difference']:.2g} from PyTorch's",
        f"{'megabytes':<12}{size['source']:.1f} -> {size['exported']:.1f}",
    ]
    if cut := record.get("vocabulary"):
        lines.append(f"{'vocabulary':<12}{cut['of']:,} -> {cut['kept']:,} pieces")
    if metric := record.get("metric"):
        name = metric["pytorch"]["name"]
        same = "" if record["agreement"] is None else f"agreement {record['agreement']:.4f}, "
        lines.append(
            f"{name:<12}{metric['pytorch']['value']:.4f} -> {metric['exported']['value']:.4f}   "
            f"({same}of {metric['pytorch']['rows']:,} rows)"
        )
    for key in ("batch_1", "batch_8"):
        times = record["latency"][key]
        one, other = times["pytorch"]["p50_ms"], times["exported"]["p50_ms"]
        lines.append(f"{'latency':<12}{one:.1f} -> {other:.1f} ms   ({one / other:.2f}x, {key.replace('_', ' ')})")
    if left := record["left_in_float32"]:
        lines.append(f"{'in float32':<12}{', '.join(left)}")
    return "\n".join(lines)
