"""Multiply-accumulate operations of a masked encoder (paper, section 3.1; its FLOPs constraint)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastprune.model.architectures import Encoder
from fastprune.model.masks import Masks


@dataclass(frozen=True)
class MacModel:
    """MACs per head and per filter at an average sequence length.

    Every filter costs the same, and every head but those that attend to a window alone; embeddings, LayerNorm, softmax
    and the task head are not counted, as in the paper.

    Attributes
    ----------
    seq_len : float
        Mean number of tokens, padding not counted, of the examples in the sample.
    filter_reads : int
        Rows of the FFN's input that a filter owns: two where it is gated.
    windows : sequence of int or None
        Of each layer how many tokens a token attends to; None, or no such sequence: to all.
    places : sequence of str
        Of each layer what its place demands, see :class:`fastprune.model.architectures.Encoder`; none where all are
        alike.
    """

    num_layers: int
    num_heads: int
    num_filters: int
    hidden_size: int
    head_size: int
    seq_len: float
    filter_reads: int = 1
    windows: Sequence[int | None] = ()
    places: Sequence[str] = ()

    @classmethod
    def of(cls, encoder: Encoder, seq_len: float) -> MacModel:
        ffn = encoder.layers[0].ffn
        return cls(
            encoder.num_layers,
            encoder.num_heads,
            encoder.num_filters,
            encoder.hidden_size,
            encoder.head_size,
            seq_len,
            len(ffn.reads) * ffn.parts,
            encoder.windows if any(encoder.windows) else (),
            encoder.places if any(encoder.places) else (),
        )

    @property
    def per_head(self) -> float:
        """Query, key, value; scores and context; output projection. Of a head that attends to all tokens."""
        projections = 4 * self.seq_len * self.hidden_size * self.head_size
        attention = 2 * self.seq_len * self.seq_len * self.head_size
        return projections + attention

    @property
    def per_filter(self) -> float:
        """Its rows of the first FFN projection and a column of the second."""
        return (self.filter_reads + 1) * self.seq_len * self.hidden_size

    @property
    def spared(self) -> list[float]:
        """Of each layer what a head's scores and context cost less for a window."""
        widths = self.windows or [None] * self.num_layers
        return [2 * self.seq_len * max(self.seq_len - (width or self.seq_len), 0) * self.head_size for width in widths]

    @property
    def total(self) -> float:
        every = self.num_layers * (self.num_heads * self.per_head + self.num_filters * self.per_filter)
        return every - self.num_heads * sum(self.spared)

    def of_masks(self, masks: Masks) -> float:
        """MACs of what the masks keep."""
        every = sum(masks.head_counts) * self.per_head + sum(masks.filter_counts) * self.per_filter
        return every - sum(count * less for count, less in zip(masks.head_counts, self.spared, strict=True))

    def kept(self, masks: Masks) -> float:
        """Fraction of the dense model's MACs that the masks keep."""
        return self.of_masks(masks) / self.total
