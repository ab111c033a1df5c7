"""Curvature, removal costs and weight reconstruction against what they stand for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import build, random_batches, random_masks

from fastprune.errors import InputError
from fastprune.importance import surgeon
from fastprune.importance.curvature import TEMPERATURE, Curvature, estimate_curvature
from fastprune.importance.surgeon import DAMPING, damped_inverse, removal_costs, removal_order
from fastprune.model import grams
from fastprune.model.architectures import describe, layers_of
from fastprune.model.masks import Masks
from fastprune.model.surgery import slice_model
from fastprune.problem import problem_of
from fastprune.search.mac_search import search_macs
from fastprune.search.macs import MacModel
from fastprune.tuning import weights
from fastprune.tuning.layerwise import Teacher, walk
from fastprune.tuning.moments import Moments
from fastprune.tuning.weights import best_strength, reconstruct_weights, ridge, solve_weights, squared_error

LENGTHS = [[9, 7, 7, 4], [3, 9, 5, 6], [8, 9, 2, 9], [7, 3, 6, 5]]


def factors(n=12, d=6, seed=0):
    torch.manual_seed(seed)
    inputs = torch.randn(100, n, dtype=torch.float64) @ torch.randn(n, n, dtype=torch.float64)
    gradients = torch.randn(30, d, dtype=torch.float64)
    return inputs.T @ inputs / 100, gradients.T @ gradients / 30, torch.randn(d, n)


def cost_of_keeping(kept, inputs, gradients, weight):
    """The least ``tr(D A D^T G)`` over all weights on the kept columns."""
    damped = inputs + DAMPING * inputs.diagonal().mean() * torch.eye(len(inputs), dtype=inputs.dtype)
    change = weight.double().clone()
    change[:, kept] -= weight.double() @ damped[:, kept] @ torch.linalg.inv(damped[kept][:, kept])
    return torch.trace(change @ damped @ change.T @ gradients).item()


@pytest.mark.parametrize("size", [1, 3])
def test_removal_costs_are_those_of_solving_again(size):
    inputs, gradients, weight = factors()
    units = len(inputs) // size
    costs = removal_order(inputs, gradients, weight, units, steps=units)

    columns = [list(range(unit * size, (unit + 1) * size)) for unit in range(units)]
    left, before, dearest, expected = list(range(units)), 0.0, 0.0, torch.zeros(units, dtype=torch.float64)
    while left:
        after = [
            cost_of_keeping([c for unit in left if unit != out for c in columns[unit]], inputs, gradients, weight)
            for out in left
        ]
        best = min(range(len(left)), key=after.__getitem__)
        dearest, before = max(dearest, after[best] - before), after[best]
        expected[left.pop(best)] = dearest
    torch.testing.assert_close(costs, expected, rtol=1e-4, atol=1e-6 * expected.max().item())


@pytest.mark.parametrize("dead", ["inputs", "gradients", "weight"])
def test_a_dead_block_costs_nothing(dead):
    """Its input factor, all zero, has no Cholesky factor."""
    parts = dict(zip(("inputs", "gradients", "weight"), factors(), strict=True))
    parts[dead] = torch.zeros_like(parts[dead])
    assert torch.equal(removal_order(**parts, num_units=4, steps=4), torch.zeros(4, dtype=torch.float64))


def test_a_model_with_a_dead_block_cuts_it_first():
    model = build()
    encoder, batches = describe(model), random_batches(model, "classification", LENGTHS)
    with torch.no_grad():
        encoder.layers[1].ffn.reads["ffn_input"].weight.zero_()
        encoder.layers[1].ffn.reads["ffn_input"].bias.zero_()
        encoder.layers[2].attention.writes.weight.zero_()
    heads, filters = removal_costs(encoder, estimate_curvature(encoder, batches, "classification", progress=False))
    assert not filters[1].any() and not heads[2].any()
    assert (filters[[0, 2]] > 0).all() and (heads[:2] > 0).all()
    masks = search_macs(heads, filters, MacModel.of(encoder, 6.0), 0.3)
    assert not masks.filters[1].any() and not masks.heads[2].any()


@pytest.mark.parametrize("shift", [0.02, 1.0, 100.0])
def test_an_indefinite_input_factor_gets_more_damping(shift):
    inputs, gradients, weight = factors()
    inputs = inputs - shift * inputs.diagonal().mean() * torch.eye(12, dtype=inputs.dtype)
    assert torch.linalg.eigvalsh(inputs)[0] < 0
    costs = removal_order(inputs, gradients, weight, 4, steps=4)
    assert costs.isfinite().all() and (costs > 0).all()


def test_a_factor_that_is_not_finite_is_refused():
    with pytest.raises(InputError, match="second moments of a projection's inputs are not finite"):
        damped_inverse(torch.full((3, 3), float("nan"), dtype=torch.float64))


@pytest.mark.parametrize("exponent", [-300, -130, -66, 2, 70, 140, 280])
def test_costs_grow_with_the_factors_by_not_a_digit_else(exponent):
    """Also where their inverse is no number in float32."""
    inputs, gradients, weight = factors()
    costs = removal_order(inputs, gradients, weight, 12, steps=6)
    scale = torch.tensor(2.0, dtype=torch.float64) ** exponent
    assert torch.equal(removal_order(inputs * scale, gradients, weight, 12, steps=6), costs * scale)
    assert torch.equal(removal_order(inputs, gradients * scale, weight, 12, steps=6), costs * scale)


@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 5),
    st.sampled_from([1, 2, 64]),
    st.integers(0, 6),
    st.lists(st.sampled_from([0.0, 1e-12, 1.0, 1e6]), min_size=4, max_size=4),
    st.integers(0, 2**20),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_costs_are_finite_and_not_negative(units, size, outputs, steps, tokens, loudness, seed):
    """Of few tokens, none among them, and of units from dead to very loud."""
    generator = torch.Generator().manual_seed(seed)
    loud = torch.tensor(loudness[:units], dtype=torch.float64).repeat_interleave(size)
    x = torch.randn(tokens, units * size, generator=generator, dtype=torch.float64) * loud
    g = torch.randn(tokens, outputs, generator=generator, dtype=torch.float64)
    weight = torch.randn(outputs, units * size, generator=generator)
    costs = removal_order(x.T @ x, g.T @ g, weight, units, steps=steps)
    assert costs.shape == (units,) and costs.isfinite().all() and (costs >= 0).all()
    assert costs.any() == bool((x.T @ x).any() and (g.T @ g).any())


def test_a_unit_that_another_stands_in_for_is_cheap():
    _, gradients, weight = factors()
    values = torch.randn(500, 12, dtype=torch.float64)
    values[:, 1] = values[:, 0]
    costs = removal_order(values.T @ values / 500, gradients, weight, 12, steps=12)
    assert costs[:2].min() < 0.2 * costs[2:].min()
    assert costs[:2].max() > 0.5 * costs[2:].min()  # the one that stays has to stand in for both


def test_fewer_steps_are_close():
    inputs, gradients, weight = factors(n=128, d=16)
    fine, coarse = (removal_order(inputs, gradients, weight, 128, steps=steps) for steps in (128, 32))
    best, near, none = (
        cost_of_keeping(costs.argsort(descending=True)[:64].tolist(), inputs, gradients, weight)
        for costs in (fine, coarse, torch.rand(128))
    )
    assert best <= near < 1.3 * best and none > 2 * best


def test_rows_that_are_cut_out_change_no_cost(monkeypatch):
    inputs, gradients, weight = factors(n=128, d=16)
    got = removal_order(inputs, gradients, weight, 64, steps=32)
    monkeypatch.setattr(surgeon, "CUT_OUT", 0.0)
    torch.testing.assert_close(got, removal_order(inputs, gradients, weight, 64, steps=32), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "family, problem", [("bert", "classification"), ("distilbert", "regression"), ("roberta", "question-answering")]
)
def test_curvature_is_what_hooks_see(family, problem, tmp_path, monkeypatch):
    monkeypatch.setattr(grams, "BLOCK", 5)  # so that there are several, the last one smaller
    model = build(family, problem)
    batches = random_batches(model, problem, LENGTHS[:2])
    requires = [parameter.requires_grad for parameter in model.parameters()]
    found = estimate_curvature(describe(model), batches, problem, seed=3, progress=False)
    assert requires == [parameter.requires_grad for parameter in model.parameters()]

    generator = torch.Generator()
    layers, tokens, examples = layers_of(model), 0, 0
    inputs, gradients = torch.zeros_like(found.ffn_inputs[1]), torch.zeros_like(found.ffn_gradients[1])
    for number, batch in enumerate(batches):
        seen = {}
        handle = layers[1].ffn.writes.register_forward_hook(
            lambda _, args, output, seen=seen: seen.update(x=args[0].detach(), y=output) or output.retain_grad()
        )
        outputs = model(**{name: value for name, value in batch.items() if name in ("input_ids", "attention_mask")})
        problem_of(problem).score(outputs, batch, TEMPERATURE, generator.manual_seed(3 + number)).backward()
        handle.remove()
        for example, mask in enumerate(batch["attention_mask"]):
            for token in mask.nonzero().flatten():
                x, g = seen["x"][example, token].double(), seen["y"].grad[example, token].double()
                inputs, gradients = inputs + x.outer(x), gradients + g.outer(g)
                tokens += 1
            examples += 1
    torch.testing.assert_close(found.ffn_inputs[1], inputs / tokens, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.ffn_gradients[1], gradients / examples, rtol=1e-3, atol=1e-8)

    found.save(tmp_path / "curvature.safetensors")
    loaded = Curvature.load(tmp_path / "curvature.safetensors")
    assert loaded.counts == found.counts and found.counts["ffn_inputs"][1] == tokens
    for name in found.counts:
        tensors = getattr(found, name)
        assert all(torch.equal(one, other) for one, other in zip(tensors, getattr(loaded, name), strict=True))


@pytest.mark.parametrize("classes", [2, 5])
def test_the_score_has_the_gauss_newton_matrix_as_its_second_moment(classes):
    logits = torch.randn(1, classes, generator=torch.Generator().manual_seed(0), requires_grad=True)
    generator, outer = torch.Generator().manual_seed(1), torch.zeros(classes, classes)
    draws = 4000
    for _ in range(draws):
        outputs = type("Output", (), {"logits": logits})
        (gradient,) = torch.autograd.grad(problem_of("classification").score(outputs, {}, 2.0, generator), logits)
        outer += gradient[0].outer(gradient[0]) / draws
    p = (logits[0].detach() / 2).softmax(-1)
    torch.testing.assert_close(outer, p.diag() - p.outer(p), rtol=0, atol=0.01)


def least_squares(tokens=60, n=5, d=3):
    torch.manual_seed(0)
    inputs, targets = torch.randn(tokens, n) + 1, torch.randn(tokens, d) - 2
    linear = torch.nn.Linear(n, d)
    moments = Moments.zeros(linear)
    moments.add(inputs, targets)
    return (inputs.double(), targets.double(), torch.cat([linear.weight, linear.bias[:, None]], 1).double(), moments)


@pytest.mark.parametrize("strength", [1e-4, 1e-1, 10.0])
@torch.no_grad()
def test_ridge_is_the_minimiser(strength):
    inputs, targets, start, moments = least_squares()
    solution = ridge(moments, start, strength)
    penalty = strength * inputs.var(0, unbiased=False).mean() * len(inputs)

    def objective(projection):
        residual = inputs @ projection[:, :-1].T + projection[:, -1] - targets
        return (residual**2).sum() + penalty * ((projection - start)[:, :-1] ** 2).sum()

    parameters = solution.clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(objective(parameters), parameters)
    assert gradient.abs().max() < 1e-3
    error = ((inputs @ solution[:, :-1].T + solution[:, -1] - targets) ** 2).sum()
    torch.testing.assert_close(squared_error(moments, solution) + (targets**2).sum(), error, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_few_tokens_leave_the_weights_and_many_leave_the_start():
    """With fewer tokens than inputs nothing blows up, and the strength is chosen on what is held back."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(50, 4)
    moments, held = Moments.zeros(linear), Moments.zeros(linear)
    inputs = torch.randn(11, 50)
    targets = linear(inputs) + 0.01 * torch.randn(11, 4)
    moments.add(inputs[:8], targets[:8])
    held.add(inputs[8:], targets[8:])
    weight, bias = solve_weights(moments, held, linear.weight, linear.bias)
    assert (weight - linear.weight).abs().max() < 0.05 and (bias - linear.bias).abs().max() < 0.05

    inputs = torch.randn(5000, 50)
    true = torch.randn(4, 50)
    moments.add(inputs[:4000], inputs[:4000] @ true.T)
    held.add(inputs[4000:], inputs[4000:] @ true.T)
    weight, _ = solve_weights(moments, held, linear.weight, linear.bias)
    torch.testing.assert_close(weight.float(), true, atol=0.05, rtol=0)


