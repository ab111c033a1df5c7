"""Mask rearrangement with the block-diagonal Fisher (paper, section 3.3)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from fastprune.importance.fisher import Fisher
from fastprune.model.masks import Masks


def rearrange(masks: Masks, fisher: Fisher) -> Masks:
    """Swap pruned and kept units within each layer so that the pruned gradients cancel.

    The number of heads and filters of each layer stays what the search decided; which ones they are is chosen
    again, greedily, with the interactions between units of one layer taken into account (paper, eq. 11).

    Parameters
    ----------
    masks : Masks
        Binary, from the search.
    fisher : Fisher

    Returns
    -------
    Masks
        Binary, the same counts per layer.
    """

    def all_layers(mask: Tensor, gradients: Tensor) -> Tensor:
        rows = [rearrange_layer(mask[index], gradients[:, index]) for index in range(len(mask))]
        return torch.stack(rows)

    return Masks(all_layers(masks.heads, fisher.head_grads), all_layers(masks.filters, fisher.filter_grads))


def rearrange_layer(mask: Tensor, gradients: Tensor) -> Tensor:
    """Greedy rearrangement of one layer.

    The objective is the block-diagonal quadratic form of the pruned units ``Z``: ``|| sum_{i in Z} g_i ||^2``,
    ``g_i`` being unit i's gradients over the sample. Units enter ``Z`` from the least important on; each time
    the set is one too large, the unit whose removal leaves the shortest sum goes back to the kept.

    With ``s`` the running sum, removing i leaves ``|s|^2 - 2 <s, g_i> + |g_i|^2``. The inner products
    ``<s, g_i>`` of all units change by one row of the Gram matrix when a unit enters or leaves, so a step costs
    O(units), not O(units x rows) as when the sums are formed again.

    Parameters
    ----------
    mask : Tensor [units]
        Binary.
    gradients : Tensor [N, units]

    Returns
    -------
    Tensor [units]
    """
    num_pruned = int((mask == 0).sum())
    if num_pruned in (0, len(mask)):
        return mask.clone()
    gradients = _representable(gradients)
    gram = (2 * gradients.T @ gradients).numpy()  # [units, units], twice the inner products: what the steps need
    rows = gradients.double()  # [N, units]: running sums are kept in double precision
    lengths = gram.diagonal().astype(np.float64) / 2  # [units]
    order = np.argsort(lengths, kind="stable")

    pruned = order[:num_pruned]
    total = rows[:, pruned].sum(1)  # [N]
    shortening = lengths - (2 * rows.T @ total).numpy()  # |g_i|^2 - 2 <s, g_i>: what leaving does to |s|^2
    outside = np.full(len(mask), np.inf)  # inf keeps the units outside Z from being chosen
    outside[pruned] = 0
    candidates = np.empty_like(shortening)
    for unit in order[num_pruned:].tolist():
        shortening -= gram[unit]
        outside[unit] = 0
        leaves = np.add(shortening, outside, out=candidates).argmin()
        shortening += gram[leaves]
        outside[leaves] = np.inf
    return torch.from_numpy(np.isinf(outside)).to(mask.dtype)


def _representable(gradients: Tensor) -> Tensor:
    """Gradients whose squares are neither infinite nor zero in float32: scaled where they would be, else as they are.

    The scale is a power of two, and no choice depends on it.
    """
    largest = float(gradients.abs().max())
    if largest == 0 or 2.0**-30 < largest < 2.0**40:
        return gradients
    return torch.ldexp(gradients, torch.tensor(-math.frexp(largest)[1]))
