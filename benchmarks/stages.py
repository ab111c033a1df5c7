"""Seconds and peak memory of each stage, the paper's way and the default way in turn.

python -m benchmarks.stages --num-samples 2048
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

from torch import Tensor

from benchmarks.common import Cost, measured, parser, random_batch, random_encoder, start
from fastprune.importance.curvature import estimate_curvature
from fastprune.importance.fisher import estimate_fisher
from fastprune.importance.surgeon import removal_costs
from fastprune.memory import limited
from fastprune.model.architectures import Encoder
from fastprune.search.mac_search import search_macs
from fastprune.search.macs import MacModel
from fastprune.search.rearrange import rearrange
from fastprune.tuning.layerwise import Teacher
from fastprune.tuning.mask import tune_masks
from fastprune.tuning.method import Tuned
from fastprune.tuning.weights import reconstruct_weights

Batches = Sequence[dict[str, Tensor]]


def main(arguments: list[str] | None = None) -> dict[str, dict[str, list[Cost]]]:
    options = parser(__doc__)
    options.add_argument("--num-samples", type=int, default=64)
    options.add_argument("--batch-size", type=int, default=32)
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--memory", help="what the process may take, such as 8GiB")
    options.add_argument("--estimator", choices=("per_sample", "per_batch"), default="per_sample", help="of the Fisher")
    options = options.parse_args(arguments)
    start(options)
    encoder = random_encoder(options)
    sizes = [
        min(options.batch_size, options.num_samples - first)
        for first in range(0, options.num_samples, options.batch_size)
    ]
    batches = [random_batch(size, options.tokens) for size in sizes]
    encoder.model(**random_batch(1, options.tokens))  # what only the first pass costs is no stage's

    ways = {"paper": paper_way, "default": default_way}
    rounds: dict[str, list[dict[str, Cost]]] = {way: [] for way in ways}
    with limited(options.memory):
        for _ in range(options.rounds):
            for way, run in ways.items():
                rounds[way].append(run(encoder, batches, options))
    costs = {way: {stage: [costs[stage] for costs in runs] for stage in runs[0]} for way, runs in rounds.items()}

    print(f"{'stage':<30}{'median s':>10}{'ms / sample':>14}{'peak MiB':>11}{'added MiB':>11}")
    for way, stages in costs.items():
        for stage, measurements in stages.items():
            seconds = statistics.median(cost.seconds for cost in measurements)
            print(
                f"{f'{way}: {stage}':<30}{seconds:>10.2f}{1e3 * seconds / options.num_samples:>14.1f}"
                f"{max(cost.peak for cost in measurements):>11.0f}{max(cost.added for cost in measurements):>11.0f}"
            )
    totals = {way: [sum(cost.seconds for cost in run.values()) for run in runs] for way, runs in rounds.items()}
    print_ratio("the default way, to the paper's", totals["default"], totals["paper"])
    fisher = [run["Fisher"].seconds for run in rounds["paper"]]
    for way, stage in (("paper", "mask tuning"), ("default", "weight reconstruction")):
        print_ratio(f"{stage}, to the Fisher", [run[stage].seconds for run in rounds[way]], fisher)
    return costs


def paper_way(encoder: Encoder, batches: Batches, options: argparse.Namespace) -> dict[str, Cost]:
    macs, costs = MacModel.of(encoder, options.tokens), {}
    with measured() as costs["Fisher"]:
        fisher = estimate_fisher(encoder, batches, "classification", estimator=options.estimator, progress=False)
    with measured() as costs["search"]:
        masks, teacher_masks = (
            search_macs(fisher.head_importance, fisher.filter_importance, macs, ratio)
            for ratio in (options.keep_ratio, options.keep_ratio**0.5)
        )
    with measured() as costs["rearrangement"]:
        masks = rearrange(masks, fisher)
    with measured() as costs["mask tuning"]:
        tuned = tune_masks(encoder, masks, teacher_masks, batches, "classification", progress=False)
    print_kept("paper", macs, tuned)
    return costs


def default_way(encoder: Encoder, batches: Batches, options: argparse.Namespace) -> dict[str, Cost]:
    macs, costs = MacModel.of(encoder, options.tokens), {}
    with measured() as costs["curvature"]:
        curvature = estimate_curvature(encoder, batches, "classification", progress=False)
    with measured() as costs["removal costs"]:
        importance = removal_costs(encoder, curvature)
    with measured() as costs["search"]:
        masks = search_macs(*importance, macs, options.keep_ratio)
    with measured() as costs["weight reconstruction"]:
        tuned = reconstruct_weights(Teacher(encoder, batches), masks, "classification", progress=False)
    print_kept("default", macs, tuned)
    return costs


def print_kept(way: str, macs: MacModel, tuned: Tuned) -> None:
    """What the seconds are of: a tuning that ended before the last layer is no measure of a whole one."""
    masks = tuned.masks
    print(
        f"{way}: kept {macs.kept(masks):.4f} of the MACs; heads {masks.head_counts}, filters {masks.filter_counts}"
        + (f"; tuning ended at {tuned.stopped}" if tuned.stopped else "")
    )


def print_ratio(name: str, seconds: list[float], reference: list[float]) -> None:
    ratio = statistics.median(own / theirs for own, theirs in zip(seconds, reference, strict=True))
    print(f"{name}: {ratio:.2f} ({statistics.median(seconds):.1f} against {statistics.median(reference):.1f} s)")


if __name__ == "__main__":
    main()
