"""Gram matrices, summed over batches by their upper triangle: they are symmetric."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from fastprune.model.products import STEP

BLOCK = 256
"""They are summed in blocks of this many rows, each from its diagonal on."""

TOGETHER = 2048
"""Tokens of one product."""


def add_gram(gram: Tensor, values: Tensor) -> None:
    """Add ``values^T values`` [n, n] of values [tokens, n], without what is below the blocks on the diagonal."""
    for some in values.split(TOGETHER):
        more = -len(some) % STEP if len(some) > STEP else 0  # zeros add nothing, and other numbers are new shapes
        add_turned(gram, pad(some.T, (0, more)) if more else some.T.contiguous())


def add_turned(gram: Tensor, turned: Tensor) -> None:
    """:func:`add_gram` of values that are turned, [n, tokens], and at most ``TOGETHER`` of them."""
    for first in range(0, len(gram), BLOCK):
        gram[first : first + BLOCK, first:] += product(turned[first : first + BLOCK], turned[first:].T)


def product(turned: Tensor, values: Tensor) -> Tensor:
    """``turned @ values``: [n, tokens] and [tokens, D] make [n, D]."""
    return linear(turned, values.T) if len(values) % STEP == 0 else turned @ values


def upper_of(gram: Tensor) -> Tensor:
    """Its upper triangle [n (n + 1) / 2], row by row: all that there is to keep or to send of a symmetric matrix."""
    rows, columns = torch.triu_indices(len(gram), len(gram), device=gram.device)
    return gram[rows, columns]


def from_upper(values: Tensor) -> Tensor:
    """The matrix [n, n] of :func:`upper_of`, without what is below its diagonal."""
    size = math.isqrt(2 * len(values))  # of n (n + 1) / 2 values
    rows, columns = torch.triu_indices(size, size, device=values.device)
    gram = values.new_zeros(size, size)
    gram[rows, columns] = values
    return gram


def symmetric(gram: Tensor) -> Tensor:
    """The whole matrix [n, n] of what :func:`add_gram` summed."""
    return gram.triu() + gram.triu(1).T
