"""The precision of a model's files: everything is computed in float32, and saved in the precision of the source."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import transformers
from safetensors import safe_open

NAME = "source_dtype"
"""On a configuration in memory: the precision that its model's files have; never in a file."""

_HALVES = {"F16": torch.float16, "BF16": torch.bfloat16}


def stored_precision(folder: Path) -> torch.dtype:
    """What the floating-point tensors of a folder's safetensors files are stored in.

    float16 or bfloat16 only where all of them are; float32 for everything else, and where there is no such file.
    """
    kinds = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as tensors:
            kinds |= {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118 (no mapping)
    floats = {kind for kind in kinds if "F" in kind}
    return _HALVES.get(floats.pop(), torch.float32) if len(floats) == 1 else torch.float32


def note_precision(model: transformers.PreTrainedModel, dtype: torch.dtype) -> None:
    """Note on the configuration, which slicing takes over, what the model is to be saved in."""
    setattr(model.config, NAME, str(dtype).removeprefix("torch."))


def precision_of(model: transformers.PreTrainedModel) -> torch.dtype:
    """What a model is saved in: as noted, or as it is."""
    return getattr(torch, getattr(model.config, NAME, None) or str(model.dtype).removeprefix("torch."))


@torch.no_grad()
def round_as_saved(model: transformers.PreTrainedModel) -> None:
    """Round the weights to what will be saved, so that what is evaluated is what is saved.

    A model with a weight that the precision cannot hold stays, and will be saved, in float32; that is warned of.
    """
    dtype = precision_of(model)
    if dtype == model.dtype:
        return
    rounded = {name: parameter.to(dtype) for name, parameter in model.named_parameters()}
    if not all(weight.isfinite().all() for weight in rounded.values()):
        warnings.warn(f"a weight is too large for {dtype}, the source's precision: saved in float32", stacklevel=2)
        note_precision(model, model.dtype)
        return
    for name, parameter in model.named_parameters():
        parameter.copy_(rounded[name])


def save_weights(model: transformers.PreTrainedModel, folder: Path) -> None:
    """``save_pretrained`` in the precision of the source."""
    dtype = precision_of(model)
    if dtype == model.dtype:
        model.save_pretrained(folder)
        return
    state = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in model.state_dict().items()
    }
    model.save_pretrained(folder, state_dict=state)
