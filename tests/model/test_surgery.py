import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import (
    CASES,
    EVERY,
    TAGS,
    VECTORS,
    batch_for,
    build,
    extreme_masks,
    logits_of,
    random_batches,
    random_masks,
)

from fastprune.model.architectures import describe, layers_of
from fastprune.model.families import FAMILIES as DESCRIPTIONS
from fastprune.model.masks import Masks, masked
from fastprune.model.surgery import slice_model

WAYS = [
    (family, problem, attention)
    for family, problem in CASES + TAGS + VECTORS
    for attention in DESCRIPTIONS[family.partition(",")[0]].attentions
]


def assert_sliced_is_masked(model, masks):
    encoder = describe(model)
    batch = batch_for(model)
    with masked(encoder, masks.heads, masks.filters):
        want = logits_of(model, batch)
    sliced = slice_model(encoder, masks)
    got = logits_of(sliced, batch)
    assert got.isfinite().all()
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    return sliced


@pytest.mark.parametrize("family, problem, attention", WAYS)
def test_sliced_is_masked(family, problem, attention):
    """One head left; no heads; no filters; neither; uneven."""
    model = build(family, problem, num_layers=5, attn_implementation=attention)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    dense = logits_of(model, batch_for(model))
    masks = extreme_masks(describe(model))
    sliced = assert_sliced_is_masked(model, masks)
    assert (logits_of(sliced, batch_for(model)) - dense).abs().max() > 1e-2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not hasattr(model.config, "kept_heads")


@pytest.mark.parametrize("family", EVERY)
@pytest.mark.parametrize("value", [0, 1])
def test_nothing_kept_and_everything_kept(family, value):
    model = build(family)
    ones = Masks.ones(describe(model))
    assert_sliced_is_masked(model, Masks(ones.heads * value, ones.filters * value))


@pytest.mark.parametrize("family", EVERY)
def test_it_is_really_smaller(family):
    model = build(family)
    encoder = describe(model)
    masks = random_masks(encoder)
    sliced = slice_model(encoder, masks)
    for layer, heads, filters in zip(layers_of(sliced), masks.head_counts, masks.filter_counts, strict=True):
        for block, columns in ((layer.attention, 4 * heads), (layer.ffn, filters)):
            for projection in block.cut:
                assert projection.weight.shape == (block.parts * columns, 16)
                assert projection.bias is None or projection.bias.shape == (block.parts * columns,)
            assert block.writes.weight.shape == (16, columns)
    pruned_heads, pruned_filters = (int((mask == 0).sum()) for mask in (masks.heads, masks.filters))
    attention, ffn = encoder.layers[0].blocks
    rows, columns = len(attention.cut) * attention.parts, ffn.parts
    biased = ffn.reads["ffn_input"].bias is not None
    per_head, per_filter = (rows + 1) * (4 * 16) + rows * 4 * biased, (columns + 1) * 16 + columns * biased
    assert model.num_parameters() - sliced.num_parameters() == pruned_heads * per_head + pruned_filters * per_filter
    assert not sliced.training
    assert sliced.config.kept_heads == masks.head_counts and sliced.config.kept_filters == masks.filter_counts


def test_it_shares_nothing_with_the_dense_model():
    model = build()
    encoder = describe(model)
    batch = random_batches(model, "classification", [[9, 4]])[0]
    sliced = slice_model(encoder, Masks.ones(encoder))
    want = logits_of(sliced, batch)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.1)
    assert torch.equal(logits_of(sliced, batch), want)


def test_token_types_reach_the_sliced_model():
    model = build()
    encoder = describe(model)
    sliced = slice_model(encoder, Masks.ones(encoder))
    ids, types = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[0, 0, 1, 1]])
    with torch.no_grad():
        want, got = (one(input_ids=ids, token_type_ids=types).logits for one in (model, sliced))
        other = model(input_ids=ids).logits
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert (want - other).abs().max() > 1e-3


def test_half_precision_stays():
    encoder = describe(build().to(torch.bfloat16))
    sliced = slice_model(encoder, random_masks(encoder, scaled=True))
    assert {parameter.dtype for parameter in sliced.parameters()} == {torch.bfloat16}


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_any_shape_and_any_masks(data):
    """Odd numbers of filters, one layer, dead units, layers that keep nothing: sliced is masked."""
    family = data.draw(st.sampled_from(sorted(EVERY)))
    layers, filters = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9))
    model = build(family, num_layers=layers, num_filters=filters, seed=data.draw(st.integers(0, 3)))
    rows = [st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=units, max_size=units) for units in (4, filters)]
    heads, kept = (torch.tensor([data.draw(row) for _ in range(layers)]) for row in rows)
    if data.draw(st.booleans()):
        with torch.no_grad():
            describe(model).layers[0].ffn.writes.weight.zero_()
    assert_sliced_is_masked(model, Masks(heads, kept))
