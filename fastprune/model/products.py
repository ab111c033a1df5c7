"""Products of float32 matrices on a CPU, by the faster of two libraries that torch has for them.

Torch takes MKL, which leaves half of what an AMD processor with AVX-512 can do. oneDNN, which comes with torch as well,
does not.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from fastprune.environment import device_name


def fast_products() -> AbstractContextManager:
    """Inside a ``with`` block linear maps are multiplied by oneDNN where torch would take the slower MKL.

    The result is the same to rounding. What needs gradients, or is not in float32 on a CPU, is multiplied as ever.
    """
    return _ByOneDNN() if _gains() else nullcontext()


@cache
def _gains() -> bool:
    """Whether torch would take MKL on a processor of AMD's, and could take oneDNN."""
    libraries = torch.backends.mkl, torch.backends.mkldnn
    return device_name(torch.device("cpu")).startswith("AMD ") and all(one.is_available() for one in libraries)


class _ByOneDNN(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is linear and _fits(*args, **(kwargs or {})):
            return _multiplied(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _fits(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    plain = all(
        one.device.type == "cpu" and one.dtype == torch.float32 and one.layout == torch.strided
        for one in (input, weight)
    )
    return plain and not torch.is_grad_enabled() and weight.numel() > 0  # oneDNN knows no empty map


STEP = 256
"""oneDNN makes code for each number of rows that it meets, and keeps it. It gets multiples of this, MKL the rest."""


def _multiplied(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``input @ weight^T + bias``: [..., n] and [D, n] make [..., D]."""
    rows = input.reshape(-1, input.shape[-1])
    whole = len(rows) // STEP * STEP
    parts = [linear(rows[:whole].to_mkldnn(), weight, bias).to_dense()] if whole else []
    if whole < len(rows) or not parts:
        parts.append(linear(rows[whole:], weight, bias))
    return (torch.cat(parts) if len(parts) > 1 else parts[0]).view(*input.shape[:-1], len(weight))
