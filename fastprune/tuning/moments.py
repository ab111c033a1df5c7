"""What a least-squares system is made of: sums over tokens that do not grow with them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fastprune.model.grams import TOGETHER, add_turned, from_upper, product, symmetric, upper_of
from fastprune.processes import Group


@dataclass
class Moments:
    """Second moments of inputs ``X`` [tokens, n] with a column of ones, against targets ``B`` [tokens, D].

    They are all that a least-squares solver needs, whatever it solves for, and do not grow with the tokens.

    Attributes
    ----------
    gram : Tensor [n + 1, n + 1] float64
        ``[X 1]^T [X 1]``; its last entry is the number of tokens.
    cross : Tensor [n + 1, D] float64
        ``[X 1]^T B``.
    upper : bool
        Only the upper triangle of ``gram`` is summed, at about half the cost; :meth:`whole` mirrors it. Mask tuning has
        all of it, as published: its solver stops early, and where depends on the last digits.
    """

    gram: Tensor
    cross: Tensor
    upper: bool = False
    _waiting: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def zeros(cls, linear: nn.Linear, outputs: int | None = None, *, upper: bool = False) -> Moments:
        """For the inputs of ``linear`` against its outputs, or against this many others."""
        rows, columns = linear.in_features + 1, linear.out_features if outputs is None else outputs
        gram, cross = (
            torch.zeros(rows, size, dtype=torch.float64, device=linear.weight.device) for size in (rows, columns)
        )
        return cls(gram, cross, upper)

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Add the tokens of inputs [tokens, n] and targets [tokens, D]."""
        if not self.upper:
            inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)  # [tokens, n + 1]
            self.gram += inputs.T @ inputs
            self.cross += inputs.T @ targets
            return
        while len(inputs):
            missing = TOGETHER - sum(len(some) for some, _ in self._waiting)
            self._waiting.append((inputs[:missing], targets[:missing]))
            if missing <= len(inputs):
                self._multiply()
            inputs, targets = inputs[missing:], targets[missing:]

    def _multiply(self) -> None:
        """What waits, ``TOGETHER`` tokens or the last ones."""
        waiting, self._waiting = self._waiting, []
        inputs, targets = (torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*waiting, strict=True))
        turned = inputs.T.contiguous()  # [n, tokens], once for all products
        add_turned(self.gram[:-1, :-1], turned)
        self.gram[:-1, -1] += inputs.sum(0)
        self.gram[-1, -1] += len(inputs)
        self.cross[:-1] += product(turned, targets)
        self.cross[-1] += targets.sum(0)

    @classmethod
    def over_all(cls, group: Group, *parts: Moments) -> list[Moments]:
        """Whole ones, each summed over the processes of a group."""
        own = [part.whole() for part in parts]
        if group.size == 1:
            return own
        pairs = zip(parts, own, strict=True)
        packed = [
            values for part, one in pairs for values in (upper_of(one.gram) if part.upper else one.gram, one.cross)
        ]
        sums = iter(group.add_up(packed))
        return [
            cls(symmetric(from_upper(gram)) if one.upper else gram, cross)
            for one, gram, cross in zip(parts, sums, sums, strict=True)
        ]

    def whole(self) -> Moments:
        """Of all tokens that were added, with both triangles."""
        if self._waiting:
            self._multiply()
        return Moments(symmetric(self.gram), self.cross) if self.upper else self

    def through(self, linear: nn.Linear) -> Moments:
        """Against what ``linear`` makes of the targets."""
        cross = self.cross @ linear.weight.double().T
        return Moments(self.gram, cross if linear.bias is None else cross + self.gram[:, -1:] * linear.bias.double())

    def without_means(self) -> Moments:
        """As if inputs and targets had no means: what a map without a bias is solved for on."""
        gram, cross = self.gram.clone(), self.cross.clone()
        gram[-1, :-1], gram[:-1, -1], cross[-1] = 0, 0, 0
        return Moments(gram, cross)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.gram + other.gram, self.cross + other.cross)
