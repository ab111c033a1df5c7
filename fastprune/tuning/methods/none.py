"""No tuning: the pruned units are cut, and nothing makes up for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from fastprune.model.architectures import Encoder
from fastprune.model.masks import Masks
from fastprune.model.surgery import slice_model
from fastprune.settings import Layout
from fastprune.tuning.layerwise import Teacher
from fastprune.tuning.method import Tuned, TuningMethod


class NoTuning(TuningMethod):
    """Cuts alone."""

    def tune(
        self,
        encoder: Encoder,
        masks: Masks,
        batches: Sequence[Mapping[str, Tensor]],
        problem: str,
        *,
        keep_ratio: float,
        search_at: Callable[[float], Masks],
        layout: Layout = "free",
        teacher: Teacher | None = None,
        progress: bool = True,
    ) -> Tuned:
        return Tuned(slice_model(encoder, masks, layout), masks)


TUNING = NoTuning()
