import pytest
import torch
from naive_systems import KINDS, LENGTHS, naive_system
from tiny_models import CASES, build, logits_of, random_batches, random_masks

from fastprune import memory
from fastprune.model.architectures import describe, reads_first
from fastprune.model.masks import Masks, masked
from fastprune.model.surgery import slice_model
from fastprune.tuning import mask
from fastprune.tuning.mask import scale_system, solve_scales, tune_masks
from fastprune.tuning.moments import Moments

MANY = [[30, 12, 20, 25]] * 6 + [[17, 11]]


def tall_matrix(rows, weight, units, constant):
    """The paper's A [tokens * D, k]: a column per unit, what the unit alone puts out."""
    columns = [
        rows[:, first : first + units] @ weight[:, first : first + units].T for first in range(0, rows.shape[1], units)
    ]
    if constant:
        columns.append(torch.ones_like(columns[0]))
    return torch.stack([column.flatten() for column in columns], 1)


@torch.no_grad()
def naive_tuning(encoder, masks, teacher_masks, batches, problem):
    masks = Masks(masks.heads.clone(), masks.filters.clone())
    for index, layer in enumerate(encoder.layers):
        for kind in KINDS:
            attention = kind == "attention"
            row = (masks.heads if attention else masks.filters)[index]
            if not row.any() or (attention and index == 0):
                continue
            last = index == encoder.num_layers - 1 and not attention and reads_first(encoder.model, problem)
            rows, targets = naive_system(encoder, masks, teacher_masks, batches, index, kind, first_token=last)
            units = encoder.head_size if attention else 1
            projection = layer.attention.writes if attention else layer.ffn.writes
            kept = row.repeat_interleave(units) != 0
            tall = tall_matrix(rows[:, kept], projection.weight.double()[:, kept], units, attention)
            target = (targets if projection.bias is None else targets - projection.bias).flatten()
            scales, _ = solve_scales(tall.T @ tall, tall.T @ target)
            row[row != 0] = scales[: int(row.count_nonzero())].float()
    return masks


# The system of one projection


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("units", [1, 3])
def test_scale_system_is_that_of_the_tall_matrix(units, constant):
    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(6, 5).requires_grad_(False)
    rows = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    target = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    moments = Moments.zeros(linear)
    for part in (slice(0, 1), slice(1, 25), slice(25, 40)):
        moments.add(rows[part], target[part])
    ata, atb = scale_system(moments, linear.weight, linear.bias, units, constant=constant)
    tall = tall_matrix(rows, linear.weight.double(), units, constant)
    torch.testing.assert_close(ata, tall.T @ tall)
    torch.testing.assert_close(atb, tall.T @ (target - linear.bias).flatten())


def test_solver_finds_the_scales_that_made_the_target():
    """Damping is negligible against this system, so that the scales come back."""
    generator = torch.Generator().manual_seed(0)
    tall = torch.randn(500, 4, generator=generator, dtype=torch.float64) * 3
    scales = torch.tensor([1.5, -0.5, 1, 3], dtype=torch.float64)
    got, converged = solve_scales(tall.T @ tall, tall.T @ (tall @ scales))
    assert converged
    torch.testing.assert_close(got, scales, rtol=1e-3, atol=1e-3)


def test_damping_holds_scales_at_one():
    """A unit that hardly puts anything out keeps its scale; an undamped solver would give 3."""
    tall = torch.full((10, 1), 1e-3, dtype=torch.float64)
    scales, converged = solve_scales(tall.T @ tall, tall.T @ (3 * tall[:, 0]))
    assert converged
    torch.testing.assert_close(scales, torch.ones(1, dtype=torch.float64), rtol=0, atol=1e-5)


def test_solver_says_when_it_did_not_converge():
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(20, 20, generator=generator, dtype=torch.float64))[0]
    matrix = rotation @ torch.logspace(5, 0, 20, dtype=torch.float64).diag() @ rotation.T
    _, converged = solve_scales(matrix, matrix @ torch.linspace(-9, 9, 20, dtype=torch.float64))
    assert not converged


