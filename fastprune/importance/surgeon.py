"""Removal costs after compensation: the optimal brain surgeon on whole units.

Hassibi & Stork (1993), with the Kronecker-factored curvature: a unit's importance is what its removal costs once the
output projection's other weights have been solved for again, given all that was removed before it. Unlike the
diagonal Fisher of the masks (paper, section 3.2) it knows that weight reconstruction follows, and that units stand
in for each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastprune.importance.curvature import Curvature
from fastprune.model.architectures import Encoder

DAMPING = 1e-2
"""Added to the input factor's diagonal, as a multiple of its mean; the ridge of the reconstruction to come."""

STEPS = 64
"""Filters are removed in so many steps; within a step their costs are taken as independent."""


def removal_costs(encoder: Encoder, curvature: Curvature) -> tuple[Tensor, Tensor]:
    """Importance of every head and filter, in the place of the diagonal Fisher in the search.

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
                layer.attention_output.weight,
                encoder.num_heads,
                steps=encoder.num_heads,
            )
        )
        filters.append(
            removal_order(
                curvature.ffn_inputs[index],
                curvature.ffn_gradients[index],
                layer.ffn_output.weight,
                encoder.num_filters,
                steps=STEPS,
            )
        )
    return torch.stack(heads), torch.stack(filters)


@torch.no_grad()
def removal_order(inputs: Tensor, gradients: Tensor, weight: Tensor, num_units: int, *, steps: int) -> Tensor:
    """Remove all units of one projection, cheapest first, and note what each removal cost.

    Removing the columns ``u`` of a unit from ``W`` and solving for the others again costs
    ``tr(W_u^T G W_u (P_uu)^-1)`` with ``P = A^-1``, changes ``W`` by ``-W_u (P_uu)^-1 P_u`` and ``P`` by
    ``-P_u^T (P_uu)^-1 P_u``. Costs never fall along the order: a unit that becomes cheap only because dearer ones
    went is as dear as they were.

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
    """
    device = weight.device
    inputs = inputs.to(device)
    damped = inputs + DAMPING * inputs.diagonal().mean() * torch.eye(len(inputs), dtype=inputs.dtype, device=device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped)).float()
    values, vectors = torch.linalg.eigh(gradients.to(device))
    root = (vectors * values.clamp(min=0).sqrt()).T @ weight.double()  # G^(1/2) W: costs are its squares
    scale = root.norm().clamp(min=torch.finfo(torch.float64).tiny)
    root = (root / scale).float()

    columns = torch.arange(len(inputs), device=device).unflatten(0, (num_units, -1))
    left = torch.arange(num_units, device=device)
    costs, dearest = torch.zeros(num_units, dtype=torch.float64), 0.0
    while len(left):
        own = columns[left]
        blocks = inverse[own[:, :, None], own[:, None, :]]
        roots = root[:, own].transpose(0, 1)
        cost = (torch.linalg.inv(blocks.double()) * (roots.mT @ roots)).sum((1, 2))
        cheapest, chosen = cost.topk(min(max(1, num_units // steps), len(left)), largest=False)
        dearest_so_far = cheapest.cpu().cummax(0).values.clamp(min=dearest)
        costs[left[chosen].cpu()] = dearest_so_far
        dearest = float(dearest_so_far[-1])

        # What goes is not cut out of the matrices, which would cost more than it spares: its rows become zero.
        out = own[chosen].flatten()
        across = inverse[out]
        step = torch.linalg.solve(across[:, out].double(), across.double()).float()
        root.addmm_(root[:, out], step, alpha=-1)
        inverse.addmm_(across.T, step, alpha=-1)
        stays = torch.ones(len(left), dtype=torch.bool, device=device)
        stays[chosen] = False
        left = left[stays]
    return costs * float(scale) ** 2
