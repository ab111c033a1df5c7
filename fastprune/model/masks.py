"""Masks over heads and filters, and the hooks that apply them (paper, section 3).

transformers 5 has no ``head_mask``: a head's mask multiplies its context at the input of the attention output
projection, a filter's mask multiplies its activation at the input of the second FFN projection.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from fastprune.model.architectures import Encoder
from fastprune.model.tensors import read_tensors


@dataclass(frozen=True)
class Masks:
    """Masks of an encoder: 0 is pruned, 1 is kept, other values are tuned scales.

    Attributes
    ----------
    heads : Tensor [L, H] float32
    filters : Tensor [L, I] float32
    """

    heads: Tensor
    filters: Tensor

    @classmethod
    def ones(cls, encoder: Encoder) -> Masks:
        return cls(
            torch.ones(encoder.num_layers, encoder.num_heads), torch.ones(encoder.num_layers, encoder.num_filters)
        )

    @property
    def kept_heads(self) -> list[list[int]]:
        """Indices of the kept heads, a list per layer."""
        return [row.nonzero().flatten().tolist() for row in self.heads]

    @property
    def kept_filters(self) -> list[list[int]]:
        """Indices of the kept filters, a list per layer."""
        return [row.nonzero().flatten().tolist() for row in self.filters]

    @property
    def head_counts(self) -> list[int]:
        return self.heads.count_nonzero(dim=1).tolist()

    @property
    def filter_counts(self) -> list[int]:
        return self.filters.count_nonzero(dim=1).tolist()

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Of each layer that keeps anything its number, and that of the last layer before the next such one.

        Where the others are removed whole, it stands for all layers from the one to the other.
        """
        kept = [number for number, row in enumerate(self.heads) if row.any() or self.filters[number].any()]
        return list(zip(kept, [number - 1 for number in kept[1:]] + [len(self.heads) - 1], strict=True))

    def of_kept_layers(self) -> Masks:
        """The rows of the layers that keep anything."""
        kept = [number for number, _ in self.spans]
        return Masks(self.heads[kept], self.filters[kept])

    def save(self, path: str | Path) -> None:
        save_file({"heads": self.heads.contiguous(), "filters": self.filters.contiguous()}, str(path))

    @classmethod
    def load(cls, path: str | Path) -> Masks:
        return cls(**read_tensors(path, {"heads": 2, "filters": 2}))


@contextmanager
def masked(encoder: Encoder, heads: Tensor, filters: Tensor) -> Iterator[None]:
    """Apply masks inside a ``with`` block.

    Parameters
    ----------
    heads : Tensor [L, H] or [B, L, H]
    filters : Tensor [L, I] or [B, L, I]
        With a leading batch dimension every example has masks of its own, which is what gives per-example
        gradients from a single backward pass.
    """

    def multiply(mask: Tensor):
        mask = mask.unsqueeze(-2)  # the token dimension
        return lambda module, inputs: (inputs[0] * mask,)

    handles = []
    try:
        for index, layer in enumerate(encoder.layers):
            units = heads[..., index, :].repeat_interleave(encoder.head_size, dim=-1)
            handles.append(layer.attention.writes.register_forward_pre_hook(multiply(units)))
            handles.append(layer.ffn.writes.register_forward_pre_hook(multiply(filters[..., index, :])))
        yield
    finally:
        for handle in handles:
            handle.remove()
