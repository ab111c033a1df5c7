"""Work that several processes share: the same result to rounding, and failures that are told."""

import time

import pytest
import torch
from tiny_models import build, random_batches, random_masks

from fastprune import method
from fastprune.errors import InputError
from fastprune.importance.curvature import Curvature, estimate_curvature
from fastprune.importance.selection import Importance
from fastprune.model.architectures import describe
from fastprune.model.grams import from_upper, upper_of
from fastprune.processes import Group, together
from fastprune.search.cost import Cost
from fastprune.settings import Method

LENGTHS = [[9, 7, 4, 1], [8, 3], [5], [6, 6, 2]]


def shared(group, numbers):
    [total] = group.add_up([torch.tensor(numbers[group.rank], dtype=torch.float64)])
    if numbers[group.rank] < 0:
        raise InputError("a number is negative")
    return float(total), group.sent


def test_sums_over_processes():
    assert together(1, shared, [3.0]) == (3.0, 0)
    assert together(3, shared, [1.0, 2.0, 4.0]) == (7.0, 8)
    assert Group(1, 3).share([*range(8)]) == [1, 4, 7]


def test_a_process_that_fails_is_told():
    with pytest.raises(RuntimeError, match="share the work has failed: fastprune.errors.InputError: a number is neg"):
        together(2, shared, [1.0, -2.0])
    with pytest.raises(InputError, match="a number is negative"):
        together(2, shared, [-1.0, 2.0])


def test_two_processes_make_what_one_makes():
    model = build("bert")
    encoder, batches = describe(model), random_batches(model, "classification", LENGTHS * 2)
    masks, cost, settings = random_masks(encoder), Cost.of(encoder, 6.0, None), Method()
    importance, made, seconds = Importance(torch.rand(3, 4).double(), torch.rand(3, 24).double()), [], []
    for processes in (1, 2):
        begin = time.perf_counter()
        worth = method.importance_of(
            encoder,
            method.gather(encoder, batches, "classification", settings, processes=processes, progress=False),
            settings,
        )
        given = (encoder, masks, importance, cost, 0.5, batches, "classification", "weights")
        tuned = method.tune(*given, processes=processes, progress=False)
        seconds.append(time.perf_counter() - begin)
        made.append([worth.heads, worth.filters, *tuned.model.state_dict().values()])
    print(f"one process {seconds[0]:.1f} s, two {seconds[1]:.1f} s with their start")
    for one, other in zip(*made, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * max(1.0, float(one.abs().max())))


def test_four_shards_are_merged_as_they_come(tmp_path):
    """Each has the upper triangles of the factors alone."""
    model = build("bert")
    encoder, batches = describe(model), random_batches(model, "classification", LENGTHS)
    whole = estimate_curvature(encoder, batches, "classification", progress=False)
    for shard in range(4):
        estimate_curvature(encoder, batches, "classification", shard=shard, shards=4, progress=False).save(
            tmp_path / str(shard)
        )
    merged = Curvature.merge(Curvature.load(tmp_path / str(shard)) for shard in range(4))
    assert merged.counts == whole.counts
    numbers = 0
    for name in ("attention_inputs", "attention_gradients", "ffn_inputs", "ffn_gradients"):
        for one, other in zip(getattr(whole, name), getattr(merged, name), strict=True):
            numbers += len(one) * (len(one) + 1) // 2
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12 * float(one.abs().max()))
    assert (tmp_path / "0").stat().st_size < 8 * numbers + 3000


@pytest.mark.parametrize("size", [0, 1, 2, 7, 300])
def test_an_upper_triangle_holds_a_symmetric_matrix(size):
    gram = torch.rand(size, size).triu()
    assert torch.equal(from_upper(upper_of(gram)), gram)
