"""Products of float32 matrices, in the faster of two ways that torch has for them.

On a CPU torch takes MKL, which leaves half of what some AMD processors with AVX-512 can do, and on others up to half of
it where a pruned map has an odd number of outputs. oneDNN, which comes with torch as well, does not. On a GPU torch
leaves the units that multiply fastest idle, since they read TF32: float32 whose numbers are rounded to 10 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, pad
from torch.overrides import TorchFunctionMode

from fastprune.environment import device_name


@contextmanager
def fast_products() -> Iterator[None]:
    """Inside a ``with`` block products take what is fast.

    On a CPU linear maps are multiplied by oneDNN where torch would take the slower MKL. The result is the same to
    rounding, and so are the gradients of the inputs. A map whose weights learn, or that is not in float32, is
    multiplied as ever.

    On a GPU products are in TF32, unless a precision was chosen: ``torch.backends.cuda.matmul.fp32_precision``. Only
    what goes in is rounded; sums and results are float32.
    """
    on_gpus = torch.backends.cuda.matmul
    chosen = getattr(on_gpus, "fp32_precision", "")  # torch has it from 2.9 on
    try:
        if chosen == "none":
            on_gpus.fp32_precision = "tf32"
        with _ByOneDNN() if _gains() else nullcontext():
            yield
    finally:
        if chosen == "none":
            on_gpus.fp32_precision = chosen


@cache
def _gains() -> bool:
    """Whether torch would take MKL on a processor of AMD's, and could take oneDNN."""
    libraries = torch.backends.mkl, torch.backends.mkldnn
    there = all(library.is_available() for library in libraries) and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return there and device_name(torch.device("cpu")).startswith("AMD ")


class _ByOneDNN(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is linear and _fits(*args, **(kwargs or {})):
            return _product(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _fits(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    plain = all(
        one.device.type == "cpu" and one.dtype == torch.float32 and one.layout == torch.strided
        for one in (input, weight)
    )
    learns = torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in (weight, bias))
    return plain and not learns and weight.dim() == 2 and weight.numel() > 0  # oneDNN knows no empty map


def _product(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return _Product.apply(input, weight, bias)


class _Product(torch.autograd.Function):
    """A linear map whose weights do not learn."""

    @staticmethod
    def forward(context: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(weight)
        return _multiplied(input, weight, bias)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = context.saved_tensors
        return _multiplied(gradient, weight.T), None, None


STEP = 256
"""oneDNN makes code for each number of rows that it meets, and keeps it. It gets multiples of this: MKL the rest, or
zeros are put to it."""


def _multiplied(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``input @ weight^T + bias``: [..., n] and [D, n] make [..., D]."""
    # oneDNN is far slower than MKL with a part of a matrix whose rows do not follow one another.
    rows = input.reshape(-1, input.shape[-1]).contiguous()
    weight = weight if weight.T.is_contiguous() else weight.contiguous()
    whole, outputs = len(rows) // STEP * STEP, len(weight)
    if not whole:
        made = linear(rows, weight, bias)
    elif whole == len(rows):
        made = _by_onednn(rows, weight, bias)
    elif outputs < rows.shape[1]:  # the smaller of both is copied
        made = torch.cat([_by_onednn(rows[:whole], weight, bias), linear(rows[whole:], weight, bias)])
    else:
        made = _by_onednn(pad(rows, (0, 0, 0, STEP - len(rows) % STEP)), weight, bias)[: len(rows)]
    return made.view(*input.shape[:-1], outputs)


def _by_onednn(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
