"""Least-squares systems of the walk, taken from whole dense models under masks."""

import torch
from tiny_models import logits_of

from fastprune.model.architectures import norm_of
from fastprune.model.masks import Masks, masked

LENGTHS = [[9, 4, 7], [6], [3, 8]]
KINDS = ("attention", "ffn")


def every_filter(masks, index):
    """The teacher's masks for the FFN target of a layer: all of its filters, as published."""
    filters = masks.filters.clone()
    filters[index] = 1
    return Masks(masks.heads, filters)


def inputs_of_modules(encoder, masks, batch, *modules):
    """What each module reads when the dense model runs under masks, all tokens [B, T, n]."""
    seen = {}
    with masked(encoder, masks.heads, masks.filters):
        handles = [
            module.register_forward_pre_hook(lambda module, inputs: seen.__setitem__(module, inputs[0]))
            for module in modules
        ]
        logits_of(encoder.model, batch)
        for handle in handles:
            handle.remove()
    return [seen[module] for module in modules]


def ends_of(encoder, index, kind):
    """The modules of the dense model that read the stream ahead of a block and behind it."""
    blocks = [block for layer in encoder.layers for block in layer.blocks]
    place = 2 * index + KINDS.index(kind)
    block, inside = blocks[place], set(encoder.model.modules())
    into = block.before if block.before in inside else list(block.reads.values())[-1]
    ahead = blocks[place + 1].before if place + 1 < len(blocks) else norm_of(encoder.model)
    return into, block.after if block.after in inside else ahead


def naive_system(encoder, masks, teacher_masks, batches, index, kind, *, first_token):
    """Rows X [tokens, units * width] and targets [tokens, D] of one system, from whole dense models."""
    block = getattr(encoder.layers[index], kind)
    projection, (residual, norm) = block.writes, ends_of(encoder, index, kind)
    if kind == "ffn":
        teacher_masks = every_filter(teacher_masks, index)
    rows, targets = [], []
    for batch in batches:
        (wanted,) = inputs_of_modules(encoder, teacher_masks, batch, norm)
        reads, state = inputs_of_modules(encoder, masks, batch, projection, residual)
        keep = batch["attention_mask"].bool()
        if first_token:
            keep = torch.zeros_like(keep)
            keep[:, 0] = True
        rows.append(reads[keep])
        targets.append((wanted - state)[keep])
    return torch.cat(rows).double(), torch.cat(targets).double()
