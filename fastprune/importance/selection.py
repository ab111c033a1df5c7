"""What a way of selection is. Each way is one file in :mod:`fastprune.importance.selections`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from safetensors.torch import save_file
from torch import Tensor

from fastprune.errors import InputError
from fastprune.model.architectures import Encoder
from fastprune.model.masks import Masks
from fastprune.model.tensors import read_tensors
from fastprune.settings import SELECTIONS, Method


@dataclass(frozen=True)
class Importance:
    """What every unit is worth; a search keeps the units of the greatest total.

    Attributes
    ----------
    heads : Tensor [L, H] float64
    filters : Tensor [L, I] float64
    """

    heads: Tensor
    filters: Tensor

    def save(self, path: str | Path) -> None:
        save_file({"heads": self.heads.contiguous(), "filters": self.filters.contiguous()}, str(path))

    @classmethod
    def load(cls, path: str | Path) -> Importance:
        return cls(**read_tensors(path, {"heads": 2, "filters": 2}))


class Selection(ABC):
    """A way to tell what every head and filter is worth.

    A pass over the sample gathers *information* (any object with ``save(path)``); parts of it from several shards merge
    into the information of the whole; the importance is computed from it.

    Attributes
    ----------
    reads_labels : bool
        Whether the sample needs labels.
    rearranges : bool
        Whether the information is kept for a rearrangement of the masks after the search.
    sample_tokens : int, optional
        Of how many tokens a sample is at most where the number of its examples is not given.
    """

    reads_labels: ClassVar[bool] = False
    rearranges: ClassVar[bool] = False
    sample_tokens: ClassVar[int | None] = None

    @abstractmethod
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
    ) -> Any:
        """The pass over the sample, or over one shard of its batches: every ``shards``-th from number ``shard``."""

    @abstractmethod
    def merge(self, parts: Iterable[Any]) -> Any:
        """The information of all shards, which come one after the other."""

    @abstractmethod
    def load(self, path: str | Path) -> Any:
        """Information that was saved."""

    @abstractmethod
    def importance(self, encoder: Encoder, information: Any) -> Importance:
        """What every unit is worth."""

    def rearrange(self, masks: Masks, information: Any) -> Masks:
        """Choose again which units of each layer are kept, their number unchanged; by default the same."""
        return masks


def selection_of(name: str) -> Selection:
    """The way of that name. Raises InputError for an unknown one."""
    if name not in SELECTIONS:
        raise InputError(f"selection {name!r} is not known; use one of {', '.join(SELECTIONS)}")
    return import_module(f"fastprune.importance.selections.{name}").SELECTION
