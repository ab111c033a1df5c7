"""The paper's mask tuning: a scale for every kept unit (section 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from fastprune.model.architectures import Encoder
from fastprune.model.masks import Masks
from fastprune.settings import Layout
from fastprune.tuning.layerwise import Teacher
from fastprune.tuning.mask import tune_masks
from fastprune.tuning.method import Tuned, TuningMethod


class MaskTuning(TuningMethod):
    """Its teacher is the dense model under the masks of the search at the square root of the keep ratio."""

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
        teacher_masks = search_at(keep_ratio**0.5)
        return tune_masks(encoder, masks, teacher_masks, batches, problem, progress=progress)


TUNING = MaskTuning()
