"""Search and rearrangement against the same algorithms written straight from the paper, in turn.

    python -m benchmarks.algorithms

The gradients are random; a few directions that all units share make them cancel as real ones do.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.common import parser, print_times, start, time_in_turn
from fastprune.search.mac_search import search_macs
from fastprune.search.macs import MacModel
from fastprune.search.rearrange import rearrange_layer
from tests import published


def main(arguments: list[str] | None = None) -> dict[str, dict[str, list[float]]]:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5, help="of the search and of the rearrangement of few rows")
    options.add_argument(
        "--rows", type=int, nargs="+", default=[64, 2048], help="gradient rows: mini-batches (as published) or examples"
    )
    options = options.parse_args(arguments)
    start(options)
    macs = MacModel(
        options.layers, options.heads, options.filters, options.hidden, options.hidden // options.heads, options.tokens
    )
    results = {}

    # A head holds the weights of many filters, and is worth as much.
    heads = torch.rand(options.layers, options.heads) * macs.per_head / macs.per_filter
    filters = torch.rand(options.layers, options.filters)

    def search(function):
        return lambda: function(heads, filters, macs, options.keep_ratio)

    masks = search(search_macs)()
    wanted = search(published.search)()
    check_same(
        torch.cat([masks.heads.flatten(), masks.filters.flatten()]), torch.cat([mask.flatten() for mask in wanted])
    )
    print(f"\nsearch, {heads.numel()} heads and {filters.numel()} filters")
    results["search"] = time_in_turn(
        {"published": search(published.search), "fastprune": search(search_macs)}, options.rounds
    )
    print_times(results["search"], "published")

    for num_rows in options.rows:
        gradients = torch.randn(num_rows, options.filters) + torch.randn(num_rows, 4) @ torch.randn(4, options.filters)
        mask = torch.zeros(options.filters)
        mask[gradients.square().sum(0).argsort(descending=True)[: round(options.keep_ratio * options.filters)]] = 1
        both = {
            "published": partial(published.rearrange_layer, mask, gradients),
            "fastprune": partial(rearrange_layer, mask, gradients),
        }
        check_same(both["fastprune"](), both["published"]())
        print(f"\nrearrangement of one layer, {options.filters} filters, {num_rows} gradient rows")
        rounds = options.rounds if num_rows <= 256 else max(options.rounds // 3, 1)
        results[f"rearrange {num_rows}"] = time_in_turn(both, rounds, warmup=0)
        print_times(results[f"rearrange {num_rows}"], "published")
    return results


def check_same(mask: Tensor, wanted: Tensor) -> None:
    """Only equal results are worth comparing for speed; float32 may swap a few units that are as good."""
    different = int((mask != wanted).sum())
    if different > 0.002 * len(mask):
        raise AssertionError(f"{different} of {len(mask)} units differ from the published algorithm's")


if __name__ == "__main__":
    main()
