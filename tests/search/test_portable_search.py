"""Layout portable: the best of all models that a configuration can say, within MACs or a latency."""

from itertools import combinations

import pytest
import torch
from tiny_tables import make_table

from fastprune.errors import InputError
from fastprune.importance.selection import Importance
from fastprune.search.cost import Cost
from fastprune.search.macs import MacModel
from fastprune.settings import Budget

LAYERS, HEADS, FILTERS = 5, 3, 6
TABLE = make_table([0.3, 1, 1.5, 2], [0.2, 1, 1.2, 1.1, 2.2, 2.9, 4], overhead=0.7)
PATTERN = ["first", "far", "near", "far", "near"]
WINDOWS = [None, None, 3, None, 3]
RATIOS = [0.2, 0.3, 0.45, 0.6, 0.77, 0.95]
COSTS = {
    "macs": Cost(MacModel(LAYERS, HEADS, FILTERS, 12, 4, 7.3), layout="portable"),
    "latency": Cost(MacModel(LAYERS, HEADS, FILTERS, 12, 4, 7.3), TABLE, layout="portable"),
    "windows": Cost(MacModel(LAYERS, HEADS, FILTERS, 12, 4, 7.3, 2, WINDOWS, PATTERN), layout="portable"),
}


def importance_of(seed):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.rand(LAYERS, 1, generator=generator, dtype=torch.float64) ** 3  # some layers are worth far more
    heads, filters = (torch.rand(LAYERS, n, generator=generator, dtype=torch.float64) for n in (HEADS, FILTERS))
    return Importance(sizes * heads, sizes * filters)


def cost_of(cost, layers, filters):
    """Fraction of the dense model's cost, added up layer by layer."""
    if cost.table:
        times = [TABLE.attention_ms[HEADS] + TABLE.ffn_ms[filters] for _ in layers]
        return (TABLE.overhead_ms + sum(times)) / TABLE.dense_ms(LAYERS)
    spared = cost.macs.spared
    each = [HEADS * (cost.macs.per_head - spared[layer]) + filters * cost.macs.per_filter for layer in layers]
    return sum(each) / cost.macs.total


def best_of_all(cost, importance, keep_ratio):
    found = 0.0
    for number in range(1, LAYERS + 1):
        for layers in combinations(range(LAYERS), number):
            if cost.macs.places and [PATTERN[layer] for layer in layers] != PATTERN[:number]:
                continue
            for filters in range(1, FILTERS + 1):
                if cost_of(cost, layers, filters) <= keep_ratio + 1e-12:
                    each = [importance.filters[layer].topk(filters).values.sum() for layer in layers]
                    found = max(found, float(sum(each) + importance.heads[list(layers)].sum()))
    return found


@pytest.mark.parametrize("kind", COSTS)
@pytest.mark.parametrize("seed", range(6))
def test_no_model_that_a_configuration_can_say_is_better(kind, seed):
    cost, importance = COSTS[kind], importance_of(seed)
    for keep_ratio in RATIOS:
        if keep_ratio < cost.smallest:
            continue
        masks = cost.search(importance, keep_ratio)
        worth = float((masks.heads * importance.heads).sum() + (masks.filters * importance.filters).sum())
        assert worth == pytest.approx(best_of_all(cost, importance, keep_ratio))
        kept = [layer for layer, _ in masks.spans]
        filters = {count for count in masks.filter_counts if count}
        assert {*masks.head_counts} <= {0, HEADS} and len(filters) == 1
        assert [layer for layer, count in enumerate(masks.filter_counts) if count] == kept
        share = cost.kept(masks)["latency_kept" if cost.table else "macs_kept"]
        assert share == pytest.approx(cost_of(cost, kept, filters.pop())) and share <= keep_ratio + 1e-9


@pytest.mark.parametrize("kind", COSTS)
def test_a_budget_for_less_than_one_layer_is_refused_with_the_smallest_that_can_be_met(kind):
    cost = COSTS[kind]
    assert cost.smallest == pytest.approx(
        min(cost_of(cost, [0], 1), cost_of(cost, [0], 3)) if kind == "latency" else cost_of(cost, [0], 1)
    )
    for act in (
        lambda ratio: cost.settle(Budget(keep_ratio=ratio)),
        lambda ratio: cost.search(importance_of(0), ratio),
    ):
        with pytest.raises(InputError, match="cannot be met in layout portable: .* or use layout free") as refused:
            act(cost.smallest - 1e-6)
        act(float(str(refused.value).split("keeps ")[1].split(";")[0]))


def test_layers_that_stand_for_others():
    masks = COSTS["macs"].search(importance_of(0), 0.5)
    masks.heads[:], masks.filters[:] = 0, 0
    masks.heads[[1, 2, 4]] = 1
    assert masks.spans == [(1, 1), (2, 3), (4, 4)] and len(masks.of_kept_layers().heads) == 3
    masks.heads[4] = 0
    assert masks.spans == [(1, 1), (2, 4)]
