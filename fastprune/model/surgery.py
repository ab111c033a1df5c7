"""Masks become a smaller dense model: rows and columns are cut, scales folded into the weights."""

from __future__ import annotations

import copy

import torch
import transformers
from torch import Tensor, nn

from fastprune.model.architectures import Encoder, layers_of
from fastprune.model.families import FAMILIES
from fastprune.model.masks import Masks


@torch.no_grad()
def slice_model(encoder: Encoder, masks: Masks) -> transformers.PreTrainedModel:
    """Cut the pruned heads and filters out of a dense model.

    Parameters
    ----------
    encoder : Encoder
        Of the dense model, which is left as it was.
    masks : Masks
        Zero is pruned; another value multiplies the unit's column of the output projection.

    Returns
    -------
    PreTrainedModel
        A ``Pruned...`` class of :mod:`fastprune.model.modeling_fastprune`, in evaluation mode, on the dense model's
        device. Its logits are those of the dense model under the masks. A layer may keep nothing.
    """
    from fastprune.model import modeling_fastprune  # transformers' modelling code: seconds, and few stages need it

    dense = encoder.model
    config = copy.deepcopy(dense.config)
    config.kept_heads, config.kept_filters = masks.head_counts, masks.filter_counts
    if FAMILIES[config.model_type].head_bias:
        config.kept_head_numbers = masks.kept_heads  # each takes its own plane of the bias along
    config.architectures = [f"Pruned{type(dense).__name__}"]
    with torch.device("meta"):
        model = getattr(modeling_fastprune, config.architectures[0])(config)
    model = model.to(dense.dtype).to_empty(device=dense.device)

    cut: set[int] = set()
    for old, new, heads, filters in zip(encoder.layers, layers_of(model), masks.heads, masks.filters, strict=True):
        columns = heads.repeat_interleave(encoder.head_size)  # of the attention's writes [H * head_size]
        for source, target, scales in ((old.attention, new.attention, columns), (old.ffn, new.ffn, filters)):
            scales = scales.to(dense.device)
            kept = scales.nonzero().flatten()
            for name, linear in source.reads.items():
                _cut_rows(linear, target.reads[name], source.rows(kept))
            for pair in zip(source.follows, target.follows, strict=True):
                _cut_rows(*pair, kept)
            _cut_columns(source.writes, target.writes, kept, scales)
            cut |= {id(parameter) for linear in (*target.cut, target.writes) for parameter in linear.parameters()}

    # Everything that pruning does not touch keeps its shape and its values.
    tensors = dict(dense.named_parameters()) | dict(dense.named_buffers())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if id(tensor) not in cut:
            tensor.data.copy_(tensors[name])
    return model.eval()


def _cut_rows(source: nn.Linear, target: nn.Linear, kept: Tensor) -> None:
    target.weight.copy_(source.weight[kept])
    if source.bias is not None:
        target.bias.copy_(source.bias[kept])


def _cut_columns(source: nn.Linear, target: nn.Linear, kept: Tensor, scales: Tensor) -> None:
    target.weight.copy_(source.weight[:, kept] * scales[kept])
    if source.bias is not None:
        target.bias.copy_(source.bias)
