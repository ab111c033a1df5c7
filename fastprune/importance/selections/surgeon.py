"""The default: what a unit's removal costs after compensation, by the curvature. It reads no labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from fastprune.importance.curvature import LOW_EFFORT_EXAMPLES, Curvature, estimate_curvature
from fastprune.importance.selection import Importance, Selection
from fastprune.importance.surgeon import removal_costs
from fastprune.model.architectures import Encoder
from fastprune.settings import Method


class Surgeon(Selection):
    """Removal costs after compensation (beyond the paper)."""

    sample_tokens = 1 << 17  # they determine systems of thousands of unknowns: 2,048 texts of 64 tokens

    def gather(
        self,
        encoder: Encoder,
        batches: Sequence[Mapping[str, Tensor]],
        problem: str,
        method: Method,
        *,
        shard: int = 0,
        shards: int = 1,
        progress: bool = True,
    ) -> Curvature:
        examples = LOW_EFFORT_EXAMPLES if method.effort == "low" else None
        return estimate_curvature(
            encoder, batches, problem, examples=examples, shard=shard, shards=shards, progress=progress
        )

    def merge(self, parts: Iterable[Curvature]) -> Curvature:
        return Curvature.merge(parts)

    def load(self, path: str | Path) -> Curvature:
        return Curvature.load(path)

    def importance(self, encoder: Encoder, information: Curvature) -> Importance:
        return Importance(*removal_costs(encoder, information))


SELECTION = Surgeon()
