"""Multiply-accumulate operations of a masked encoder (paper, section 3.1; its FLOPs constraint)."""

from __future__ import annotations

from dataclasses import dataclass

from fastprune.model.architectures import Encoder
from fastprune.model.masks import Masks


@dataclass(frozen=True)
class MacModel:
    """MACs per head and per filter at an average sequence length.

    Every head costs the same wherever it is, and so does every filter; embeddings, LayerNorm, softmax and the
    task head are not counted, as in the paper.

    Attributes
    ----------
    seq_len : float
        Mean number of tokens, padding not counted, of the examples in the sample.
    """

    num_layers: int
    num_heads: int
    num_filters: int
    hidden_size: int
    head_size: int
    seq_len: float

    @classmethod
    def of(cls, encoder: Encoder, seq_len: float) -> MacModel:
        return cls(
            encoder.num_layers, encoder.num_heads, encoder.num_filters, encoder.hidden_size, encoder.head_size, seq_len
        )

    @property
    def per_head(self) -> float:
        """Query, key, value; scores and context; output projection."""
        projections = 4 * self.seq_len * self.hidden_size * self.head_size
        attention = 2 * self.seq_len * self.seq_len * self.head_size
        return projections + attention

    @property
    def per_filter(self) -> float:
        """A row of the first FFN projection and a column of the second."""
        return 2 * self.seq_len * self.hidden_size

    @property
    def total(self) -> float:
        return self.num_layers * (self.num_heads * self.per_head + self.num_filters * self.per_filter)

    def of_masks(self, masks: Masks) -> float:
        """MACs of what the masks keep."""
        return sum(masks.head_counts) * self.per_head + sum(masks.filter_counts) * self.per_filter

    def kept(self, masks: Masks) -> float:
        """Fraction of the dense model's MACs that the masks keep."""
        return self.of_masks(masks) / self.total
