"""Masks become a smaller dense model: rows and columns are cut, scales folded into the weights."""

from __future__ import annotations

import copy

import torch
import transformers
from torch import Tensor, nn

from fastprune.model.architectures import Encoder, layers_of
from fastprune.model.families import FAMILIES
from fastprune.model.masks import Masks
from fastprune.model.tokens import send
from fastprune.settings import Layout


@torch.no_grad()
def slice_model(encoder: Encoder, masks: Masks, layout: Layout = "free") -> transformers.PreTrainedModel:
    """Cut the pruned heads and filters out of a dense model.

    Parameters
    ----------
    encoder : Encoder
        Of the dense model, which is left as it was.
    masks : Masks
        Zero is pruned; another value multiplies the unit's column of the output projection.
    layout : {"free", "portable"}
        ``portable``, of masks that were searched so, removes the layers that keep nothing. A layer ahead of removed
        ones gets the norm behind the last of them: what comes next was trained to read the stream as that leaves it.

    Returns
    -------
    PreTrainedModel
        A ``Pruned...`` class of :mod:`fastprune.model.modeling_fastprune`, in evaluation mode, on the dense model's
        device. Its logits are those of the dense model under the masks. A layer may keep nothing. In layout portable a
        model of the dense model's own class.
    """
    dense = encoder.model
    spans = masks.spans if layout == "portable" else [(number, number) for number in range(encoder.num_layers)]
    with torch.device("meta"):
        model = _plain(dense, masks.of_kept_layers()) if layout == "portable" else _sized(dense, masks)
    model = model.to(dense.dtype).to_empty(device=dense.device)  # type: ignore[arg-type]

    done: set[int] = set()
    for (number, last), new in zip(spans, layers_of(model), strict=True):
        old, heads, filters = encoder.layers[number], masks.heads[number], masks.filters[number]
        columns = heads.repeat_interleave(encoder.head_size)  # of the attention's writes [H * head_size]
        for source, target, scales in ((old.attention, new.attention, columns), (old.ffn, new.ffn, filters)):
            kept, scales = (send(values, dense.device) for values in (scales.nonzero().flatten(), scales))
            for name, linear in source.reads.items():
                _cut_rows(linear, target.reads[name], source.rows(kept))
            for pair in zip(source.follows, target.follows, strict=True):
                _cut_rows(*pair, kept)
            _cut_columns(source.writes, target.writes, kept, scales)
            done |= {id(parameter) for linear in (*target.cut, target.writes) for parameter in linear.parameters()}
        _copy(encoder.layers[last].ffn.after, new.ffn.after, done)
        _copy(old.module, new.module, done)
    _copy(dense, model, done)
    return model.eval()


def _sized(dense: transformers.PreTrainedModel, masks: Masks) -> transformers.PreTrainedModel:
    """An empty model whose layers have the sizes that masks give them."""
    from fastprune.model import modeling_fastprune  # transformers' modelling code: seconds, and few stages need it

    config = copy.deepcopy(dense.config)
    config.kept_heads, config.kept_filters = masks.head_counts, masks.filter_counts
    if FAMILIES[config.model_type].head_bias:
        config.kept_head_numbers = masks.kept_heads  # each takes its own plane of the bias along
    config.architectures = [f"Pruned{type(dense).__name__}"]
    return getattr(modeling_fastprune, config.architectures[0])(config)


def _plain(dense: transformers.PreTrainedModel, kept: Masks) -> transformers.PreTrainedModel:
    """An empty model of the dense model's class: fewer layers, and in each of them fewer filters."""
    config, family = copy.deepcopy(dense.config), FAMILIES[dense.config.model_type]
    layers = len(kept.heads)
    if family.layer_kinds:
        setattr(config, family.layer_kinds, getattr(config, family.layer_kinds)[:layers])
    config.num_hidden_layers = layers
    setattr(config, family.filters, kept.filter_counts[0])
    config.architectures = [type(dense).__name__]
    config.__dict__.pop("auto_map", None)  # of code that the source may have, and that is not copied
    return type(dense)(config)


def _copy(source: nn.Module, target: nn.Module, done: set[int]) -> None:
    """Whatever of ``target`` is not ``done`` gets the values of its namesake: it has their shape."""
    tensors = dict(source.named_parameters()) | dict(source.named_buffers())
    for name, tensor in [*target.named_parameters(), *target.named_buffers()]:
        if id(tensor) not in done:
            tensor.data.copy_(tensors[name])
            done.add(id(tensor))


def _cut_rows(source: nn.Linear, target: nn.Linear, kept: Tensor) -> None:
    target.weight.copy_(source.weight[kept])
    if source.bias is not None:
        target.bias.copy_(source.bias[kept])


def _cut_columns(source: nn.Linear, target: nn.Linear, kept: Tensor, scales: Tensor) -> None:
    target.weight.copy_(source.weight[:, kept] * scales[kept])
    if source.bias is not None:
        target.bias.copy_(source.bias)