@torch.no_grad()
def test_the_strength_is_the_best_of_all():
    """From noise that drowns all but the start to targets that only other weights give: the valley moves along."""
    chosen = set()
    for noise, change in ((20.0, 0.0), (5.0, 0.05), (3.0, 0.2), (1.0, 1.0), (0.0, 5.0)):
        torch.manual_seed(1)
        linear, inputs = torch.nn.Linear(30, 4), torch.randn(200, 30)
        start = torch.cat([linear.weight, linear.bias[:, None]], 1).double()
        targets = linear(inputs) + change * inputs @ torch.randn(30, 4) + noise * torch.randn(200, 4)
        moments, held = Moments.zeros(linear), Moments.zeros(linear)
        moments.add(inputs[:150], targets[:150])
        held.add(inputs[150:], targets[150:])
        errors = {strength: float(squared_error(held, ridge(moments, start, strength))) for strength in weights.RIDGES}
        chosen.add(best_strength(moments, held, start))
        assert errors[best_strength(moments, held, start)] == min(errors.values())
    assert len(chosen) >= 4 and {weights.RIDGES[0], weights.RIDGES[-1]} <= chosen, chosen


@torch.no_grad()
def test_no_held_back_tokens_and_no_inputs():
    _, _, start, moments = least_squares()
    weight, bias = start[:, :-1], start[:, -1]
    middle = weights.RIDGES[len(weights.RIDGES) // 2]
    got, _ = solve_weights(moments, Moments.zeros(torch.nn.Linear(5, 3)), weight, bias)
    torch.testing.assert_close(got, ridge(moments, start, middle)[:, :-1])
    empty = Moments(torch.full((1, 1), 4.0, dtype=torch.float64), torch.arange(3.0, dtype=torch.float64)[None])
    weight, bias = solve_weights(empty, empty, torch.zeros(3, 0), torch.zeros(3))
    assert weight.shape == (3, 0)
    torch.testing.assert_close(bias, torch.arange(3.0, dtype=torch.float64) / 4)


@pytest.mark.parametrize(
    "family, problem",
    [
        ("bert", "classification"),
        ("distilbert", "classification"),
        ("roberta", "question-answering"),
        ("bert", "regression"),
    ],
)
def test_reconstruction_meets_the_dense_outputs_better(family, problem):
    model = build(family, problem)
    encoder, batches = describe(model), random_batches(model, problem, LENGTHS * 4)
    masks = random_masks(encoder, 0)
    masks.filters[1] = 0  # only the bias is left to solve for
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    teacher = Teacher(encoder, batches)
    tuned = reconstruct_weights(teacher, masks, problem, progress=False)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(tuned.masks.heads, masks.heads)

    @torch.no_grad()
    def errors(network):
        return [
            float(
                squared_error(
                    system.moments, torch.cat([system.projection.weight, system.projection.bias[:, None]], 1).double()
                )
            )
            for system in walk(teacher, network, progress=False)
        ]

    after, cut = errors(tuned.model), errors(slice_model(encoder, masks))
    assert sum(after) < sum(cut)


def test_nothing_pruned_stays_the_same():
    model = build("bert")
    encoder, batches = describe(model), random_batches(model, "classification", LENGTHS * 4)
    tuned = reconstruct_weights(Teacher(encoder, batches), Masks.ones(encoder), "classification", progress=False)
    inputs = {name: batches[0][name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        torch.testing.assert_close(tuned.model(**inputs).logits, model(**inputs).logits, atol=1e-4, rtol=1e-4)


def test_a_kept_teacher_gives_the_same(monkeypatch):
    model = build("bert")
    encoder, batches = describe(model), random_batches(model, "classification", LENGTHS * 2)
    masks = random_masks(encoder, 0)
    kept, runs = Teacher(encoder, batches, keep=True), []
    plain = reconstruct_weights(Teacher(encoder, batches), masks, "classification", progress=False).model
    for layer in encoder.layers:
        layer.module.register_forward_pre_hook(lambda *_: runs.append(1))
    for _ in range(2):
        again = reconstruct_weights(kept, masks, "classification", progress=False).model
        for name, tensor in again.state_dict().items():
            torch.testing.assert_close(tensor, plain.state_dict()[name])
        made = len(runs)
    # Each walk stops the first layer at its input; the second one did not run the teacher otherwise.
    assert made == (2 + encoder.num_layers) * len(batches)