# Mask tuning


@pytest.mark.parametrize("family, problem", CASES)
def test_tuning_is_that_of_the_paper(family, problem):
    model = build(family, problem)
    encoder = describe(model)
    masks, teacher_masks = random_masks(encoder, 0), random_masks(encoder, 1)
    batches = random_batches(model, problem, MANY)
    tuned = tune_masks(encoder, masks, teacher_masks, batches, problem, progress=False)
    assert tuned.stopped is None
    want = naive_tuning(encoder, masks, teacher_masks, batches, problem)
    torch.testing.assert_close(tuned.masks.heads, want.heads, rtol=0, atol=1e-3)
    torch.testing.assert_close(tuned.masks.filters, want.filters, rtol=0, atol=1e-3)

    assert torch.equal(tuned.masks.heads != 0, masks.heads != 0)
    assert torch.equal(tuned.masks.filters != 0, masks.filters != 0)
    assert torch.equal(tuned.masks.heads[0], masks.heads[0])
    assert ((tuned.masks.filters - masks.filters).abs().amax(1) > 0.02).all()
    assert ((tuned.masks.heads - masks.heads).abs().amax(1)[1:] > 0.02).all()
    assert tuned.masks.head_counts == tuned.model.config.kept_heads


@pytest.mark.parametrize("family, problem", CASES)
def test_tuned_masks_give_the_tuned_model(family, problem):
    model = build(family, problem)
    encoder = describe(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    masks = random_masks(encoder, 0)
    masks.heads[1], masks.filters[2] = 0, 0
    batches = random_batches(model, problem, LENGTHS)
    tuned = tune_masks(encoder, masks, random_masks(encoder, 1), batches, problem, progress=False)
    with masked(encoder, tuned.masks.heads, tuned.masks.filters):
        want = logits_of(model, batches[0])
    torch.testing.assert_close(logits_of(tuned.model, batches[0]), want, rtol=0, atol=1e-5)
    assert not torch.equal(tuned.masks.filters[0], masks.filters[0])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_last_ffn_of_a_classifier_sees_the_first_token_alone():
    """Targets of other tokens do not reach it: question answering, with all tokens, gets other scales."""
    model = build()
    encoder = describe(model)
    masks, teacher_masks = random_masks(encoder, 0), random_masks(encoder, 1)
    batches = random_batches(model, "classification", LENGTHS)
    classifier, every_token = (
        tune_masks(encoder, masks, teacher_masks, batches, problem, progress=False).masks
        for problem in ("classification", "question-answering")
    )
    assert torch.equal(classifier.filters[:2], every_token.filters[:2])
    assert torch.equal(classifier.heads, every_token.heads)
    assert (classifier.filters[2] - every_token.filters[2]).abs().max() > 0.1


def strained():
    """Layer 1's filters all say the same, the kept one a hundredth as loud: it needs a scale of thousands."""
    model = build()
    with torch.no_grad():
        ffn = describe(model).layers[1]
        ffn.ffn.reads["ffn_input"].weight.copy_(
            ffn.ffn.reads["ffn_input"].weight[:1].expand_as(ffn.ffn.reads["ffn_input"].weight)
        )
        ffn.ffn.reads["ffn_input"].bias.fill_(1)
        ffn.ffn.writes.weight.copy_(5 * ffn.ffn.writes.weight[:, :1].expand_as(ffn.ffn.writes.weight))
        ffn.ffn.writes.weight[:, 0] *= 0.01
    encoder = describe(model)
    masks = random_masks(encoder)
    masks.filters[1] = 0
    masks.filters[1, 0] = 1
    return encoder, masks


def test_scales_beyond_ten_end_tuning():
    encoder, masks = strained()
    batches = random_batches(encoder.model, "classification", LENGTHS)
    tuned = tune_masks(encoder, masks, Masks.ones(encoder), batches, "classification", progress=False)
    assert tuned.stopped == "layer 1 ffn: scales beyond 10"
    want = naive_tuning(encoder, masks, Masks.ones(encoder), batches, "classification")
    assert want.filters[1].abs().max() > 10
    torch.testing.assert_close(tuned.masks.filters[0], want.filters[0], rtol=0, atol=2e-3)
    torch.testing.assert_close(tuned.masks.heads[1], want.heads[1], rtol=0, atol=2e-3)
    assert not torch.equal(tuned.masks.filters[0], masks.filters[0])
    assert not torch.equal(tuned.masks.heads[1], masks.heads[1])
    assert torch.equal(tuned.masks.filters[1:], masks.filters[1:])
    assert torch.equal(tuned.masks.heads[2:], masks.heads[2:])
    with masked(encoder, tuned.masks.heads, tuned.masks.filters):
        want = logits_of(encoder.model, batches[0])
    torch.testing.assert_close(logits_of(tuned.model, batches[0]), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [10.01, -10.01])
def test_the_limit_is_ten_either_way(monkeypatch, scale):
    model = build()
    encoder = describe(model)
    batches = random_batches(model, "classification", LENGTHS)

    def tune_with(value):
        monkeypatch.setattr(mask, "solve_scales", lambda ata, atb: (torch.full_like(atb, value), True))
        return tune_masks(
            encoder, random_masks(encoder), Masks.ones(encoder), batches, "classification", progress=False
        )

    assert tune_with(scale).stopped == "layer 0 ffn: scales beyond 10"
    assert tune_with(scale / 1.01).stopped is None


def test_a_solver_that_fails_ends_tuning(monkeypatch):
    model = build()
    encoder = describe(model)
    masks = random_masks(encoder)
    batches = random_batches(model, "classification", LENGTHS)
    monkeypatch.setattr(mask, "solve_scales", lambda ata, atb: (torch.ones_like(atb), False))
    tuned = tune_masks(encoder, masks, Masks.ones(encoder), batches, "classification", progress=False)
    assert tuned.stopped == "layer 0 ffn: the solver did not converge"
    assert torch.equal(tuned.masks.filters, masks.filters)


def test_tuning_makes_up_for_pruning():
    """Nothing is gained by mask tuning unless outputs come nearer to the teacher's."""
    model = build(num_filters=60)
    encoder = describe(model)
    masks = random_masks(encoder)
    batches = random_batches(model, "classification", [[12] * 8] * 4)
    tuned = tune_masks(encoder, masks, Masks.ones(encoder), batches, "classification", progress=False)
    errors = {
        name: sum(float((logits_of(candidate, batch) - logits_of(model, batch)).square().sum()) for batch in batches)
        for name, candidate in (("sliced", slice_model(encoder, masks)), ("tuned", tuned.model))
    }
    assert errors["tuned"] < 0.8 * errors["sliced"]


def test_recomputing_gives_the_same_as_caching(monkeypatch):
    model = build()
    encoder = describe(model)
    masks, teacher_masks = random_masks(encoder, 0), random_masks(encoder, 1)
    batches = random_batches(model, "classification", LENGTHS)
    first_filters = int(masks.filters[0].sum())
    calls = {"cached": 0, "recomputed": 0}
    tuned = {}
    for name, limit in (("cached", None), ("recomputed", 1)):
        forward = torch.nn.Linear.forward

        def count(module, inputs, name=name, forward=forward):
            calls[name] += module.out_features == first_filters
            return forward(module, inputs)

        with monkeypatch.context() as patch:
            patch.setattr(torch.nn.Linear, "forward", count)
            with memory.limited(limit):
                tuned[name] = tune_masks(encoder, masks, teacher_masks, batches, "classification", progress=False)
    assert calls["recomputed"] > calls["cached"] > 0
    for one, other in zip(*(vars(result.masks).values() for result in tuned.values()), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(*(result.model.parameters() for result in tuned.values()), strict=True):
        assert torch.equal(one, other)
