"""What an exported model reads, by its configuration: names and open axes, and the batches that check it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import transformers
from torch import Tensor

from fastprune.errors import InputError
from fastprune.model.images import image_shape, image_tokens
from fastprune.model.model_inputs import MODEL_INPUTS, longest_input

Batch = dict[str, Tensor]
"""As :func:`fastprune.data.collate` makes them: an ``attention_mask`` [rows, tokens] is in each, read or not."""


class Inputs(ABC):
    """What models of a kind read.

    Attributes
    ----------
    names : sequence of str
        In order.
    axes : dict
        The open axes of each of them, by their numbers.
    """

    axes: ClassVar[dict[int, str]]
    names: Sequence[str]

    def __init__(self, config: transformers.PreTrainedConfig):
        self.config = config

    @abstractmethod
    def example(self) -> Batch:
        """Two rows that a graph is written with."""

    @abstractmethod
    def probes(self) -> list[Batch]:
        """Batches that reach every corner of the inputs' shapes."""

    @abstractmethod
    def row(self) -> Batch:
        """One usual row, for timing where no rows are given."""

    @abstractmethod
    def complete(self, given: Mapping[str, Tensor]) -> Batch:
        """The inputs of a runtime. Raises InputError for a batch that cannot be run, with the remedy."""


class Texts(Inputs):
    """``input_ids``, ``attention_mask`` and, where types are told apart, ``token_type_ids``: int64 [batch, length]."""

    axes: ClassVar[dict[int, str]] = {0: "batch", 1: "length"}

    def __init__(self, config: transformers.PreTrainedConfig):
        super().__init__(config)
        typed = getattr(config, "type_vocab_size", 1) > 1
        self.names = tuple(name for name in MODEL_INPUTS if typed or name != "token_type_ids")

    def example(self) -> Batch:
        """Of unlike lengths: with a mask of ones alone, none would be in the graph."""
        ids = torch.arange(12).reshape(2, 6) % 3 + 3
        mask = torch.ones_like(ids)
        mask[1, 4:] = 0
        return self._batch(ids, mask)

    def probes(self) -> list[Batch]:
        """Of one token, of unlike lengths with padding, and of all the positions that the model has."""
        most, generator = longest_input(self.config), torch.Generator().manual_seed(0)
        batches = []
        for lengths in ([1], [min(7, most)], [min(size, most) for size in (12, 3, 9)], [most, min(5, most)]):
            ids = torch.randint(0, self.config.vocab_size, (len(lengths), max(lengths)), generator=generator)
            mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
            padding = getattr(self.config, "pad_token_id", None) or 0
            ids[ids == padding] = (padding + 1) % self.config.vocab_size
            ids[mask == 0] = padding
            batches.append(self._batch(ids, mask))
        return batches

    def row(self) -> Batch:
        return self.probes()[1]

    def complete(self, given: Mapping[str, Tensor]) -> Batch:
        """Types are filled in."""
        batch, length = given["input_ids"].shape
        if not batch or not length:
            raise InputError(f"a batch of {batch} rows of {length} tokens cannot be run; give at least one of each")
        if length > longest_input(self.config):
            raise InputError(
                f"the batch has {length} tokens, and the model has positions for {longest_input(self.config)}; cut the "
                "texts there (the tokenizer's truncation=True)"
            )
        return {"token_type_ids": torch.zeros_like(given["input_ids"])} | dict(given)

    def _batch(self, ids: Tensor, mask: Tensor) -> Batch:
        values = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        return {name: values[name] for name in self.names}


class Images(Inputs):
    """``pixel_values``: float32 [batch, channels, height, width], of the size that the configuration says."""

    axes: ClassVar[dict[int, str]] = {0: "batch"}
    names = ("pixel_values",)

    def example(self) -> Batch:
        return self._batch(self._noise(2))

    def probes(self) -> list[Batch]:
        """Noise of one image and of three, and images of one value each, dark, grey and bright."""
        plain = torch.linspace(-2, 2, 3).reshape(-1, 1, 1, 1).expand(-1, *image_shape(self.config)).contiguous()
        return [self._batch(pixels) for pixels in (self._noise(1), self._noise(3), plain)]

    def row(self) -> Batch:
        return self.probes()[0]

    def complete(self, given: Mapping[str, Tensor]) -> Batch:
        count, *shape = given["pixel_values"].shape
        if not count:
            raise InputError("a batch of 0 images cannot be run; give at least one")
        if tuple(shape) != image_shape(self.config):
            raise InputError(
                f"the batch has images of {shape} (channels, height, width), and the model reads "
                f"{list(image_shape(self.config))}; make them with its image processor (preprocessor_config.json)"
            )
        return dict(given)

    def _noise(self, count: int) -> Tensor:
        return torch.randn(count, *image_shape(self.config), generator=torch.Generator().manual_seed(count))

    def _batch(self, pixels: Tensor) -> Batch:
        tokens = image_tokens(self.config) or 0
        return {"pixel_values": pixels, "attention_mask": torch.ones(len(pixels), tokens, dtype=torch.int64)}


def inputs_for(config: transformers.PreTrainedConfig) -> Inputs:
    """What a model of this configuration reads."""
    return Images(config) if image_tokens(config) else Texts(config)
