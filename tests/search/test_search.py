import numpy as np
import published
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reviews import PAPER, TASK
from tiny_tables import make_table

import fastprune
from fastprune.errors import InputError
from fastprune.latency.search import search_latency
from fastprune.model.checkpoint import load_dense, load_tokenizer
from fastprune.search.mac_search import search_macs
from fastprune.search.macs import MacModel

NUM_LAYERS, NUM_HEADS, NUM_FILTERS = 2, 3, 4


def subsets(count):
    """All masks of so many units: [2 ** count, count]."""
    return (np.arange(2**count)[:, None] >> np.arange(count)) & 1


def best_of_all(heads, filters, macs, keep_ratio):
    """Greatest importance of any subset within the budget."""
    some_heads, some_filters = subsets(heads.numel()), subsets(filters.numel())
    prices = np.repeat([macs.per_head - less for less in macs.spared], NUM_HEADS)
    cost = (some_heads @ prices)[:, None] + some_filters.sum(1) * macs.per_filter
    value = (some_heads @ heads.flatten().numpy())[:, None] + some_filters @ filters.flatten().numpy()
    return value[cost <= keep_ratio * macs.total].max()


def shape(hidden_size=12, head_size=4, seq_len=7.3, **options):
    return MacModel(NUM_LAYERS, NUM_HEADS, NUM_FILTERS, hidden_size, head_size, seq_len, **options)


def importances(kind, generator):
    heads = torch.rand(NUM_LAYERS, NUM_HEADS, generator=generator, dtype=torch.float64)
    filters = torch.rand(NUM_LAYERS, NUM_FILTERS, generator=generator, dtype=torch.float64)
    if kind == "heads matter":
        heads = heads * 10
    elif kind == "heavy tailed":
        heads, filters = ((3 / values.clamp(min=0.01)).exp() for values in (heads, filters))
    elif kind == "ties":
        heads, filters = (heads * 3).round() * 4, (filters * 2).round()
    elif kind == "one dead kind":
        heads = torch.zeros_like(heads)
    return heads, filters


@pytest.mark.parametrize("kind", ["even", "heads matter", "heavy tailed", "ties", "one dead kind"])
def test_no_subset_is_better(kind):
    generator = torch.Generator().manual_seed(0)
    for keep_ratio in (0.06, 0.1, 0.3, 0.45, 0.6, 0.77, 0.9, 0.999):
        windowed = shape(seq_len=90.7, filter_reads=2, windows=(None, 9))  # where heads of layer 1 cost less
        for macs in (shape(), shape(head_size=1), shape(seq_len=90.7), windowed):
            if keep_ratio * macs.total < min(macs.per_head, macs.per_filter):
                continue
            heads, filters = importances(kind, generator)
            masks = search_macs(heads, filters, macs, keep_ratio)
            assert masks.heads.shape == heads.shape and masks.filters.shape == filters.shape
            assert set(torch.cat([masks.heads.flatten(), masks.filters.flatten()]).tolist()) <= {0, 1}
            assert macs.kept(masks) <= keep_ratio
            got = (masks.heads * heads).sum() + (masks.filters * filters).sum()
            assert got == pytest.approx(best_of_all(heads, filters, macs, keep_ratio), rel=1e-12)


def test_same_as_the_published_loop():
    generator = torch.Generator().manual_seed(1)
    macs = MacModel(4, 8, 64, 64, 8, 53.24)
    for keep_ratio in (0.2, 0.4, 0.6, 0.8, 0.95):
        heads = torch.rand(4, 8, generator=generator, dtype=torch.float64) * 8
        filters = torch.rand(4, 64, generator=generator, dtype=torch.float64)
        masks = search_macs(heads, filters, macs, keep_ratio)
        want = published.search(heads, filters, macs, keep_ratio)
        assert torch.equal(masks.heads.double(), want[0]) and torch.equal(masks.filters.double(), want[1])
        assert 0 < masks.heads.mean() <= 1 and 0 < masks.filters.mean() <= 1


def test_one_scale_for_all_layers():
    """The budget is spent across layers, not evenly in each."""
    heads = torch.tensor([[1.0, 1, 1], [9, 9, 9]])
    filters = torch.tensor([[1.0] * 4, [9.0] * 4])
    masks = search_macs(heads, filters, shape(), 0.5)
    assert masks.head_counts == [0, 3] and masks.filter_counts == [0, 4]


