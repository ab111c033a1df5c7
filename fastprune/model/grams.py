"""Gram matrices, summed over batches by their upper triangle: they are symmetric."""

from __future__ import annotations

from torch import Tensor

BLOCK = 256
"""They are summed in blocks of this many rows, each from its diagonal on."""


def add_gram(gram: Tensor, values: Tensor) -> None:
    """Add ``values^T values`` [n, n] of values [tokens, n], without what is below the blocks on the diagonal."""
    for first in range(0, len(gram), BLOCK):
        rows = slice(first, first + BLOCK)
        gram[rows, first:] += values[:, rows].T @ values[:, first:]  # [BLOCK, n - first]


def symmetric(gram: Tensor) -> Tensor:
    """The whole matrix [n, n] of what :func:`add_gram` summed."""
    return gram.triu() + gram.triu(1).T
