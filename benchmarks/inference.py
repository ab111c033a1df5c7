"""The sliced model against the dense one and the masked one, in turn, and where its time goes.

    python -m benchmarks.inference

Masks alone save nothing. Halving the MACs would halve the time, were all of it spent in products of matrices
that run as fast when they are smaller; the second table shows how much is, and what the rest is.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import parser, print_times, random_batch, random_encoder, start, time_in_turn
from fastprune.model.architectures import Encoder
from fastprune.model.masks import Masks, masked
from fastprune.model.surgery import slice_model
from fastprune.search.mac_search import search_macs
from fastprune.search.macs import MacModel

KINDS = {
    "linear layers": ("aten::addmm", "aten::mm", "aten::linear", "mkldnn::_linear_pointwise"),
    "attention": (
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::scaled_dot_product_attention",
        "aten::bmm",
        "aten::_softmax",
        "aten::softmax",
        "aten::baddbmm",
    ),
    "GELU": ("aten::gelu",),
    "LayerNorm": ("aten::native_layer_norm", "aten::layer_norm"),
    "residual additions": ("aten::add", "aten::add_"),
    "embeddings": ("aten::embedding", "aten::index_select"),
    "copies": ("aten::copy_", "aten::clone", "aten::contiguous", "aten::cat"),
}
KIND_OF = {op: kind for kind, ops in KINDS.items() for op in ops}


def main(arguments: list[str] | None = None) -> dict[str, list[float]]:
    options = parser(__doc__)
    options.add_argument("--batch-size", type=int, default=8)
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--profile-rounds", type=int, default=5)
    options = options.parse_args(arguments)
    start(options)
    encoder = random_encoder(options)
    macs = MacModel.of(encoder, options.tokens)
    even = even_masks(encoder, options.keep_ratio)
    # Log-normal importances, as trained models have them, leave some layers with much and others with little.
    scale = macs.per_head / macs.per_filter
    layers = torch.randn(options.layers, 1).mul(0.7).exp()
    uneven = search_macs(
        torch.randn(options.layers, options.heads).exp() * layers * scale,
        torch.randn(options.layers, options.filters).exp() * layers,
        macs,
        options.keep_ratio,
    )
    batch = random_batch(options.batch_size, options.tokens)
    del batch["labels"]
    dense, sliced, searched = encoder.model, slice_model(encoder, even), slice_model(encoder, uneven)

    def forward(model):
        with torch.inference_mode():
            return model(**batch)

    def forward_masked():
        with masked(encoder, even.heads, even.filters):
            return forward(dense)

    print(
        f"MACs kept: evenly {macs.kept(even):.3f}; unevenly {macs.kept(uneven):.3f}, "
        f"heads {uneven.head_counts}, filters {uneven.filter_counts}\n"
    )
    seconds = time_in_turn(
        {
            "dense": lambda: forward(dense),
            "masked": forward_masked,
            "sliced evenly": lambda: forward(sliced),
            "sliced unevenly": lambda: forward(searched),
        },
        options.rounds,
        warmup=3,
    )
    print_times(seconds, "dense")

    times = {
        name: profiled(lambda model=model: forward(model), options.profile_rounds)
        for name, model in (("dense", dense), ("sliced", sliced))
    }
    print(f"\n{'ms a pass, by the profiler':<28}{'dense':>11}{'sliced':>10}{'share':>10}{'times faster':>15}")
    total = {name: sum(kinds.values()) for name, kinds in times.items()}
    for kind in [*KINDS, "rest"]:
        whole, part = times["dense"][kind], times["sliced"][kind]
        if whole:
            print(
                f"{kind:<28}{whole:>11.2f}{part:>10.2f}{part / total['sliced']:>10.1%}"
                + (f"{whole / part:>15.2f}" if part else "")
            )
    print(
        f"{'all':<28}{total['dense']:>11.2f}{total['sliced']:>10.2f}{1:>10.1%}{total['dense'] / total['sliced']:>15.2f}"
    )
    return seconds


def even_masks(encoder: Encoder, keep_ratio: float) -> Masks:
    """The same share of heads and of filters in every layer."""
    masks = Masks(
        torch.zeros(encoder.num_layers, encoder.num_heads), torch.zeros(encoder.num_layers, encoder.num_filters)
    )
    masks.heads[:, : round(keep_ratio * encoder.num_heads)] = 1
    masks.filters[:, : round(keep_ratio * encoder.num_filters)] = 1
    return masks


def profiled(function, rounds: int) -> Counter:
    """Milliseconds of one call by kind of operation, each operation's own time without what it calls."""
    function()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(rounds):
            function()
    times: Counter = Counter()
    for event in recorded.key_averages():
        times[KIND_OF.get(event.key, "rest")] += event.self_cpu_time_total / 1e3 / rounds
    return times


if __name__ == "__main__":
    main()