@given(
    st.lists(st.sampled_from([0.0, 1e-30, 0.5, 1.0, 3.0, 1e30]), min_size=14, max_size=14).filter(any),
    st.floats(0.05, 0.999),
    st.sampled_from([0.3, 1, 4, 17]),
    st.floats(1, 300),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_importance_and_any_budget(values, keep_ratio, head_size, seq_len):
    """Optimal, within the budget, whatever ties and dead units there are."""
    macs = shape(head_size=head_size, seq_len=seq_len)
    assume(keep_ratio * macs.total >= min(macs.per_head, macs.per_filter))
    values = torch.tensor(values, dtype=torch.float64)
    heads, filters = values[:6].view(2, 3), values[6:].view(2, 4)
    masks = search_macs(heads, filters, macs, keep_ratio)
    assert macs.kept(masks) <= keep_ratio * (1 + 1e-12)
    got = (masks.heads * heads).sum() + (masks.filters * filters).sum()
    assert got == pytest.approx(best_of_all(heads, filters, macs, keep_ratio), rel=1e-9)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1e308])
@pytest.mark.parametrize("kind, number", [("heads", 0), ("heads", 1), ("filters", 1)])
def test_importance_that_cannot_be_searched_by_is_refused(kind, number, value):
    """Under MACs and under both latency searches; 1e308 is finite and the sum over a layer is not."""
    heads, filters = torch.ones(2, 3, dtype=torch.float64), torch.ones(2, 4, dtype=torch.float64)
    (heads if kind == "heads" else filters)[number, 1:] = value
    table = make_table([1, 2, 3, 4], [1, 2, 3, 4, 5])
    for search in (
        lambda: search_macs(heads, filters, shape(), 0.5),
        lambda: search_latency(heads, filters, table, 0.5),
        lambda: search_latency(heads, filters, table, 0.5, solver="piecewise"),
    ):
        with pytest.raises(InputError, match=f"importance of the {kind} of layer {number} is NaN, infinite or neg"):
            search()


def test_importance_that_is_zero_everywhere_is_refused():
    heads, filters = torch.zeros(2, 3), torch.zeros(2, 4)
    table = make_table([1, 2, 3, 4], [1, 2, 3, 4, 5])
    for search in (
        lambda: search_macs(heads, filters, shape(), 0.5),
        lambda: search_latency(heads, filters, table, 0.5),
        lambda: search_latency(heads, filters, table, 0.5, solver="piecewise"),
    ):
        with pytest.raises(InputError, match="no head and no filter has any importance"):
            search()


@pytest.mark.parametrize("scale", [1e20, 1e30])
def test_a_model_of_finite_and_yet_too_large_values(material, scale, tmp_path):
    """Its softmax saturates: no loss and no gradient is left. Compensation still tells its units apart."""
    model = load_dense(material / "model")
    with torch.no_grad():
        model.classifier.weight.mul_(scale)
    options = {
        "dataset": material / "train.tsv",
        "evaluation": material / "eval.tsv",
        "task": TASK,
        "num_samples": 100,
        "keep_ratio": 0.5,
        "device": "cpu",
        "progress": False,
    }
    tokenizer = load_tokenizer(material / "model")
    with pytest.raises(InputError, match="no head and no filter has any importance.*the softmax saturates"):
        fastprune.compress(model, tokenizer, output_dir=tmp_path / "out", **options | PAPER)
    assert not (tmp_path / "out").exists()
    metrics = fastprune.compress(model, tokenizer, **options).metrics
    assert metrics["pruned"] > 0.9 * metrics["dense"] > 0.8


def test_a_budget_that_buys_one_filter_or_one_head():
    heads, filters = torch.rand(NUM_LAYERS, NUM_HEADS), torch.rand(NUM_LAYERS, NUM_FILTERS)
    macs = shape()  # a head costs more than a filter
    masks = search_macs(heads, filters, macs, 1.001 * macs.per_filter / macs.total)
    assert sum(masks.head_counts) == 0 and sum(masks.filter_counts) == 1
    assert masks.filters.flatten()[filters.argmax()] == 1
    macs = shape(hidden_size=120, head_size=0.1)  # a filter costs more than a head
    masks = search_macs(heads, filters, macs, 1.001 * macs.per_head / macs.total)
    assert sum(masks.head_counts) == 1 and sum(masks.filter_counts) == 0
    assert masks.heads.flatten()[heads.argmax()] == 1


def test_a_budget_too_small_to_keep_anything():
    macs = shape()
    with pytest.raises(InputError, match="keeps nothing at all.*raise keep_ratio"):
        search_macs(torch.ones(2, 3), torch.ones(2, 4), macs, 0.99 * macs.per_filter / macs.total)


@pytest.mark.parametrize("keep_ratio", [0, 1, 1.2, 60, -0.1, float("nan"), float("inf")])
def test_a_budget_out_of_range(keep_ratio):
    with pytest.raises(InputError, match="keep_ratio.*between 0 and 1"):
        search_macs(torch.ones(2, 3), torch.ones(2, 4), shape(), keep_ratio)
