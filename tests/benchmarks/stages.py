"""Seconds and peak memory of each stage.

python -m tests.benchmarks.stages --num-samples 2048
"""

from __future__ import annotations

from fastprune.curvature import estimate_curvature
from fastprune.fisher import estimate_fisher
from fastprune.layerwise import Teacher
from fastprune.macs import MacModel
from fastprune.rearrange import rearrange
from fastprune.reconstruction import reconstruct_weights
from fastprune.search import search_macs
from fastprune.surgeon import removal_costs
from fastprune.surgery import slice_model
from fastprune.tuning import tune_masks
from tests.benchmarks.common import Cost, measured, parser, random_batch, random_encoder, start


def main(arguments: list[str] | None = None) -> dict[str, Cost]:
    options = parser(__doc__)
    options.add_argument("--num-samples", type=int, default=64)
    options.add_argument("--batch-size", type=int, default=32)
    options = options.parse_args(arguments)
    start(options)
    encoder = random_encoder(options)
    sizes = [
        min(options.batch_size, options.num_samples - first)
        for first in range(0, options.num_samples, options.batch_size)
    ]
    batches = [random_batch(size, options.tokens) for size in sizes]
    macs = MacModel.of(encoder, options.tokens)
    encoder.model(**random_batch(1, options.tokens))  # what only the first pass costs is no stage's

    costs = {}
    for estimator in ("per_batch", "per_sample"):
        with measured() as costs[f"Fisher, {estimator}"]:
            fisher = estimate_fisher(encoder, batches, "classification", estimator=estimator, progress=False)
    with measured() as costs["search"]:
        masks, teacher_masks = (
            search_macs(fisher.head_importance, fisher.filter_importance, macs, ratio)
            for ratio in (options.keep_ratio, options.keep_ratio**0.5)
        )
    with measured() as costs["rearrange"]:
        masks = rearrange(masks, fisher)
    with measured() as costs["slice"]:
        slice_model(encoder, masks)
    with measured() as costs["tune masks"]:
        tuned = tune_masks(encoder, masks, teacher_masks, batches, "classification", progress=False)

    with measured() as costs["curvature"]:
        curvature = estimate_curvature(encoder, batches, "classification", progress=False)
    with measured() as costs["removal costs"]:
        importance = removal_costs(encoder, curvature)
    masks = search_macs(*importance, macs, options.keep_ratio)
    with measured() as costs["rebuild weights"]:
        reconstruct_weights(Teacher(encoder, batches), masks, "classification", progress=False)

    print(f"{'stage':<20}{'seconds':>10}{'ms / sample':>14}{'peak MiB':>11}{'added MiB':>11}")
    for name, cost in costs.items():
        print(
            f"{name:<20}{cost.seconds:>10.2f}{1e3 * cost.seconds / options.num_samples:>14.1f}"
            f"{cost.peak:>11.0f}{cost.added:>11.0f}"
        )
    print(
        f"kept {macs.kept(tuned.masks):.4f} of the MACs; heads {tuned.masks.head_counts}, "
        f"filters {tuned.masks.filter_counts}"
        + (f"; tuning ended at {tuned.stopped}" if tuned.stopped else "")
    )
    return costs


if __name__ == "__main__":
    main()
