import pytest
import torch
from naive_systems import KINDS, LENGTHS, naive_system
from tiny_models import CASES, TAGS, VECTORS, build, one_by_one, random_batches, random_masks

from fastprune.model import grams
from fastprune.model.architectures import describe, layers_of
from fastprune.model.masks import Masks
from fastprune.model.surgery import slice_model
from fastprune.problem import problem_of
from fastprune.processes import Group
from fastprune.tuning import layerwise, moments
from fastprune.tuning.layerwise import Teacher, walk
from fastprune.tuning.moments import Moments


@pytest.mark.parametrize("family, problem", CASES + TAGS + VECTORS)
def test_moments_of_every_system(family, problem):
    model = build(family, problem)
    encoder = describe(model)
    masks, teacher_masks = random_masks(encoder, 0), random_masks(encoder, 1)
    batches = random_batches(model, problem, LENGTHS)
    reads_first_token = problem_of(problem).read_positions(model.config) == "first"
    first_token = frozenset({(2, "ffn")}) if reads_first_token else frozenset()
    seen = []
    for system in walk(
        Teacher(encoder, batches, teacher_masks), slice_model(encoder, masks), first_token=first_token, progress=False
    ):
        seen.append((system.index, system.kind))
        first = seen[-1] in first_token
        rows, targets = naive_system(
            encoder, masks, teacher_masks, batches, system.index, system.kind, first_token=first
        )
        kept = (
            masks.heads[system.index].repeat_interleave(encoder.head_size)
            if system.kind == "attention"
            else masks.filters[system.index]
        ) != 0
        rows = torch.cat([rows[:, kept], torch.ones(len(rows), 1)], 1)
        assert len(rows) == (6 if first else sum(int(batch["attention_mask"].sum()) for batch in batches))
        torch.testing.assert_close(system.moments.gram.double(), rows.T @ rows, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(system.moments.cross.double(), rows.T @ targets, rtol=1e-4, atol=1e-3)
    assert seen == [(index, kind) for index in range(3) for kind in KINDS]


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert", "vit"])
def test_behind_the_last_attention_the_first_token_goes_on_alone(family):
    """The systems are those of a walk with all tokens, and the task head reads the same."""
    model = build(family)
    encoder, masks = describe(model), random_masks(describe(model))
    batches = random_batches(model, "classification", LENGTHS)
    student, widths = slice_model(encoder, masks), []
    layers_of(student)[-1].ffn.writes.register_forward_pre_hook(lambda _, given: widths.append(given[0].shape[1]))
    teacher = Teacher(encoder, batches, keep=True)
    every, alone, again = (
        list(walk(teacher, student, first_token=frozenset(first), every_map=True, progress=False))
        for first in ([(2, "ffn")], [(2, "attention"), (2, "ffn")], [(2, "attention"), (2, "ffn")])
    )
    third = len(widths) // 3
    assert 1 not in widths[:third] and set(widths[third:]) == {1}
    for one, other, kept in zip(every, alone, again, strict=True):
        gram, cross = one.moments.gram, one.moments.cross
        if (one.index, one.kind) == (2, "attention"):
            rows, targets = naive_system(encoder, masks, Masks.ones(encoder), batches, 2, "attention", first_token=True)
            rows = rows[:, masks.heads[2].repeat_interleave(encoder.head_size) != 0]
            rows = torch.cat([rows, torch.ones(len(rows), 1)], 1)
            gram, cross = rows.T @ rows, rows.T @ targets
        torch.testing.assert_close(other.moments.gram, gram, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(other.moments.cross, cross, rtol=1e-4, atol=1e-3)
        assert torch.equal(other.moments.gram, kept.moments.gram)
        assert torch.equal(other.moments.cross, kept.moments.cross)


@pytest.mark.parametrize("together", [1, 16, 2048])
def test_an_upper_triangle_made_whole(monkeypatch, together):
    """Tokens are multiplied in pieces of one size, whatever the batches; none is lost."""
    monkeypatch.setattr(grams, "BLOCK", 3)
    monkeypatch.setattr(moments, "TOGETHER", together)
    torch.manual_seed(0)
    linear, inputs, targets = torch.nn.Linear(7, 2), torch.randn(40, 7), torch.randn(40, 2)
    full, upper = Moments.zeros(linear), Moments.zeros(linear, upper=True)
    for rows in (slice(0, 1), slice(1, 34), slice(34, 40)):
        full.add(inputs[rows], targets[rows])
        upper.add(inputs[rows], targets[rows])
    whole = upper.whole()
    assert upper.gram[0, 0] and not upper.gram[3:, :3].any() and torch.equal(whole.gram, whole.gram.T)
    torch.testing.assert_close(whole.gram, full.gram, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(whole.cross, full.cross, rtol=1e-5, atol=1e-5)
    assert whole.gram[-1, -1] == 40 and torch.equal(upper.whole().gram, whole.gram)


def test_later_systems_see_the_changed_student():
    model = build()
    encoder = describe(model)
    masks, teacher_masks = random_masks(encoder, 0), random_masks(encoder, 1)
    batches = random_batches(model, "classification", LENGTHS)
    now = Masks(masks.heads.clone(), masks.filters.clone())
    for system in walk(Teacher(encoder, batches, teacher_masks), slice_model(encoder, masks), progress=False):
        _, targets = naive_system(encoder, now, teacher_masks, batches, system.index, system.kind, first_token=False)
        torch.testing.assert_close(system.moments.cross[-1].double(), targets.sum(0), rtol=1e-4, atol=1e-3)
        system.projection.weight.data.mul_(0.3)
        (now.heads if system.kind == "attention" else now.filters)[system.index] *= 0.3


def test_walk_without_teacher_masks_follows_the_dense_model():
    model = build()
    encoder = describe(model)
    masks = random_masks(encoder)
    batches = random_batches(model, "classification", LENGTHS)
    for system in walk(Teacher(encoder, batches), slice_model(encoder, masks), progress=False):
        _, targets = naive_system(
            encoder, masks, Masks.ones(encoder), batches, system.index, system.kind, first_token=False
        )
        torch.testing.assert_close(system.moments.cross[-1].double(), targets.sum(0), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("first_token", [frozenset(), frozenset({(2, "ffn")})])
def test_examples_held_back(first_token):
    """Every third example, wherever it is in its batch, goes apart; no example is lost."""
    model = build()
    encoder = describe(model)
    masks = random_masks(encoder)
    batches = random_batches(model, "classification", LENGTHS)
    singles = one_by_one(batches)
    parts = {
        "whole": (batches, None),
        "parted": (batches, 3),
        "rest": ([singles[i] for i in (0, 1, 3, 4)], None),
        "apart": ([singles[i] for i in (2, 5)], None),
    }
    walks = {
        name: list(
            walk(
                Teacher(encoder, data),
                slice_model(encoder, masks),
                first_token=first_token,
                hold_back=every,
                progress=False,
            )
        )
        for name, (data, every) in parts.items()
    }
    for whole, parted, rest, apart in zip(*walks.values(), strict=True):
        for got, want in (
            (parted.moments, rest.moments),
            (parted.held_back, apart.moments),
            (parted.moments + parted.held_back, whole.moments),
        ):
            torch.testing.assert_close(got.gram, want.gram, rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(got.cross, want.cross, rtol=1e-4, atol=1e-3)
        assert not whole.held_back.gram.any()


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_padding_and_batches_do_not_matter(family):
    model = build(family)
    encoder = describe(model)
    masks, teacher_masks = random_masks(encoder, 0), random_masks(encoder, 1)
    batches = random_batches(model, "classification", LENGTHS)
    together, alone = (
        list(walk(Teacher(encoder, data, teacher_masks), slice_model(encoder, masks), progress=False))
        for data in (batches, one_by_one(batches))
    )
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.moments.gram, other.moments.gram, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(one.moments.cross, other.moments.cross, rtol=1e-4, atol=1e-3)


def test_a_teacher_that_keeps_its_targets():
    """Another student walks beside it without the teacher being run again, and sees the same targets."""
    model = build()
    encoder = describe(model)
    batches = random_batches(model, "classification", LENGTHS)
    teacher = Teacher(encoder, batches, keep=True)
    list(walk(teacher, slice_model(encoder, random_masks(encoder, 0)), every_map=True, progress=False))
    student = slice_model(encoder, random_masks(encoder, 2))
    want = list(walk(Teacher(encoder, batches), student, every_map=True, progress=False))
    calls = []
    encoder.layers[1].attention.reads["query"].register_forward_hook(lambda *_: calls.append(1))
    got = list(walk(teacher, student, every_map=True, progress=False))
    assert not calls
    for one, other in zip(got, want, strict=True):
        assert torch.equal(one.moments.gram, other.moments.gram)
        assert torch.equal(one.moments.cross, other.moments.cross)


def test_maps_that_read_the_stream_are_taken_from_as_many_examples_as_determine_them(monkeypatch):
    """Two in four, each group with the example that is held back; the output projections from all."""
    model = build()
    encoder = describe(model)
    batches = random_batches(model, "classification", [[9, 7, 7, 4], [3, 9, 5, 6], [8, 9, 2, 9], [7, 3, 6, 5]])
    student = slice_model(encoder, random_masks(encoder))
    options = {"first_token": frozenset({(2, "ffn")}), "every_map": True, "hold_back": 4, "progress": False}
    whole = list(walk(Teacher(encoder, batches), student, **options))
    tokens = int(whole[1].moments.gram[-1, -1] + whole[1].held_back.gram[-1, -1])
    monkeypatch.setattr(layerwise, "TOKENS_PER_INPUT", tokens // 2 / 16)
    halves = list(walk(Teacher(encoder, batches), student, **options))
    some = list(walk(Teacher(encoder, [batches[0], batches[2]]), student, **options))
    for one, half, part in zip(whole, halves, some, strict=True):
        reads = one.kind not in ("attention", "ffn", "head") and (one.index, one.kind) != (2, "ffn_input")
        want = part if reads else one
        for got, wanted in ((half.moments, want.moments), (half.held_back, want.held_back)):
            torch.testing.assert_close(got.gram, wanted.gram, rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(got.cross, wanted.cross, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("size, parted", [(1, True), (2, True), (3, False)])
def test_no_process_of_a_group_is_left_without_a_batch(size, parted):
    """Three batches would be two for half of the tokens."""
    model = build(problem="question-answering")
    batches = random_batches(model, "question-answering", [[9, 9], [9, 9], [9, 9]])
    teacher = Teacher(describe(model), batches, group=Group(size - 1, size))
    enough = teacher.of_enough(27)
    assert teacher.of_enough(54) is teacher and (enough is not teacher) == parted
    assert enough.tokens == (36 if parted else 54) and len(enough.batches) >= 1
