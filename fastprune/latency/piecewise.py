"""Mask search under a latency budget with a piece-wise linear model of the table (paper, sections 3.1 and 3.2).

Faithful to the paper and not to the published code, where the budget leaks from one candidate into the next; a dropped
layer may be refilled with units of no importance, which the budget has not paid for; a slope of zero divides by zero;
a fit fails whose squared error is above 10,000; and candidates are compared by the units above the thresholds alone,
so that whole blocks are dropped as if they held nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastprune.model.masks import Masks
from fastprune.search.mac_search import prefix_sums


@dataclass(frozen=True)
class PiecewiseLinear:
    """Latency of a block by what it keeps: ``constant`` up to ``threshold`` units, then ``slope`` more for each.

    ``empty`` is what a block without any unit takes; the paper's is 0.
    """

    threshold: int
    constant: float
    slope: float
    empty: float = 0.0


def fit(times: Sequence[float], empty: float = 0.0) -> PiecewiseLinear:
    """Least squares over every threshold: the mean up to it, and the best slope from there on, never below 0.

    Parameters
    ----------
    times : sequence of N floats
        Of 1 to N units.
    empty : float
    """
    curve = np.asarray(times, dtype=np.float64)  # [N]
    best, least = PiecewiseLinear(1, float(curve[0]), 0.0, empty), np.inf
    for threshold in range(1, len(curve) + 1):
        constant = curve[:threshold].mean()
        above = curve[threshold:] - constant  # [N - threshold]
        steps = np.arange(1, len(above) + 1)
        slope = max(float((steps * above).sum() / (steps * steps).sum()), 0.0) if len(above) else 0.0
        error = ((curve[:threshold] - constant) ** 2).sum() + ((above - slope * steps) ** 2).sum()
        if error < least:
            best, least = PiecewiseLinear(threshold, float(constant), slope, empty), error
    return best


def search_piecewise(
    head_importance: Tensor,
    filter_importance: Tensor,
    attention: PiecewiseLinear,
    ffn: PiecewiseLinear,
    budget: float,
    *,
    as_published: bool = False,
) -> Masks | None:
    """For every number of blocks dropped, the best units above the thresholds of the others.

    A block that is not dropped keeps at least its ``threshold`` units, its base, which it has for the same time. Above
    the bases every head costs the same and every filter costs the same, as in the search under MACs.

    Parameters
    ----------
    head_importance : Tensor [L, H]
    filter_importance : Tensor [L, I]
    attention, ffn : PiecewiseLinear
    budget : float
        Of all blocks together, in the unit of the fits.
    as_published : bool
        Consider and compare candidates as the published code does, for comparing with it: the importance of the bases
        does not count, and at least one block of each kind and one head above the bases is kept.

    Returns
    -------
    Masks or None
        None where nothing can be kept within the budget.
    """
    heads, filters = _Blocks(head_importance, attention), _Blocks(filter_importance, ffn)
    most_drops = len(head_importance) - as_published
    best, most = None, 0.0
    for head_drops, above_heads in enumerate(heads.above[: most_drops + 1]):
        for filter_drops, above_filters in enumerate(filters.above[: most_drops + 1]):
            left = budget - heads.base_cost[head_drops] - filters.base_cost[filter_drops]
            if left < 0:
                continue
            num_heads = torch.arange(min(_affordable(left, attention.slope), len(above_heads) - 1) + 1)[as_published:]
            if not len(num_heads):
                continue
            rest = left - attention.slope * num_heads.double()
            num_filters = (rest / ffn.slope + 1e-9).floor() if ffn.slope else torch.full_like(rest, len(above_filters))
            num_filters = num_filters.clamp(0, len(above_filters) - 1).long()
            total = above_heads[num_heads] + above_filters[num_filters]
            choice = int(total.argmax())
            worth = float(total[choice])
            if not as_published:
                worth += heads.base_worth[head_drops] + filters.base_worth[filter_drops]
            if worth > most:
                most, best = (worth, (head_drops, int(num_heads[choice]), filter_drops, int(num_filters[choice])))
    if best is None:
        return None
    return Masks(heads.mask(*best[:2]), filters.mask(*best[2:]))


def _affordable(left: float, slope: float) -> int:
    return int(left / slope + 1e-9) if slope else 10**9  # 1e-9: what fits but for rounding


class _Blocks:
    """The L blocks of one kind for every number of drops d = 0, ..., L, those with the least important bases first.

    ``above[d]`` are the prefix sums of the importance of the units above the bases of what is left, ``base_cost[d]``
    and ``base_worth[d]`` the time of all L blocks at their bases and the importance of these.
    """

    def __init__(self, importance: Tensor, fit: PiecewiseLinear):
        self.num_blocks, self.num_units = importance.shape
        self.threshold = fit.threshold
        values, self.order = importance.double().sort(dim=1, descending=True, stable=True)  # [L, units] both
        base = values[:, : fit.threshold].sum(1)  # [L]
        self.drop_order = base.argsort(stable=True)
        self.ranked, self.above, self.base_cost, self.base_worth = [], [], [], []
        for drops in range(self.num_blocks + 1):
            left = self.drop_order[drops:].sort().values
            ranked = values[left, fit.threshold :].flatten().sort(descending=True, stable=True)  # [(L - d) * above]
            self.ranked.append((left, ranked.indices))
            self.above.append(prefix_sums(ranked.values))
            self.base_cost.append(drops * fit.empty + len(left) * fit.constant)
            self.base_worth.append(float(base[left].sum()))

    def mask(self, drops: int, num_above: int) -> Tensor:
        """Mask [L, units] of the bases that are left and of the best ``num_above`` units above them."""
        left, ranked = self.ranked[drops]
        mask = torch.zeros(self.num_blocks, self.num_units)
        mask[left[:, None], self.order[left, : self.threshold]] = 1
        width = self.num_units - self.threshold
        if width and num_above:
            chosen = ranked[:num_above]
            blocks = left[chosen // width]
            mask[blocks, self.order[blocks, self.threshold + chosen % width]] = 1
        return mask
