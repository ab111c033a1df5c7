"""The search of layout portable: among the models that the configuration of an architecture can say.

The configuration of an architecture gives one number of heads and one of filters for all layers, and heads the size
that all of them share the hidden size by. So a layer keeps all of its heads or is removed, and every layer that is left
keeps the same number of filters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastprune.latency.lut import LatencyTable
from fastprune.model.masks import Masks
from fastprune.search.mac_search import check_importance, prefix_sums
from fastprune.search.macs import MacModel

ROUNDING = 1e-9
"""Costs that are over the budget by this part of it are within it: half of the layers are half of the MACs."""


def filters_within_macs(macs: MacModel, budget: float) -> list[int]:
    """Of 1, 2, ... layers the most filters of each that ``budget`` MACs buy; below 1 where not one fits."""
    fixed = 0.0
    found = []
    for number, spared in enumerate(macs.spared, start=1):
        fixed += macs.num_heads * (macs.per_head - spared)
        left = budget * (1 + ROUNDING) - fixed
        found.append(min(math.floor(left / (number * macs.per_filter)), macs.num_filters))
    return found


def filters_within_latency(table: LatencyTable, num_layers: int, budget: float) -> list[int]:
    """Of 1, 2, ... layers the most filters of each that ``budget`` milliseconds allow; 0 where not one fits."""
    found = []
    for number in range(1, num_layers + 1):
        left = (budget * (1 + ROUNDING) - table.overhead_ms) / number - table.attention_ms[-1]
        fits = [filters for filters, time in enumerate(table.ffn_ms) if filters and time <= left]
        found.append(max(fits, default=0))
    return found


def search_portable(
    head_importance: Tensor, filter_importance: Tensor, filters_within: Sequence[int], places: Sequence[str] = ()
) -> Masks | None:
    """The layers and filters of the greatest total importance among the models that a configuration can say.

    For every number of layers, the budget gives the filters of each. A layer is then worth its heads and as many of its
    best filters, and the best layers are chosen: those of the greatest sum, in their order, each of the kind that its
    new place demands. It is the optimum of the objective of :func:`fastprune.search.mac_search.search_macs`.

    Parameters
    ----------
    head_importance : Tensor [L, H]
    filter_importance : Tensor [L, I]
    filters_within : sequence of int [L]
        Of 1, 2, ... layers the most filters of each within the budget.
    places : sequence of str [L], optional
        What each place demands; by default all are alike.

    Returns
    -------
    Masks or None
        Binary; None where not a single layer with a filter is within the budget.

    Raises
    ------
    InputError
        The importance is not finite, or all zero.
    """
    check_importance(head_importance, filter_importance)
    num_layers, kinds = len(head_importance), places or [""] * len(head_importance)
    of_heads = head_importance.double().sum(1)  # [L]
    ranked, order = filter_importance.double().sort(dim=1, descending=True, stable=True)  # [L, I]
    of_filters = torch.stack([prefix_sums(row) for row in ranked])  # [L, I + 1]
    best: tuple[float, list[int], int] | None = None
    for number, filters in enumerate(filters_within, start=1):
        if filters < 1:
            continue
        worth, layers = best_layers((of_heads + of_filters[:, filters]).tolist(), number, kinds)
        if best is None or worth > best[0]:
            best = worth, layers, filters
    if best is None:
        return None
    _, layers, filters = best
    masks = Masks(torch.zeros(num_layers, head_importance.shape[1]), torch.zeros(filter_importance.shape))
    for layer in layers:
        masks.heads[layer] = 1
        masks.filters[layer, order[layer, :filters]] = 1
    return masks


def best_layers(worth: Sequence[float], number: int, kinds: Sequence[str]) -> tuple[float, list[int]]:
    """Of all layers the ``number`` of the greatest sum, in their order, whose kinds are those of the first places.

    Returns
    -------
    worth : float
    layers : list of int
    """
    # Of the layers so far, the best choice for the first 0, 1, ... places; the first layers always fit.
    best: list[tuple[float, list[int]]] = [(0.0, [])]
    for layer, kind in enumerate(kinds):
        for place in range(min(layer, number - 1), -1, -1):
            if kind != kinds[place]:
                continue
            total, layers = best[place]
            taken = (total + worth[layer], [*layers, layer])
            if place + 1 == len(best):
                best.append(taken)
            elif taken[0] > best[place + 1][0]:
                best[place + 1] = taken
    return best[number]
