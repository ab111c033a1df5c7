"""Which tokens of a batch count, as places that are found on the CPU once: a GPU is never asked for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device. What comes from the CPU is put in line there, and nothing is waited for."""
    return tensor.to(device, non_blocking=tensor.device.type == "cpu")


@dataclass(frozen=True)
class Tokens:
    """Some tokens of a batch.

    Attributes
    ----------
    examples, places : Tensor [n] int64
        Of each token the number of its example, and its place there.
    """

    examples: Tensor
    places: Tensor

    @classmethod
    def of(cls, chosen: Tensor, device: torch.device) -> Tokens:
        """Those that ``chosen`` [B, T], a mask on the CPU, names, in order."""
        examples, places = (send(torch.from_numpy(found), device) for found in np.nonzero(chosen.numpy()))
        return cls(examples, places)

    def __len__(self) -> int:
        return len(self.examples)

    def taken(self, values: Tensor) -> Tensor:
        """Their values [n, ...] of all values [B, T, ...]."""
        if len(self) == values.shape[0] * values.shape[1]:  # all of them, and no copy
            return values.flatten(0, 1)
        return values[self.examples, self.places]
