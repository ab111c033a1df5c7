"""An embedding model at several keep ratios: pairs, retrieval, likeness to the dense vectors, latency, seconds, memory.

python -m benchmarks.embeddings FOLDER --texts texts.jsonl --text-column text \
    --pairs pairs.jsonl first second same --ranked ranked.jsonl question paragraph --output figures.jsonl

Calibrated on the texts alone. A line of JSON for each ratio goes to the output as it is done.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch

from fastprune import method as steps
from fastprune.data import Task, encode, make_batches, order_rows, read_table
from fastprune.data.outcomes import standard_error
from fastprune.data.preparation import table_task
from fastprune.data.splits import Split, collate, draw_rows
from fastprune.latency.timing import measure_latency
from fastprune.model import checkpoint
from fastprune.model.architectures import describe
from fastprune.problem import problem_of
from fastprune.search.cost import Cost
from fastprune.settings import Method


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--texts", required=True, help="to calibrate on")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--pairs", nargs=4, metavar=("FILE", "A", "B", "LABEL"), help="judged by average precision")
    parser.add_argument("--ranked", nargs=3, metavar=("FILE", "QUERY", "PASSAGE"), help="judged by recall and MRR")
    parser.add_argument("--keep-ratios", type=float, nargs="*", default=[0.7, 0.5, 0.4, 0.3])
    parser.add_argument("--num-samples", type=int, default=2048)
    parser.add_argument("--max-length", type=int, help="of the texts that are calibrated on, in tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)

    dense, tokenizer = checkpoint.load_dense(options.model), checkpoint.load_tokenizer(options.model)
    pad, encoder, method = tokenizer.pad_token_id, describe(dense), Method()

    def split_of(file: str, task: Task, **given) -> Split:
        return encode(read_table(file), tokenizer, task, dense.config, **given)

    texts = table_task(options.model, (options.text_column,), None, max_length=options.max_length)
    count = len(read_table(options.texts))
    rows = draw_rows(count, options.num_samples, options.seed)
    sample = split_of(options.texts, texts, rows=rows, labelled=False)
    judged: dict[str, Split] = {}
    if options.pairs:
        file, one, two, label = options.pairs
        judged["pairs"] = split_of(
            file, table_task(options.model, (one, two), label, "average_precision"), for_evaluation=True
        )
    if options.ranked:
        file, one, two = options.ranked
        judged["ranked"] = split_of(file, table_task(options.model, (one, two), None, "mrr_at_10"), for_evaluation=True)
    targets = {name: vectors(dense, split, pad) for name, split in judged.items()}
    write(options, {"model": options.model, "keep_ratio": 1, **figures(judged, targets, targets)})

    cost, batches, seconds = (
        Cost.of(encoder, sample.mean_length, None, method.solver),
        make_batches(sample, 32, pad),
        {},
    )
    begin = time.perf_counter()
    information = steps.gather(encoder, batches, "embedding", method, progress=False)
    importance = steps.importance_of(encoder, information, method)
    seconds["importance"] = time.perf_counter() - begin
    for ratio in options.keep_ratios:
        masks = steps.search(cost, importance, ratio)
        begin = time.perf_counter()
        tuned = steps.tune(encoder, masks, importance, cost, ratio, batches, "embedding", method.tuning, progress=False)
        seconds["tune"] = time.perf_counter() - begin
        found = {name: vectors(tuned.model, split, pad) for name, split in judged.items()}
        longest = make_batches(sample, 8, pad)[0]
        times = measure_latency({"dense": dense, "pruned": tuned.model}, longest)
        write(
            options,
            {
                "model": options.model,
                "keep_ratio": ratio,
                **cost.kept(tuned.masks),
                **figures(judged, found, targets),
                "latency_ms": {name: round(one.median_ms, 2) for name, one in times.items()},
                "seq_len": longest["input_ids"].shape[1],
                "threads": torch.get_num_threads(),
                "seconds": {name: round(value, 1) for name, value in seconds.items()},
                "sample": len(sample),
                "tokens": round(sample.mean_length * len(sample)),
                "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            },
        )


@torch.inference_mode()
def vectors(model, split: Split, pad: int) -> np.ndarray:
    """The vectors [texts, D] of a split's texts."""
    problem, found = problem_of("embedding"), {}
    for rows in order_rows(split, 32):
        put_out = problem.outputs(problem.run(model, collate(split, rows, pad)))
        found |= zip(rows.tolist(), put_out.numpy(), strict=True)
    return np.stack([found[row] for row in range(len(split))])


def figures(judged: dict[str, Split], found: dict[str, np.ndarray], targets: dict[str, np.ndarray]) -> dict:
    """The metrics of vectors, with standard errors, and the mean cosine of all texts to the dense model's vectors."""
    told: dict = {}
    for name, split in judged.items():
        metrics, outcomes = problem_of("embedding").measure(split, list(found[name]))
        told |= {metric: round(value, 4) for metric, value in metrics.items()}
        told[f"standard_error_{split.task.metric}"] = round(standard_error(outcomes) or 0, 4)
    cosines = [(found[name] * targets[name]).sum(1) for name in judged]
    return told | {"cosine_to_dense": round(float(np.concatenate(cosines).mean()), 4)} if judged else told


def write(options: argparse.Namespace, line: dict) -> None:
    print(json.dumps(line), flush=True)
    if options.output:
        with options.output.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
