"""Mask search under a latency budget, on the measured look-up table itself (beyond the paper's piece-wise model)."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Context
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from fastprune.errors import InputError
from fastprune.latency import knapsack
from fastprune.latency.lut import LatencyTable
from fastprune.latency.piecewise import fit, search_piecewise
from fastprune.model.masks import Masks
from fastprune.search.mac_search import check_importance, prefix_sums
from fastprune.settings import Solver


def smallest_latency(table: LatencyTable, num_layers: int) -> float:
    """Milliseconds of the fastest model that keeps anything at all."""
    blocks = (table.attention_ms, table.ffn_ms)
    unit = min(min(times[1:]) - min(times) for times in blocks)
    return table.overhead_ms + num_layers * sum(map(min, blocks)) + unit


def check_latency(table: LatencyTable, num_layers: int, keep_ratio: float) -> None:
    """Raise InputError unless some model that keeps anything is predicted to be within the budget."""
    dense, smallest = table.dense_ms(num_layers), smallest_latency(table, num_layers)
    if smallest >= dense:
        raise InputError(
            f"by the look-up table of {table.device} no pruned model is faster than the dense one, which takes "
            f"{dense:.4g} ms; measure it again with `fastprune profile`, or use a budget of MACs"
        )
    if not smallest <= keep_ratio * dense:
        raise InputError(
            f"a latency of {keep_ratio * dense:.4g} ms (keep_ratio {keep_ratio:.4g}) cannot be met: the "
            f"smallest model takes {_rounded_up(smallest)} ms on {table.device}; its keep_ratio is "
            f"{_rounded_up(smallest / dense)}"
        )


def _rounded_up(value: float) -> str:
    """To four digits, upwards: the smallest budget as it is printed can then be met."""
    return f"{Context(prec=4, rounding=ROUND_CEILING).create_decimal_from_float(value):f}"


def search_latency(
    head_importance: Tensor,
    filter_importance: Tensor,
    table: LatencyTable,
    keep_ratio: float,
    *,
    solver: Solver = "exact",
) -> Masks:
    """The heads and filters of greatest total importance whose predicted latency is within the budget.

    Within a block the most important units are the best whatever their number, so a block's choices are its
    numbers of units, worth the prefix sums of its sorted importance and costing the table's entries: with two blocks
    a layer, a multiple-choice knapsack. Steps, plateaus and empty blocks are entries like all others.

    Parameters
    ----------
    head_importance : Tensor [L, H]
    filter_importance : Tensor [L, I]
    table : LatencyTable
    keep_ratio : float
        Fraction of the dense model's predicted latency to keep.
    solver : {"exact", "piecewise"}
        ``exact`` solves the knapsack on the table. ``piecewise`` is the paper's search on the piece-wise linear fit;
        where the fit is too optimistic, it searches again under a smaller budget until the table agrees.

    Returns
    -------
    Masks
        Binary; ``table.of_masks`` of them is within the budget.

    Raises
    ------
    InputError
        No model that keeps anything is within the budget (the smallest that is, is named), or the importance is not
        finite or all zero.
    """
    num_layers = len(head_importance)
    check_importance(head_importance, filter_importance)
    check_latency(table, num_layers, keep_ratio)
    budget = keep_ratio * table.dense_ms(num_layers)
    if solver == "exact":
        masks = _exact(head_importance, filter_importance, table, budget - table.overhead_ms)
    elif solver == "piecewise":
        masks = _piecewise(head_importance, filter_importance, table, budget)
    else:
        raise InputError(f"solver {solver!r} is not known; use one of {', '.join(get_args(Solver))}")
    if masks is None or not (masks.heads.any() or masks.filters.any()):
        raise InputError(f"the {solver} search keeps nothing at all within {budget:.3g} ms; raise keep_ratio")
    return masks


def _exact(head_importance: Tensor, filter_importance: Tensor, table: LatencyTable, budget: float) -> Masks | None:
    importance = _representable([*head_importance.double().cpu(), *filter_importance.double().cpu()])
    ranked = [row.sort(descending=True, stable=True) for row in importance]
    attention_ms, ffn_ms = np.array(table.attention_ms), np.array(table.ffn_ms)  # [H + 1], [I + 1]
    costs = [attention_ms] * len(head_importance) + [ffn_ms] * len(filter_importance)
    choice = knapsack.solve([prefix_sums(values).numpy() for values, _ in ranked], costs, budget)
    if choice is None:
        return None
    rows = []
    for row, (_, order), count in zip(importance, ranked, choice.picks, strict=True):
        mask = torch.zeros(len(row))
        mask[order[:count]] = 1
        rows.append(mask)
    return Masks(torch.stack(rows[: len(head_importance)]), torch.stack(rows[len(head_importance) :]))


def _representable(importance: list[Tensor]) -> list[Tensor]:
    """Rows of importance for which a price per millisecond can be found: scaled where it could not, else as they are.

    The scale is a power of two, and no choice depends on it.
    """
    total = sum(float(row.sum()) for row in importance)
    if 2.0**-50 < total < 2.0**200:
        return importance
    return [torch.ldexp(row, torch.tensor(-math.frexp(total)[1])) for row in importance]


def _piecewise(head_importance: Tensor, filter_importance: Tensor, table: LatencyTable, budget: float) -> Masks | None:
    attention = fit(table.attention_ms[1:], table.attention_ms[0])
    ffn = fit(table.ffn_ms[1:], table.ffn_ms[0])
    nominal = budget - table.overhead_ms
    while (masks := search_piecewise(head_importance, filter_importance, attention, ffn, nominal)) is not None:
        excess = table.of_masks(masks) - budget
        if excess <= 1e-9 * budget:
            return masks
        nominal -= max(excess, 1e-4 * budget)
    return None
