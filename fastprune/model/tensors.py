"""Reading tensors that another step has written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fastprune.errors import InputError
from fastprune.store.bounded import check_regular

MOST = 16 << 30
"""Bytes of a file of tensors that one step hands to the next."""


def read_tensors(path: str | Path, ranks: Mapping[str, int] | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Parameters
    ----------
    path : str or Path
    ranks : mapping, optional
        The names of all tensors, and how many dimensions each has; by default any.

    Raises
    ------
    InputError
        No such file, a damaged one, or one of other tensors.
    """
    try:
        check_regular(path, MOST)
        tensors = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors ({error}); make it again") from error
    found = {name: tensor.ndim for name, tensor in tensors.items()}
    if ranks is not None and found != dict(ranks):
        told = {name: list(tensor.shape) for name, tensor in list(tensors.items())[:5]}
        wanted = ", ".join(f"{name} of {rank} dimensions" for name, rank in ranks.items())
        raise InputError(f"{path}: holds {str(told)[:300]} where {wanted} belong; make it again")
    return tensors
