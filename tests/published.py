"""The paper's algorithms written straight from it, for the tests and the benchmarks to compare with.

Kwon et al., "A Fast Post-Training Pruning Framework for Transformers", NeurIPS 2022: algorithm 1 (search) and
section 3.3 (rearrangement), as one would write them at first: a loop over numbers of heads that sums slices,
and a greedy that gathers its gradient rows again at every step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastprune.search.macs import MacModel


def search(
    head_importance: Tensor, filter_importance: Tensor, macs: MacModel, keep_ratio: float
) -> tuple[Tensor, Tensor]:
    """Masks of heads [L, H] and filters [L, I]; keeps at least one head, as the loop starts there."""
    budget = keep_ratio * macs.total
    heads, head_order = head_importance.flatten().sort(descending=True)
    filters, filter_order = filter_importance.flatten().sort(descending=True)
    best, best_heads, best_filters = -1.0, 0, 0
    for num_heads in range(1, len(heads) + 1):
        num_filters = max(int((budget - num_heads * macs.per_head) / macs.per_filter), 0)
        importance = heads[:num_heads].sum() + filters[:num_filters].sum()
        if importance > best and num_heads * macs.per_head <= budget:
            best, best_heads, best_filters = importance, num_heads, num_filters
    head_mask, filter_mask = torch.zeros_like(heads), torch.zeros_like(filters)
    head_mask[head_order[:best_heads]] = 1
    filter_mask[filter_order[:best_filters]] = 1
    return head_mask.view_as(head_importance), filter_mask.view_as(filter_importance)


def rearrange_layer(mask: Tensor, gradients: Tensor) -> Tensor:
    """Mask [units] from a mask [units] and gradients [N, units]."""
    num_pruned = int((mask == 0).sum())
    if num_pruned in (0, len(mask)):
        return mask
    rows = gradients.T.contiguous()
    order = rows.square().sum(1).sort(stable=True).indices.tolist()
    pruned = order[:num_pruned]
    for unit in order[num_pruned:]:
        pruned.append(unit)
        gathered = rows[pruned]
        without = gathered.sum(0) - gathered
        del pruned[without.square().sum(1).argmin()]
    new_mask = torch.ones_like(mask)
    new_mask[pruned] = 0
    return new_mask
