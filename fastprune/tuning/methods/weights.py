"""The default: every kept linear map solved for as a whole (beyond the paper)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from fastprune.model.architectures import Encoder
from fastprune.model.masks import Masks
from fastprune.processes import ALONE, Group
from fastprune.settings import Layout
from fastprune.tuning.layerwise import Teacher
from fastprune.tuning.method import Tuned, TuningMethod
from fastprune.tuning.weights import reconstruct_weights


class WeightReconstruction(TuningMethod):
    """Ridge regression of every linear map towards what the dense model puts out."""

    def teacher(
        self, encoder: Encoder, batches: Sequence[Mapping[str, Tensor]], *, keep: bool = False, group: Group = ALONE
    ) -> Teacher:
        return Teacher(encoder, batches, keep=keep, group=group)

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
        teacher = teacher or Teacher(encoder, batches)
        return reconstruct_weights(teacher, masks, problem, layout=layout, progress=progress)


TUNING = WeightReconstruction()
