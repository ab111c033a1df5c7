"""Accuracy of every method over budgets and seeds, on checkpoints of your own.

    python -m benchmarks.accuracy --model DIR --train-file F --eval-file F --text-column A [--text-column B] \\
        --label-column Y [--method default --method paper ...] [--keep-ratio 0.5 ...] [--seed 0 ...] --output F.jsonl

Importance is measured once per sample and shared by the budgets. A line of JSON per result goes to ``--output``; what
is in it already is not computed again. ``--published-sample`` draws the sample as the published code does
(``np.random.choice`` with replacement, batches of 32 in that order).

With ``--lut`` the budgets are fractions of the latency that the table predicts, met in three ways: by the exact search,
by the paper's piece-wise search, and by the search under MACs at the ratio that takes as long. The sliced models are
then also timed in turn with the dense one.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import numpy as np
import pandas
import torch

from fastprune.data import draw_sample, encode, make_batches, read_table
from fastprune.data.evaluation import evaluate
from fastprune.data.preparation import table_task
from fastprune.importance.selection import selection_of
from fastprune.latency.lut import LatencyTable
from fastprune.latency.timing import full_batch, measure_latency
from fastprune.method import gather, importance_of, make_teacher, tune
from fastprune.model import checkpoint
from fastprune.model.architectures import describe
from fastprune.model.masks import Masks, masked
from fastprune.search.cost import Cost
from fastprune.search.mac_search import search_macs
from fastprune.settings import Method

METHODS = {
    "default": Method(),
    "portable": Method(layout="portable"),
    "paper": Method("fisher", "per_sample", "mask"),
    "paper-per-batch": Method("fisher", "per_batch", "mask"),
    "fisher+weights": Method("fisher", "per_sample", "weights"),
    "surgeon+mask": Method("surgeon", "per_sample", "mask"),
    "surgeon+none": Method("surgeon", "per_sample", "none"),
}


@click.command(context_settings={"show_default": True})
@click.option("--model", required=True)
@click.option("--train-file", required=True)
@click.option("--eval-file", required=True)
@click.option("--text-column", "text_columns", multiple=True)
@click.option("--label-column")
@click.option("--method", "methods", multiple=True, type=click.Choice(list(METHODS)), default=["default"])
@click.option("--keep-ratio", "keep_ratios", multiple=True, type=float, default=[0.3, 0.4, 0.5, 0.6, 0.7])
@click.option("--seed", "seeds", multiple=True, type=int, default=[0, 1, 2])
@click.option("--num-samples", type=int, default=2048)
@click.option("--seq-len", type=float, help="Of the MAC model; by default the sample's mean length.")
@click.option("--lut", type=click.Path(path_type=Path), help="Budgets are fractions of latency, by this table.")
@click.option("--published-sample", is_flag=True)
@click.option("--every-stage", is_flag=True, help="Also evaluate after search and after rearrangement.")
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(
    model,
    train_file,
    eval_file,
    text_columns,
    label_column,
    methods,
    keep_ratios,
    seeds,
    num_samples,
    seq_len,
    lut,
    published_sample,
    every_stage,
    output,
):
    """Accuracy of every method over budgets and seeds."""
    name = Path(model).name
    lines = output.read_text().splitlines() if output.exists() else []
    done = {
        tuple(json.loads(line)[key] for key in ("model", "method", "num_samples", "seed", "keep_ratio"))
        for line in lines
    }
    dense = checkpoint.load_dense(model)
    tokenizer = checkpoint.load_tokenizer(model)
    pad = tokenizer.pad_token_id
    task = table_task(model, text_columns, label_column)
    train = encode(read_table(train_file), tokenizer, task, dense.config)
    held_out = encode(read_table(eval_file), tokenizer, task, dense.config, for_evaluation=True)
    encoder, lut = describe(dense), lut and LatencyTable.load(lut)
    searches = ("exact", "piecewise", "macs") if lut else ("macs",)
    print(f"threads {torch.get_num_threads()}, seeds {seeds}, {name}", flush=True)

    def score(network) -> float:
        return evaluate(network, held_out, pad_token_id=pad, progress=False)["metric"]

    reference = None
    for seed in seeds:
        if published_sample:
            sample = train.select(np.random.RandomState(seed).choice(len(train), num_samples))
        else:
            sample = draw_sample(train, num_samples, seed)
        batches = make_batches(sample, 32, pad, by_length=not published_sample)
        for method in methods:
            settings = METHODS[method]
            wanted = [
                (ratio, search)
                for ratio in keep_ratios
                for search in (searches[:1] if settings.layout == "portable" else searches)
                if (name, label(method, search, lut), num_samples, seed, ratio) not in done
            ]
            if not wanted:
                continue
            reference = reference or score(dense)
            begin = time.perf_counter()
            information = gather(encoder, batches, task.problem, settings, progress=False)
            importance = importance_of(encoder, information, settings)
            measured = time.perf_counter() - begin
            teacher = make_teacher(encoder, batches, settings.tuning, keep=True)
            for ratio, search in wanted:
                cost, bought = Cost.of(encoder, seq_len or sample.mean_length, lut, search, settings.layout), ratio
                if search == "macs":
                    cost = Cost(cost.macs, layout=settings.layout)
                    bought = macs_ratio(importance, cost, lut, ratio) if lut else ratio
                masks, stages = cost.search(importance, bought), {}
                rearranges = selection_of(settings.selection).rearranges
                for stage in ("search", "rearrange") if rearranges else ("search",):
                    if stage == "rearrange":
                        masks = selection_of(settings.selection).rearrange(masks, information)
                    if every_stage:
                        with masked(encoder, masks.heads, masks.filters):
                            stages[stage] = score(dense)
                begin = time.perf_counter()
                tuned = tune(
                    encoder,
                    masks,
                    importance,
                    cost,
                    ratio,
                    batches,
                    task.problem,
                    settings.tuning,
                    teacher=teacher,
                    progress=False,
                )
                seconds = time.perf_counter() - begin
                result = {
                    "model": name,
                    "method": label(method, search, lut),
                    "num_samples": num_samples,
                    "seed": seed,
                    "keep_ratio": ratio,
                    "metric": task.metric,
                    "dense": reference,
                    "pruned": score(tuned.model),
                    **stages,
                    **cost.kept(masks),
                    **timed(dense, tuned.model, masks, lut),
                    "heads": masks.head_counts,
                    "filters": masks.filter_counts,
                    "stopped": tuned.stopped,
                    "importance_s": measured,
                    "tuning_s": seconds,
                }
                with open(output, "a") as file:
                    file.write(json.dumps(result) + "\n")
                print(
                    f"{name} {result['method']} n={num_samples} seed={seed} keep={ratio}: "
                    f"{result['pruned']:.4f} (dense {reference:.4f}) {stages}",
                    flush=True,
                )
    print(table(output))


def label(method: str, search: str, lut: LatencyTable | None) -> str:
    return f"{method}, {search}" if lut else method


def macs_ratio(importance, cost: Cost, lut: LatencyTable, keep_ratio: float) -> float:
    """The greatest ratio of MACs whose masks are predicted to be within a ratio of latency."""
    low, high = 0.02, 0.999
    while high - low > 1e-3:
        middle = (low + high) / 2
        within = lut.kept(search_macs(importance.heads, importance.filters, cost.macs, middle)) <= keep_ratio
        low, high = (middle, high) if within else (low, middle)
    return low


def timed(dense, pruned, masks: Masks, lut: LatencyTable | None) -> dict[str, float]:
    """Latency predicted and measured, as fractions of the dense model's."""
    if not lut:
        return {}
    latency = measure_latency({"dense": dense, "pruned": pruned}, full_batch(lut.batch_size, lut.seq_len))
    return {
        "latency_predicted": lut.kept(masks),
        "latency_measured": latency["pruned"].median_ms / latency["dense"].median_ms,
    }


def table(output: Path) -> str:
    """Mean over the seeds of all results in a file: a row per model, sample size and method, a column per budget."""
    results = pandas.read_json(output, lines=True)
    means = results.pivot_table("pruned", ["model", "dense", "num_samples", "method"], "keep_ratio")
    return means.round(4).to_string(na_rep="")


if __name__ == "__main__":
    main()
