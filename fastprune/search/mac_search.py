"""Mask search under a MAC budget (paper, section 3.2, algorithm 1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastprune.errors import InputError
from fastprune.model.masks import Masks
from fastprune.search.macs import MacModel


def check_keep_ratio(keep_ratio: float) -> None:
    """Raise InputError unless ``0 < keep_ratio < 1``."""
    if not 0 < keep_ratio < 1:
        raise InputError(
            f"keep_ratio is the fraction of MACs that is kept, between 0 and 1 (both excluded); got {keep_ratio}"
        )


def check_importance(heads: Tensor, filters: Tensor) -> None:
    """Raise InputError unless the importance of heads [L, H] and filters [L, I] can be searched by.

    Every search passes here. NaN, infinite and negative values are refused, and sums that overflow: by them, any units
    could be taken for the best. So is importance that is zero everywhere: it says nothing about what to keep.
    """
    total = 0.0
    for kind, values in (("heads", heads), ("filters", filters)):
        for index, row in enumerate(values.double()):
            total += float(row.sum())
            if not (math.isfinite(total) and row.min() >= 0):
                raise InputError(
                    f"the importance of the {kind} of layer {index} is NaN, infinite or negative: the model's "
                    "activations or gradients on the sample are too large; check its predictions on the sample, and "
                    "fine-tune it again if they are not sound"
                )
    if total == 0:
        raise InputError(
            "no head and no filter has any importance: the model's predictions on the sample do not depend on them; "
            "check that its predictions differ from row to row, that its logits are not so large that the softmax "
            "saturates, and that the sample is the model's own task"
        )


def search_macs(head_importance: Tensor, filter_importance: Tensor, macs: MacModel, keep_ratio: float) -> Masks:
    """The heads and filters of greatest total importance within ``keep_ratio`` of the dense MACs.

    All heads cost the same and all filters cost the same, so for each number of heads the best choice is the most
    important heads and as many of the most important filters as the rest of the budget buys. Trying every
    number of heads gives the exact optimum of the diagonal objective (paper, eq. 9). Where heads of some layers attend
    to a window and cost less, every pair of numbers is tried.

    Parameters
    ----------
    head_importance : Tensor [L, H]
    filter_importance : Tensor [L, I]
        Diagonal of the Fisher.
    macs : MacModel
    keep_ratio : float
        Fraction of the dense MACs to keep, in (0, 1).

    Returns
    -------
    Masks
        Binary.

    Raises
    ------
    InputError
        ``keep_ratio`` is out of range, or buys neither a head nor a filter, or the importance is not finite or all
        zero.
    """
    check_keep_ratio(keep_ratio)
    check_importance(head_importance, filter_importance)
    budget = keep_ratio * macs.total
    prices = sorted({macs.per_head - less for less in macs.spared})
    if budget < min(*prices, macs.per_filter):
        smallest = min(*prices, macs.per_filter) / macs.total
        raise InputError(
            f"keep_ratio {keep_ratio} keeps nothing at all: a single head or filter of this model "
            f"is {smallest:.2g} of its MACs; raise keep_ratio"
        )
    filter_values, filter_order = filter_importance.double().flatten().sort(descending=True, stable=True)
    heads, filters = (torch.zeros_like(head_importance).flatten(), torch.zeros_like(filter_importance).flatten())

    # One axis for the heads of each price: [heads + 1], or [heads + 1, other heads + 1], all up to kept_importance.
    cost, value, orders = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64), []
    for price in prices:
        own = torch.tensor([macs.per_head - less == price for less in macs.spared])
        numbers = own[:, None].expand_as(head_importance).flatten().nonzero().flatten()
        head_values, order = head_importance.double().flatten()[numbers].sort(descending=True, stable=True)
        orders.append(numbers[order])
        cost = cost[..., None] + torch.arange(len(order) + 1, dtype=torch.float64) * price
        value = value[..., None] + prefix_sums(head_values)
    left = budget - cost
    affordable = left >= 0
    num_filters = (left / macs.per_filter).floor().clamp(0, len(filter_values)).long()
    kept_importance = value + prefix_sums(filter_values)[num_filters]
    best = kept_importance.masked_fill(~affordable, -1).argmax()

    for order, number in zip(orders, torch.unravel_index(best, cost.shape), strict=True):
        heads[order[: int(number)]] = 1
    filters[filter_order[: num_filters.flatten()[best]]] = 1
    return Masks(heads.view_as(head_importance).float(), filters.view_as(filter_importance).float())


def prefix_sums(values: Tensor) -> Tensor:
    """Sums of the first 0, 1, ..., n values: [n + 1]."""
    return torch.cat([values.new_zeros(1), values.cumsum(0)])
