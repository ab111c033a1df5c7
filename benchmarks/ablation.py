"""What each part of the default way gives: divergence from the dense model on training rows outside the sample.

    python -m benchmarks.ablation --model DIR --train-file F --text-column A [--text-column B] --label-column Y

Such rows are what choices are made on: the evaluation set takes no part in them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from unittest import mock

import click
import numpy as np
import pandas
import torch

from fastprune.data import draw_sample, encode, make_batches, read_table
from fastprune.data.evaluation import evaluate_rows
from fastprune.data.preparation import table_task
from fastprune.importance import curvature
from fastprune.importance.selection import selection_of
from fastprune.method import gather, importance_of, tune
from fastprune.model import checkpoint
from fastprune.model.architectures import describe
from fastprune.search.cost import Cost
from fastprune.settings import AGREEMENT, Method
from fastprune.tuning import weights
from fastprune.tuning.layerwise import Teacher, walk

READ_STREAM = {"query", "key", "value", "ffn_input", "head"}


def but(*kinds: str) -> AbstractContextManager:
    """Weight reconstruction that leaves maps of these kinds as they are."""

    def filtered(*arguments, **options):
        return (system for system in walk(*arguments, **options) if system.kind not in kinds)

    return mock.patch.object(weights, "walk", filtered)


def temperature(value: float) -> AbstractContextManager:
    return mock.patch.object(curvature, "TEMPERATURE", value)


# name: selection, tuning, how the library is changed
WAYS = {
    "default": ("surgeon", "weights", nullcontext),
    "... but the task head": ("surgeon", "weights", lambda: but("head")),
    "... but the FFN's input": ("surgeon", "weights", lambda: but("ffn_input")),
    "... but query and key": ("surgeon", "weights", lambda: but("query", "key")),
    "... but query, key and value": ("surgeon", "weights", lambda: but("query", "key", "value")),
    "... but all of these: output projections alone": ("surgeon", "weights", lambda: but(*READ_STREAM)),
    "curvature at temperature 2": ("surgeon", "weights", lambda: temperature(2.0)),
    "curvature at temperature 1": ("surgeon", "weights", lambda: temperature(1.0)),
    "Fisher of the masks, rearranged, for removal costs": ("fisher", "weights", nullcontext),
    "mask tuning for weight reconstruction": ("surgeon", "mask", nullcontext),
    "no tuning": ("surgeon", "none", nullcontext),
    "paper": ("fisher", "mask", nullcontext),
}


@click.command(context_settings={"show_default": True})
@click.option("--model", required=True)
@click.option("--train-file", required=True)
@click.option("--text-column", "text_columns", multiple=True, required=True)
@click.option("--label-column", required=True)
@click.option("--way", "ways", multiple=True, type=click.Choice(list(WAYS)), default=list(WAYS))
@click.option("--keep-ratio", "keep_ratios", multiple=True, type=float, default=[0.4, 0.3, 0.2])
@click.option("--num-samples", type=int, default=2048)
@click.option("--outside", type=int, default=1600, help="Rows to measure on, never in the sample.")
@click.option("--seed", type=int, default=0)
def main(
    model, train_file, text_columns, label_column, ways, keep_ratios, num_samples, outside, seed
) -> pandas.DataFrame:
    """What each part of the default way gives, a line of divergences a way."""
    dense, tokenizer = checkpoint.load_dense(model), checkpoint.load_tokenizer(model)
    encoder, task = describe(dense), table_task(model, text_columns, label_column)
    table = read_table(train_file)
    order = np.random.default_rng(seed).permutation(len(table))
    rows = encode(table.select(np.sort(order[outside:])), tokenizer, task, dense.config)
    compared = replace(task, metric=AGREEMENT, label_column="")
    apart = encode(table.select(np.sort(order[:outside])), tokenizer, compared, dense.config, for_evaluation=True)
    sample = draw_sample(rows, num_samples, seed)
    batches = make_batches(sample, 32, tokenizer.pad_token_id)
    cost, teacher = (Cost.of(encoder, sample.mean_length, None, "exact"), Teacher(encoder, batches, keep=True))
    wanted = evaluate_rows(dense, apart, pad_token_id=tokenizer.pad_token_id, progress=False)
    print(
        f"{model}: threads {torch.get_num_threads()}, seed {seed}, {num_samples} samples of {len(rows)}, "
        f"{outside} rows outside",
        flush=True,
    )
    measured = {}
    divergences = pandas.DataFrame(index=list(ways), columns=list(keep_ratios), dtype=float)
    for way in ways:
        selection, tuning, changed = WAYS[way]
        with changed():
            key = selection, curvature.TEMPERATURE
            if key not in measured:
                method = Method(selection)
                information = gather(encoder, batches, task.problem, method, progress=False)
                measured[key] = importance_of(encoder, information, method), information
            importance, information = measured[key]
            for ratio in keep_ratios:
                masks = cost.search(importance, ratio)
                masks = selection_of(selection).rearrange(masks, information)
                tuned = tune(
                    encoder,
                    masks,
                    importance,
                    cost,
                    ratio,
                    batches,
                    task.problem,
                    tuning,
                    teacher=teacher,
                    progress=False,
                )
                pad = tokenizer.pad_token_id
                found = evaluate_rows(tuned.model, apart, pad_token_id=pad, dense=wanted, progress=False)
                divergences.loc[way, ratio] = found.metrics["divergence"]
        print(divergences.loc[[way]].round(4).to_string(header=False), flush=True)
    print(divergences.round(4).to_string())
    return divergences


if __name__ == "__main__":
    main()
