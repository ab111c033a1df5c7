"""A checkpoint as it is served: dense and pruned, in PyTorch, in ONNX Runtime and in int8, measured in turn.

    python -m benchmarks.served --model DIR --train-file F --eval-file F --text-column A [--text-column B] \\
        --label-column Y [--train-column C] [--keep-ratio 0.5 ...] [--seed 0 ...] --work FOLDER --output F.jsonl

Every form is a folder in ``--work``, made once. int8 is written twice: with all weights, and with those that hurt in
float32 (``left``). A line of JSON for each form and seed goes to ``--output``. Counts the processor's time, on one
thread. An embedding model is pruned on single texts (``--train-column``) and judged on pairs.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch

from fastprune import method as steps
from fastprune.data import encode, make_batches, read_table
from fastprune.data.preparation import table_task
from fastprune.data.splits import draw_rows
from fastprune.export.bench import bench, words
from fastprune.export.exporting import SAMPLE_ROWS, export
from fastprune.export.rows import read_rows
from fastprune.manifest import make_manifest
from fastprune.model import checkpoint
from fastprune.model.architectures import describe
from fastprune.search.cost import Cost
from fastprune.settings import Method

FORMS = {"onnx": {}, "int8": {"quantize": "int8"}, "left": {"quantize": "int8"}}
"""What is written of a model, by the end of its folder's name."""


@click.command(context_settings={"show_default": True})
@click.option("--model", required=True)
@click.option("--train-file", required=True)
@click.option("--eval-file", required=True)
@click.option("--text-column", "text_columns", multiple=True, required=True)
@click.option("--train-column", "train_columns", multiple=True, help="Of the rows to prune on; by default the same.")
@click.option("--label-column")
@click.option("--metric")
@click.option("--keep-ratio", "keep_ratios", multiple=True, type=float, default=[0.5, 0.3, 0.2])
@click.option("--seed", "seeds", multiple=True, type=int, default=[0, 1, 2])
@click.option("--form", "forms", multiple=True, type=click.Choice(list(FORMS)), default=list(FORMS))
@click.option("--layout", type=click.Choice(["free", "portable"]), default="free")
@click.option("--num-samples", type=int, default=2048)
@click.option("--batches", type=int, default=20, help="Of each size that are timed.")
@click.option("--work", required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(
    model,
    train_file,
    eval_file,
    text_columns,
    train_columns,
    label_column,
    metric,
    keep_ratios,
    seeds,
    forms,
    layout,
    num_samples,
    batches,
    work,
    output,
):
    """Accuracy, size and speed of every form of a checkpoint."""
    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    task = table_task(model, train_columns or text_columns, label_column if not train_columns else None)
    sources = {"dense": model}
    for seed in seeds:
        folders = {ratio: work / f"{layout}-{seed}-{ratio}" for ratio in keep_ratios}
        prune(model, train_file, task, {ratio: at for ratio, at in folders.items() if not at.exists()}, seed,
              num_samples, Method(layout=layout))  # fmt: skip
        named = sources | {str(ratio): at for ratio, at in folders.items()}
        served = {}
        for name, source in named.items():
            served[name, "pytorch"] = source
            for form in forms:
                place = work / f"{'dense' if name == 'dense' else Path(source).name}-{form}"
                if not place.exists():
                    rows = read_rows(source, train_file, task, labelled=False, count=SAMPLE_ROWS)
                    export(source, place, **FORMS[form], sample=rows if form == "left" else None)
                served[name, form] = place
        record = bench(
            list(served.values()),
            eval_file,
            text_columns=text_columns,
            label_column=label_column,
            metric=metric,
            batches=batches,
            cpu_time=True,
        )
        print(f"seed {seed}\n{words(record)}", flush=True)
        with output.open("a") as file:
            for (name, form), one in zip(served, record["candidates"], strict=True):
                told = {"seed": seed, "keep_ratio": name, "form": form, "layout": layout, **one}
                file.write(json.dumps({"model": Path(model).name, **told}) + "\n")


def prune(model, train_file, task, folders, seed, num_samples, method) -> None:
    """Prune to every ratio of ``folders``, with one importance and one sample, and save."""
    if not folders:
        return
    dense, tokenizer = checkpoint.load_dense(model), checkpoint.load_tokenizer(model)
    encoder, table = describe(dense), read_table(train_file)
    rows = draw_rows(len(table), num_samples, seed)
    sample = encode(table, tokenizer, task, dense.config, rows=rows, labelled=False)
    samples = make_batches(sample, 32, tokenizer.pad_token_id)
    cost = Cost.of(encoder, sample.mean_length, None, method.solver, method.layout)
    information = steps.gather(encoder, samples, task.problem, method, progress=False)
    importance = steps.importance_of(encoder, information, method)
    teacher = steps.make_teacher(encoder, samples, method.tuning, keep=True)
    for ratio, place in folders.items():
        masks = steps.search(cost, importance, ratio)
        tuned = steps.tune(
            encoder, masks, importance, cost, ratio, samples, task.problem, method.tuning,
            teacher=teacher, progress=False,
        )  # fmt: skip
        manifest = make_manifest(
            encoder, cost, tuned, source=model, source_digest=checkpoint.digest(dense), sample=sample,
            evaluation=sample, seed=seed, keep_ratio=ratio, selection=method.selection, estimator=method.estimator,
            tuning=method.tuning, effort=method.effort,
        )  # fmt: skip
        checkpoint.save(place, tuned.model, tokenizer, manifest)
        print(f"{place} saved", flush=True)


if __name__ == "__main__":
    main()
