"""Gram matrices, summed over batches by their upper triangle: they are symmetric."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import linear

BLOCK = 256
"""They are summed in blocks of this many rows, each from its diagonal on."""


def add_gram(gram: Tensor, values: Tensor) -> None:
    """Add ``values^T values`` [n, n] of values [tokens, n], without what is below the blocks on the diagonal."""
    for first in range(0, len(gram), BLOCK):
        rows = slice(first, first + BLOCK)
        gram[rows, first:] += linear(values[:, rows].T, values[:, first:].T)  # [BLOCK, n - first]


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
