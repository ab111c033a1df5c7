"""The default: what a unit's removal costs after compensation, by the curvature. It reads no labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from fastprune.importance.curvature import Curvature, estimate_curvature
from fastprune.importance.selection import Importance, Selection
from fastprune.importance.surgeon import removal_costs
from fastprune.model.architectures import Encoder
from fastprune.settings import Method


class Surgeon(Selection):
    """Removal costs after compensation (beyond the paper)."""

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
        return estimate_curvature(encoder, batches, problem, shard=shard, shards=shards, progress=progress)

    def merge(self, parts: Sequence[Curvature]) -> Curvature:
        return Curvature.merge(parts)

    def load(self, path: str | Path) -> Curvature:
        return Curvature.load(path)

    def importance(self, encoder: Encoder, information: Curvature) -> Importance:
        return Importance(*removal_costs(encoder, information))


SELECTION = Surgeon()
