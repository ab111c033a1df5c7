from itertools import combinations

import published
import pytest
import torch

from fastprune.importance.fisher import Fisher
from fastprune.model.masks import Masks
from fastprune.search.rearrange import rearrange, rearrange_layer


def gradients_of(kind, num_rows, num_units, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(num_rows, num_units, generator=generator, dtype=torch.float64)
    if kind == "correlated":
        rows = rows + 2 * torch.randn(num_rows, 1, generator=generator, dtype=torch.float64)
    elif kind == "cancelling":
        signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(num_units)[:num_units]
        rows = 0.3 * rows + signs * torch.randn(num_rows, 1, generator=generator, dtype=torch.float64)
    elif kind == "scales":
        order = torch.randperm(num_units, generator=generator)
        rows = rows * torch.logspace(-6, 3, num_units, dtype=torch.float64)[order]
    return rows


def least_important_pruned(gradients, num_pruned):
    mask = torch.ones(gradients.shape[1])
    mask[gradients.square().sum(0).argsort()[:num_pruned]] = 0
    return mask


def length(mask, gradients):
    """The quadratic form: squared length of the sum of the pruned units' gradients."""
    return float(gradients[:, mask == 0].sum(1).square().sum())


@pytest.mark.parametrize("kind", ["plain", "correlated", "cancelling", "scales"])
@pytest.mark.parametrize("num_rows, num_units", [(5, 12), (40, 12), (1, 30), (20, 200), (300, 150)])
def test_same_as_gathering_the_rows_every_step(kind, num_rows, num_units):
    for seed, share in enumerate((0.1, 0.4, 0.7, 0.9)):
        gradients = gradients_of(kind, num_rows, num_units, seed)
        mask = least_important_pruned(gradients, round(share * num_units))
        got = rearrange_layer(mask, gradients)
        assert torch.equal(got, published.rearrange_layer(mask, gradients))
        assert got.sum() == mask.sum()


@pytest.mark.parametrize("kind", ["plain", "correlated", "cancelling"])
def test_between_the_start_and_the_optimum(kind):
    better = 0
    for seed in range(10):
        gradients = gradients_of(kind, 4, 9, seed)
        for num_pruned in (1, 3, 6, 8):
            start = least_important_pruned(gradients, num_pruned)
            got = length(rearrange_layer(start, gradients), gradients)
            least = min(
                float(gradients[:, list(chosen)].sum(1).square().sum()) for chosen in combinations(range(9), num_pruned)
            )
            assert least * (1 - 1e-9) <= got <= length(start, gradients) * (1 + 1e-9)
            better += got < 0.99 * length(start, gradients)
    assert better > 5


def test_a_cancelling_pair_goes():
    """Two units whose gradients cancel are pruned before one that is smaller than either."""
    gradients = torch.tensor([[1.0, 0], [0, 1.1], [2, 0], [-2, -0.1], [9, 9]], dtype=torch.float64).T
    start = least_important_pruned(gradients, 3)
    assert start.tolist() == [0, 0, 0, 1, 1]
    assert rearrange_layer(start, gradients).tolist() == [1, 0, 0, 0, 1]


def test_ties():
    gradients = gradients_of("plain", 6, 8, 0)
    doubled = torch.cat([gradients, gradients, -gradients], dim=1)
    for num_pruned in (5, 12, 20):
        mask = least_important_pruned(doubled, num_pruned)
        got = rearrange_layer(mask, doubled)
        assert got.sum() == mask.sum()
        assert length(got, doubled) == pytest.approx(
            length(published.rearrange_layer(mask, doubled), doubled), abs=1e-9
        )
        assert torch.equal(got, rearrange_layer(mask, doubled))
    nothing = torch.zeros(6, 8)
    assert rearrange_layer(least_important_pruned(nothing, 3), nothing).sum() == 5


@pytest.mark.parametrize("exponent", [-130, -90, -31, 45, 80, 120])
def test_the_size_of_the_gradients_does_not_matter(exponent):
    """Also where their squares are zero or infinite in float32."""
    for seed in range(5):
        gradients = gradients_of("cancelling", 8, 20, seed).float()
        mask = least_important_pruned(gradients, 9)
        got = rearrange_layer(mask, torch.ldexp(gradients, torch.tensor(exponent)))
        assert torch.equal(got, rearrange_layer(mask, gradients))


@pytest.mark.parametrize("value", [0, 1])
def test_all_or_none_pruned(value):
    mask = torch.full((5,), float(value))
    assert torch.equal(rearrange_layer(mask, torch.randn(7, 5)), mask)


def test_each_layer_keeps_its_counts():
    generator = torch.Generator().manual_seed(0)
    fisher = Fisher(torch.randn(9, 3, 4, generator=generator), torch.randn(9, 3, 20, generator=generator))
    masks = Masks(
        (fisher.head_importance > fisher.head_importance.median()).float(),
        (fisher.filter_importance > fisher.filter_importance.median()).float(),
    )
    masks.filters[1] = 0
    masks.heads[2] = 1
    before = Masks(masks.heads.clone(), masks.filters.clone())
    got = rearrange(masks, fisher)
    assert got.head_counts == masks.head_counts and got.filter_counts == masks.filter_counts
    for index in range(3):
        assert torch.equal(got.filters[index], rearrange_layer(masks.filters[index], fisher.filter_grads[:, index]))
    assert torch.equal(masks.heads, before.heads) and torch.equal(masks.filters, before.filters)
