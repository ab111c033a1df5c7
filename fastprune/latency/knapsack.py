"""The multiple-choice knapsack behind the exact latency search: one choice from every group, the best within a budget.

A Lagrangian relaxation bounds the optimum from above and throws out the choices that cannot be part of it; dynamic
programming over the few that are left closes the gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_STATES = 4096
"""Partial solutions kept at a time; where there are more, they are thinned and the result is not proven optimal."""


@dataclass(frozen=True)
class Choice:
    """One choice per group.

    Attributes
    ----------
    picks : list of int
    value : float
    bound : float
        No choice within the budget is worth more; equal to ``value`` where that is proven to be the optimum.
    """

    picks: list[int]
    value: float
    bound: float


def solve(values: Sequence[np.ndarray], costs: Sequence[np.ndarray], budget: float) -> Choice | None:
    """Choose one item of every group: the greatest sum of values whose costs sum to at most ``budget``.

    Parameters
    ----------
    values, costs : sequence of arrays [items of the group]
    budget : float
        Sums that differ from it by rounding alone are within it.

    Returns
    -------
    Choice or None
        None where even the cheapest items cost more than the budget.
    """
    slack = budget + 1e-9 * abs(budget)
    # From here on all lists have an array for each group: values, costs and reduced values of the items left, [items].
    groups = [_undominated(value, cost) for value, cost in zip(values, costs, strict=True)]
    values = [np.asarray(value, dtype=np.float64)[group] for value, group in zip(values, groups, strict=True)]
    costs = [np.asarray(cost, dtype=np.float64)[group] for cost, group in zip(costs, groups, strict=True)]
    if sum(cost[0] for cost in costs) > slack:
        return None
    price = _best_price(values, costs, slack)
    reduced = [value - price * cost for value, cost in zip(values, costs, strict=True)]
    bound = price * slack + sum(part.max() for part in reduced)
    picks = _filled(values, costs, reduced, slack)
    best = sum(value[pick] for value, pick in zip(values, picks, strict=True))
    # What an item is short of its group's best is what choosing it takes off the bound.
    tolerance = 1e-12 * max(abs(bound), 1e-300)
    gap = bound - best + tolerance
    cores = [np.flatnonzero(part.max() - part <= gap) for part in reduced]
    better, proven = _program(values, costs, reduced, cores, price, slack, gap)
    if better is not None:
        worth = sum(value[pick] for value, pick in zip(values, better, strict=True))
        if worth >= best:
            picks, best = better, worth
    return Choice(
        [int(group[pick]) for group, pick in zip(groups, picks, strict=True)],
        float(best),
        float(best if proven else max(bound, best)),
    )


def _undominated(value: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Items, by rising cost and value, for which no other has at least their value and at most their cost."""
    order = np.lexsort((-np.asarray(value), np.asarray(cost)))
    ranked = np.asarray(value)[order]
    best_before = np.concatenate([[-np.inf], np.maximum.accumulate(ranked)[:-1]])
    return order[ranked > best_before]


def _at_price(values, costs, price: float) -> tuple[list[int], float]:
    """Each group's best item when cost is paid for, the cheapest among equals, and what they cost."""
    picks = [int((value - price * cost).argmax()) for value, cost in zip(values, costs, strict=True)]
    return picks, sum(float(cost[pick]) for cost, pick in zip(costs, picks, strict=True))


def _best_price(values, costs, budget: float) -> float:
    """The price of a millisecond that makes the bound lowest: the least at which the budget holds."""
    if _at_price(values, costs, 0.0)[1] <= budget:
        return 0.0
    low, high = 0.0, 1.0
    while _at_price(values, costs, high)[1] > budget and high < 1e300:  # then rounding hides the costs: see _filled
        low, high = high, 4 * high
    for _ in range(100):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if _at_price(values, costs, middle)[1] > budget else (low, middle)
    return high


def _filled(values, costs, reduced, budget: float) -> list[int]:
    """The relaxation's choice; then, as long as one fits, the upgrade of a group that adds the most value."""
    picks = [int(part.argmax()) for part in reduced]
    spent = sum(float(cost[pick]) for cost, pick in zip(costs, picks, strict=True))
    if spent > budget:  # the price was rounded
        return [0] * len(picks)
    while True:
        best, choice = None, None
        for group, cost in enumerate(costs):
            pick = picks[group]
            last = int(np.searchsorted(cost, cost[pick] + budget - spent, side="right"))
            if last > pick + 1:
                upgrade = pick + 1 + int(values[group][pick + 1 : last].argmax())
                gain = values[group][upgrade] - values[group][pick]
                if best is None or gain > best:
                    best, choice = gain, (group, upgrade)
        if choice is None:
            return picks
        group, upgrade = choice
        spent += float(costs[group][upgrade] - costs[group][picks[group]])
        picks[group] = upgrade


def _program(values, costs, reduced, cores, price: float, budget: float, gap: float) -> tuple[list[int] | None, bool]:
    """Dynamic programming over the cores: the best choice, and whether no partial solution was thinned out.

    A partial solution that has lost more than ``gap`` on the bound cannot become better than what is known.
    """
    cheapest_rest = np.concatenate(
        [np.cumsum([cost[core].min() for cost, core in zip(costs[::-1], cores[::-1], strict=True)])[::-1], [0.0]]
    )
    spent, worth, lost = np.zeros(1), np.zeros(1), np.zeros(1)
    trail, proven = [], True
    for group, (value, cost, part, core) in enumerate(zip(values, costs, reduced, cores, strict=True)):
        short = part.max() - part[core]  # [core]
        state, item = np.nonzero(
            (lost[:, None] + short <= gap) & (spent[:, None] + cost[core] <= budget - cheapest_rest[group + 1])
        )  # [pairs] each, out of [states, core]
        if not len(state):
            return None, proven
        new_spent, new_worth = spent[state] + cost[core][item], worth[state] + value[core][item]
        kept = np.lexsort((-new_worth, new_spent))
        ranked = new_worth[kept]
        kept = kept[ranked > np.concatenate([[-np.inf], np.maximum.accumulate(ranked)[:-1]])]
        if len(kept) > MAX_STATES:
            proven = False
            nearest = (new_worth - price * new_spent)[kept]  # those that have lost least on the bound
            kept = kept[np.sort(np.argpartition(-nearest, MAX_STATES)[:MAX_STATES])]
        trail.append((state[kept], core[item[kept]]))
        spent, worth = new_spent[kept], new_worth[kept]
        lost = (lost[state] + short[item])[kept]
    at, picks = int(worth.argmax()), []
    for state, item in reversed(trail):
        picks.append(int(item[at]))
        at = int(state[at])
    return picks[::-1], proven
