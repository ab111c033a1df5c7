"""What a way of tuning is. Each way is one file in :mod:`fastprune.tuning.methods`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

import transformers
from torch import Tensor

from fastprune.errors import InputError
from fastprune.model.architectures import Encoder
from fastprune.model.masks import Masks
from fastprune.processes import ALONE, Group
from fastprune.settings import TUNINGS, Layout
from fastprune.tuning.layerwise import Teacher


@dataclass(frozen=True)
class Tuned:
    """A sliced model that makes up for what was cut.

    Attributes
    ----------
    model : PreTrainedModel
        The sliced model, scales or reconstructed weights in its projections.
    masks : Masks
        What is kept, with the scales where there are any.
    stopped : str or None
        Why tuning ended before the last layer, if it did.
    """

    model: transformers.PreTrainedModel
    masks: Masks
    stopped: str | None = None


class TuningMethod(ABC):
    """A way to make up for what was cut."""

    def teacher(
        self, encoder: Encoder, batches: Sequence[Mapping[str, Tensor]], *, keep: bool = False, group: Group = ALONE
    ) -> Teacher | None:
        """The dense model on the sample, which several budgets may share; None where the way needs none.

        With ``keep`` it remembers its targets, where they fit into memory. What has a teacher can be done by a group of
        processes.
        """
        return None

    @abstractmethod
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
        """Slice the model by binary masks and tune it.

        Parameters
        ----------
        encoder : Encoder
            Of the dense model.
        masks : Masks
            Binary.
        batches : sequence of dict of Tensor
            The sample.
        problem : str
        keep_ratio : float
            What the masks were searched at.
        search_at : callable
            The masks of another keep ratio.
        layout : {"free", "portable"}
            Of the tuned model, see :class:`fastprune.settings.Method`, which refuses one that a way is not for.
        teacher : Teacher, optional
            What :meth:`teacher` made.
        """


def tuning_of(name: str) -> TuningMethod:
    """The way of that name. Raises InputError for an unknown one."""
    if name not in TUNINGS:
        raise InputError(f"tuning {name!r} is not known; use one of {', '.join(TUNINGS)}")
    return import_module(f"fastprune.tuning.methods.{name}").TUNING
