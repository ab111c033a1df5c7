"""The ridge of weight reconstruction, and the walk to it, at the edge: few tokens, constant inputs, no numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import PROBLEMS, build, random_batches, random_masks

from fastprune.errors import InputError
from fastprune.model.architectures import describe
from fastprune.model.masks import Masks
from fastprune.tuning.layerwise import Teacher
from fastprune.tuning.mask import tune_masks
from fastprune.tuning.moments import Moments
from fastprune.tuning.weights import RIDGES, reconstruct_weights, ridge, solve_weights, squared_error


def moments_of(inputs, targets):
    moments = Moments.zeros(torch.nn.Linear(inputs.shape[1], targets.shape[1]))
    moments.add(inputs, targets)
    return moments


@given(
    st.integers(1, 9),
    st.integers(1, 6),
    st.integers(1, 4),
    st.sampled_from(RIDGES),
    st.sampled_from(["plain", "constant", "repeated", "one alive", "dead"]),
    st.sampled_from([1e-6, 1.0, 1e6]),
    st.integers(0, 2**20),
)
@settings(max_examples=200, deadline=None, derandomize=True)
@torch.no_grad()
def test_never_worse_than_the_start_on_its_own_tokens(tokens, n, outputs, strength, kind, loudness, seed):
    """One token, fewer tokens than inputs, inputs that do not vary; and the weights stay of the start's size."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(tokens, n, generator=generator) * loudness
    if kind in ("constant", "repeated"):
        inputs = inputs[:1].expand(tokens, n).repeat(1 + 50 * (kind == "repeated"), 1)
    if kind in ("one alive", "dead"):
        inputs[:, kind == "one alive" :] = 0
    start = torch.randn(outputs, n + 1, generator=generator, dtype=torch.float64)
    targets = (inputs.double() @ start[:, :-1].T).float() + torch.randn(len(inputs), outputs, generator=generator)
    solution = ridge(moments_of(inputs, targets), start, strength)

    def error(projection):
        return ((inputs.double() @ projection[:, :-1].T + projection[:, -1] - targets) ** 2).sum()

    assert solution.isfinite().all()
    rounding = 1e-5 * float((targets.double() ** 2).sum() + (inputs.double() ** 2).sum() * start.square().sum())
    assert error(solution) <= error(start) + rounding
    if tokens == 1 or kind in ("constant", "repeated", "dead"):
        assert torch.equal(solution[:, :-1], start[:, :-1])
        residual = inputs.double() @ start[:, :-1].T - targets
        torch.testing.assert_close(solution[:, -1], -residual.mean(0), rtol=1e-4, atol=rounding**0.5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_moments_that_are_not_finite_end_the_ridge(value):
    moments = moments_of(torch.randn(9, 3), torch.randn(9, 2))
    moments.gram[0, 1] = moments.gram[1, 0] = value
    start = torch.zeros(2, 4, dtype=torch.float64)
    with pytest.raises(InputError, match="moments of a linear map's inputs are not finite"):
        ridge(moments, start, 0.1)


@torch.no_grad()
def test_a_singular_covariance_gets_a_greater_penalty():
    """float32 products of many inputs and few tokens are indefinite by more than the weakest ridge makes up for."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4, 60, generator=generator) + 30
    moments = moments_of(inputs, torch.randn(4, 2, generator=generator))
    moments.gram[:-1, :-1] -= 1e-3 * moments.gram.diagonal().mean() * torch.eye(60, dtype=torch.float64)
    start = torch.zeros(2, 61, dtype=torch.float64)
    solution = ridge(moments, start, RIDGES[-1])
    assert solution.isfinite().all() and squared_error(moments, solution) <= squared_error(moments, start)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("lengths", [[[1]], [[2]], [[1, 1, 1]], [[7], [1], [3]], [[3, 5, 4, 1, 2, 6, 3, 2, 1]]])
def test_any_sample_and_empty_layers(problem, lengths):
    """One token, one example, odd sizes: both tunings leave a model of numbers, its weights of the dense one's size."""
    model = build(problem=problem)
    encoder, batches = describe(model), random_batches(model, problem, lengths)
    masks = random_masks(encoder)
    masks.heads[1], masks.filters[2] = 0, 0
    largest = max(float(value.abs().max()) for value in model.state_dict().values() if value.is_floating_point())
    for tuned in (
        reconstruct_weights(Teacher(encoder, batches), masks, problem, progress=False),
        tune_masks(encoder, masks, Masks.ones(encoder), batches, problem, progress=False),
    ):
        for name, value in tuned.model.state_dict().items():
            assert value.isfinite().all(), name
            assert not value.is_floating_point() or value.numel() == 0 or value.abs().max() < 100 * largest, name


@pytest.mark.parametrize(
    "bias, value, where",
    [
        ("value", float("nan"), "layer 1 value"),  # what a map puts out is not finite
        ("value", 1e25, "layer 1 attention"),  # what it puts out has no square, which the next map finds
        ("ffn_input", float("inf"), "layer 1 ffn_input"),
        ("ffn_input", 1e25, "layer 1 ffn"),
        ("ffn_norm", 1e25, "layer 2 query"),
    ],
)
def test_activations_that_are_not_finite_are_named_by_layer_and_map(bias, value, where):
    model = build()
    encoder, batches = describe(model), random_batches(model, "classification", [[9, 5], [3, 7]])
    with torch.no_grad():
        ffn = encoder.layers[1].ffn
        maps = {**encoder.layers[1].attention.reads, **ffn.reads, "ffn_norm": ffn.after}
        maps[bias].bias[2] = value
    masks = Masks.ones(encoder)
    with pytest.raises(InputError, match=f"the activations of the sample at {where} are not finite, or too large"):
        reconstruct_weights(Teacher(encoder, batches), masks, "classification", progress=False)
    with pytest.raises(InputError, match="the activations of the sample at layer [12] (attention|ffn) are not finite"):
        tune_masks(encoder, masks, masks, batches, "classification", progress=False)


def test_the_task_head_is_named_too():
    model = build(problem="regression")
    encoder, batches = describe(model), random_batches(model, "regression", [[9, 5], [3, 7]])
    with torch.no_grad():
        model.bert.pooler.dense.weight.fill_(float("inf"))
    with pytest.raises(InputError, match="the activations of the sample at the task head, map 0 are not finite"):
        reconstruct_weights(Teacher(encoder, batches), Masks.ones(encoder), "regression", progress=False)


@torch.no_grad()
def test_one_held_back_token_and_one_other():
    """Of two tokens one is held back: what is chosen on one is solved on both."""
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(2, 5, generator=generator), torch.randn(2, 3, generator=generator)
    linear = torch.nn.Linear(5, 3)
    weight, bias = solve_weights(
        moments_of(inputs[:1], targets[:1]), moments_of(inputs[1:], targets[1:]), linear.weight, linear.bias
    )
    got, before = (
        (inputs @ w.float().T + b.float() - targets).square().sum()
        for w, b in ((weight, bias), (linear.weight, linear.bias))
    )
    assert weight.isfinite().all() and got <= before


@torch.no_grad()
def test_a_map_without_a_bias_is_solved_for_without_a_constant():
    """Against the normal equations of the bare inputs, whose means are far from zero; nothing takes up the mean."""
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(70, 5, generator=generator) + 2, torch.randn(70, 3, generator=generator) - 3
    start = torch.randn(3, 5, generator=generator)
    nothing = moments_of(inputs[:0], targets[:0])
    weight, bias = solve_weights(moments_of(inputs, targets), nothing, start, None)
    x, b = inputs.double(), targets.double()
    penalty = RIDGES[len(RIDGES) // 2] * x.square().mean() * len(x) * torch.eye(5, dtype=torch.float64)
    want = torch.linalg.solve(x.T @ x + penalty, x.T @ b + penalty @ start.double().T).T
    torch.testing.assert_close(weight, want, rtol=1e-4, atol=1e-6)
    assert bias is None
    empty, none = solve_weights(moments_of(inputs[:, :0], targets), nothing, start[:, :0], None)
    assert empty.shape == (3, 0) and none is None
