"""The curvature's shards, its part of the sample, and activations that are not finite."""

import pytest
import torch
from tiny_models import build, random_batches

from fastprune.errors import InputError
from fastprune.importance import curvature
from fastprune.importance.curvature import Curvature, estimate_curvature
from fastprune.model.architectures import describe
from fastprune.model.passes import evenly_spaced


def batches_of(examples, size):
    """Stand-ins for batches: only the number of their rows is read."""
    return [{"input_ids": torch.full((min(size, examples - first), 1), first)} for first in range(0, examples, size)]


@pytest.mark.parametrize("size", [1, 7, 24, 32, 64])
def test_about_so_many_examples_are_used_whatever_the_size_of_the_sample(size):
    for examples in (1, 511, 512, 513, 600, 768, 1000, 1023, 1024, 1025, 1536, 2000, 2047, 2048, 5001):
        batches = batches_of(examples, size)
        used = evenly_spaced(batches, curvature.EXAMPLES)
        number = sum(len(batch["input_ids"]) for batch in used)
        assert min(examples, 512) - size < number < min(examples, 512) + 2 * size
        places = [int(batch["input_ids"][0, 0]) // size for batch in used]
        gaps = [later - earlier for earlier, later in zip(places, places[1:], strict=False)]
        assert places[0] == 0 and (not gaps or min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)


@pytest.mark.parametrize("size", [5, 24, 32, 100])
@pytest.mark.parametrize("examples", [100, 512, 1024, 1536, 2048])
def test_multiples_use_every_second_third_or_fourth_batch(examples, size):
    batches = batches_of(examples, size)
    want = batches[:: max(1, examples // 512)]
    assert [id(batch) for batch in evenly_spaced(batches, curvature.EXAMPLES)] == [id(batch) for batch in want]


@pytest.mark.parametrize("shards", [2, 3, 5, 9])
def test_shards_some_of_them_empty_give_the_whole(shards, monkeypatch, tmp_path):
    """As when a sample has more batches than are used: 17 shards and more of 1,024 examples."""
    monkeypatch.setattr(curvature, "EXAMPLES", 8)
    model = build()
    encoder, batches = describe(model), random_batches(model, "classification", [[9, 5], [3, 7]] * 5)
    assert len(evenly_spaced(batches, curvature.EXAMPLES)) == 4 and len(evenly_spaced(batches, 4)) == 2
    half = estimate_curvature(encoder, batches, "classification", examples=4, progress=False)
    assert half.counts["ffn_gradients"] == [4] * 3
    parts = []
    for shard in range(shards):
        part = estimate_curvature(encoder, batches, "classification", shard=shard, shards=shards, progress=False)
        part.save(tmp_path / "part.safetensors")
        parts.append(Curvature.load(tmp_path / "part.safetensors"))
    assert any(not part.counts["ffn_inputs"][0] for part in parts) == (shards > 4)
    merged, whole = Curvature.merge(parts), estimate_curvature(encoder, batches, "classification", progress=False)
    assert merged.counts == whole.counts
    for name in whole.counts:
        for one, other in zip(getattr(merged, name), getattr(whole, name), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


def test_a_part_without_examples_adds_nothing_whatever_it_holds():
    model = build()
    encoder, batches = describe(model), random_batches(model, "classification", [[9, 5]])
    whole, empty = (
        estimate_curvature(encoder, batches, "classification", shard=shard, shards=2, progress=False)
        for shard in (0, 1)
    )
    for factor in empty.ffn_inputs:
        factor.fill_(float("nan"))
    merged = Curvature.merge([empty, whole, empty])
    for name in whole.counts:
        assert all(torch.equal(*pair) for pair in zip(getattr(merged, name), getattr(whole, name), strict=True))
    with pytest.raises(InputError, match="none of the parts of the curvature has any examples"):
        Curvature.merge([empty, empty])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("kind, name", [("attention", "value"), ("ffn", "ffn_input")])
def test_activations_that_are_not_finite_are_named_by_layer(kind, name, value):
    """A finite value too large to be squared is not finite either."""
    model = build()
    encoder, batches = describe(model), random_batches(model, "classification", [[9, 5]])
    with torch.no_grad():
        getattr(encoder.layers[1], kind).reads[name].bias[3] = value
    with pytest.raises(InputError, match=f"the activations of the sample at layer 1 {kind} are not finite, or too"):
        estimate_curvature(encoder, batches, "classification", progress=False)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_gradients_that_are_not_finite_are_named_by_layer():
    model = build(problem="regression")
    encoder, batches = describe(model), random_batches(model, "regression", [[9, 5]])
    with torch.no_grad():
        model.classifier.weight.mul_(1e30)
    with pytest.raises(InputError, match="the gradients of the sample at layer 2 ffn are not finite, or too large"):
        estimate_curvature(encoder, batches, "regression", progress=False)


@pytest.mark.parametrize(
    "length, fit, want", [(128, 5, 4), (128, 1, 1), (128, 0, 1), (100, 5, 5), (256, 5, 5), (384, 3, 2), (384, 9, 7)]
)
def test_where_memory_is_short_parts_are_whole_steps_of_the_products(length, fit, want, monkeypatch):
    """Of 256 tokens, which those of 2 examples of 128 or 384 are; no part is empty for it."""
    encoder = describe(build())
    monkeypatch.setattr(curvature.memory, "left", lambda device: 2 * fit * curvature.graph_bytes(encoder, length))
    parts = curvature._parts(encoder, {"attention_mask": torch.ones(7, length)}, 8)
    sizes = [len(part["attention_mask"]) for part in parts]
    assert sizes[0] == want and sum(sizes) == 7
