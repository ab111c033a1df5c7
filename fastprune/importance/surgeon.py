"""Removal costs after compensation: the optimal brain surgeon on whole units.

Hassibi & Stork (1993), with the Kronecker-factored curvature: a unit's importance is what its removal costs once the
output projection's other weights have been solved for again, given all that was removed before it. Unlike the
diagonal Fisher of the masks (paper, section 3.2) it knows that weight reconstruction follows, and that units stand
in for each other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastprune.errors import InputError
from fastprune.importance.curvature import Curvature
from fastprune.model.architectures import Encoder

DAMPING = 1e-2
"""Added to the input factor's diagonal, as a multiple of its mean; the ridge of the reconstruction to come."""

STEPS = 64
"""Filters are removed in this number of steps; within a step their costs are taken as independent."""

CUT_OUT = 0.8
"""Rows and columns of what is removed leave the matrices when no more than this part of their units is left."""

TRIES = 24
"""The damping is made ten times as great at most this often: far beyond what any finite input factor needs."""


def removal_costs(encoder: Encoder, curvature: Curvature) -> tuple[Tensor, Tensor]:
    """Importance of every head and filter, in place of the diagonal Fisher in the search.

    Parameters
    ----------
    encoder : Encoder
        Of the dense model.
    curvature : Curvature
        Of the same.

    Returns
    -------
    heads : Tensor [L, H] float64
    filters : Tensor [L, I] float64
    """
    heads, filters = [], []
    for index, layer in enumerate(encoder.layers):
        heads.append(
            removal_order(
                curvature.attention_inputs[index],
                curvature.attention_gradients[index],
                layer.attention.writes.weight,
                encoder.num_heads,
                steps=encoder.num_heads,
            )
        )
        filters.append(
            removal_order(
                curvature.ffn_inputs[index],
                curvature.ffn_gradients[index],
                layer.ffn.writes.weight,
                encoder.num_filters,
                steps=STEPS,
            )
        )
    return torch.stack(heads).cpu(), torch.stack(filters).cpu()


@torch.no_grad()
def removal_order(inputs: Tensor, gradients: Tensor, weight: Tensor, num_units: int, *, steps: int) -> Tensor:
    """Remove all units of one projection, cheapest first, and note what each removal cost.

    Removing the columns ``u`` of a unit from ``W`` and solving for the others again costs
    ``tr(W_u^T G W_u (P_uu)^-1)`` with ``P = A^-1``, changes ``W`` by ``-W_u (P_uu)^-1 P_u`` and ``P`` by
    ``-P_u^T (P_uu)^-1 P_u``. Costs never fall along the order: a unit that becomes cheap only because others were
    removed before it gets the cost of the most expensive of these.

    A projection that reads nothing but zeros, or whose weights or gradients are all zero, costs nothing to remove.

    Parameters
    ----------
    inputs : Tensor [n, n]
        ``A``; a unit is ``n / num_units`` neighbouring columns.
    gradients : Tensor [D, D]
        ``G``.
    weight : Tensor [D, n]
    num_units, steps : int

    Returns
    -------
    Tensor [num_units] float64
        On the weight's device, which is not waited for between the first step and the last.

    Raises
    ------
    InputError
        ``inputs`` is no second moment: no damping makes it positive definite, or what is left of it is singular.
    """
    device = weight.device
    costs, highest = torch.zeros(num_units, dtype=torch.float64, device=device), torch.zeros((), device=device)
    inputs, gradients, input_scale, gradient_scale = _scaled(inputs.to(device), gradients.to(device))
    if input_scale == 0 or gradient_scale == 0:
        return costs
    inverse = damped_inverse(inputs).float()  # P [n, n]
    values, vectors = torch.linalg.eigh(gradients)  # [D], [D, D]
    root = (vectors * values.clamp(min=0).sqrt()).T @ weight.double()  # G^(1/2) W [D, n]: costs are its squares
    scale = root.norm().clamp(min=torch.finfo(torch.float64).tiny)
    root = (root / scale).float()
    failed = torch.zeros((), dtype=torch.int64, device=device)  # how often a matrix was singular

    columns = torch.arange(len(inputs), device=device).unflatten(0, (num_units, -1))  # [units, size]
    units = left = torch.arange(num_units, device=device)  # those in the matrices, and where among them those left are
    while len(left):
        if len(left) <= CUT_OUT * len(units):
            stay = columns[left].flatten()
            inverse, root = inverse[stay[:, None], stay], root[:, stay]
            units, left = units[left], torch.arange(len(left), device=device)
        own = columns[left]  # [left, size]
        blocks = inverse[own[:, :, None], own[:, None, :]]  # P_uu [left, size, size]
        roots = root[:, own].transpose(0, 1)  # [left, D, size]
        inverses, errors = torch.linalg.inv_ex(blocks.double())
        failed += errors.count_nonzero()
        cost = (inverses * (roots.mT @ roots)).sum((1, 2))  # [left]
        cheapest, chosen = cost.topk(min(max(1, num_units // steps), len(left)), largest=False)
        up_to_here = cheapest.cummax(0).values.clamp(min=highest)
        costs[units[left[chosen]]], highest = up_to_here, up_to_here[-1]

        # What is removed is not cut out of the matrices every time: its rows become zero.
        out = own[chosen].flatten()  # [o], the columns of what is removed
        across = inverse[out]  # [o, n]
        step, errors = torch.linalg.solve_ex(across[:, out].double(), across.double())  # (P_uu)^-1 P_u [o, n]
        failed += errors
        step = step.float()
        root.addmm_(root[:, out], step, alpha=-1)
        inverse.addmm_(across.T, step, alpha=-1)
        goes = torch.zeros(len(left), dtype=torch.uint8, device=device).index_fill_(0, chosen, 1)
        left = left[goes.argsort(stable=True)[: len(left) - len(chosen)]]  # in order; how many is known here
    if failed:
        raise InputError(_NOT_FINITE)
    return costs * scale.square() * input_scale * gradient_scale


def _scaled(inputs: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor, float, float]:
    """Both factors and their scales: divided by powers of four, which no result's digits depend on.

    Without it the inverse of a factor of very small or very large values is not a number in float32.
    """
    greatest = torch.stack([factor.abs().max() for factor in (inputs, gradients)]).tolist()
    input_scale, gradient_scale = map(_power_of_four, greatest)
    return inputs / (input_scale or 1), gradients / (gradient_scale or 1), input_scale, gradient_scale


def _power_of_four(value: float) -> float:
    """The nearest one below: its root is a power of two. 0 of 0."""
    return 4.0 ** ((math.frexp(value)[1] - 1) // 2) if value else 0.0


def damped_inverse(inputs: Tensor) -> Tensor:
    """Inverse [n, n] of the input factor [n, n] with its diagonal raised until it is positive definite."""
    damping = (DAMPING * inputs.diagonal().mean()).clamp(min=torch.finfo(torch.float32).eps)
    for _ in range(TRIES):
        damped = inputs + damping * torch.eye(len(inputs), dtype=inputs.dtype, device=inputs.device)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            return torch.cholesky_inverse(factor)
        damping *= 10  # rounding, or a shard's factors from elsewhere, made it indefinite
    raise InputError(_NOT_FINITE)


_NOT_FINITE = "the second moments of a projection's inputs are not finite; measure the importance again from the sample"
