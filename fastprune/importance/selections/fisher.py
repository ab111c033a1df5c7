"""The paper's way: the diagonal Fisher of the masks, then rearrangement with the block-diagonal one (3.2, 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from fastprune.importance.fisher import Fisher, estimate_fisher
from fastprune.importance.selection import Importance, Selection
from fastprune.model.architectures import Encoder
from fastprune.model.masks import Masks
from fastprune.search.rearrange import rearrange
from fastprune.settings import Method


class FisherSelection(Selection):
    """Squared gradients of the loss with respect to the masks, on labelled rows."""

    reads_labels = True
    rearranges = True

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
    ) -> Fisher:
        return estimate_fisher(encoder, batches[shard::shards], problem, estimator=method.estimator, progress=progress)

    def merge(self, parts: Iterable[Fisher]) -> Fisher:
        return Fisher.merge(list(parts))

    def load(self, path: str | Path) -> Fisher:
        return Fisher.load(path)

    def importance(self, encoder: Encoder, information: Fisher) -> Importance:
        return Importance(information.head_importance, information.filter_importance)

    def rearrange(self, masks: Masks, information: Fisher) -> Masks:
        return rearrange(masks, information)


SELECTION = FisherSelection()
