"""Weight reconstruction: every linear map of the pruned model solved for, not one scale a unit.

Goes beyond the paper's section 3.4: layer by layer, ridge least squares for every kept input's column of the
output projection and for its bias, so that the pruned model's layer output meets the dense model's. The system
is built on the pruned model's own inputs, so later layers correct what earlier layers could not. The maps that read
the residual stream (query, key, value, the FFN's input, the task head) are solved for as well: the stream that they now
get is not the dense model's, and their outputs should be the dense model's all the same. The ridge pulls towards the
original weights, and its strength is chosen, projection by projection, on examples held back from the sample.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from fastprune.errors import InputError
from fastprune.model.architectures import layers_of, reads_first, reads_mean
from fastprune.model.masks import Masks
from fastprune.model.products import fast_products
from fastprune.model.surgery import slice_model
from fastprune.settings import Layout
from fastprune.tuning.layerwise import TOKENS_PER_INPUT, Teacher, walk
from fastprune.tuning.method import Tuned
from fastprune.tuning.moments import Moments

RIDGES = tuple(10.0**power for power in range(-4, 3))
"""Strengths tried, as multiples of the mean diagonal of the inputs' covariance."""

HOLD_BACK = 8
"""One example in eight is held back to choose the strength on; the final solution uses all."""

ROUNDING = 1e-5
"""Inputs whose variance is a smaller part of their mean square do not vary: what is left is float32's rounding."""

TRIES = 24
"""The penalty is made ten times as great at most this often: far beyond what any finite system needs."""


@torch.no_grad()
def reconstruct_weights(
    teacher: Teacher, masks: Masks, problem: str, *, layout: Layout = "free", progress: bool = True
) -> Tuned:
    """Solve for the linear maps of every layer and of the task head, in order.

    Parameters
    ----------
    teacher : Teacher
        The dense model, without masks, on the pruning sample.
    masks : Masks
        Binary.
    problem : str
        A classifier reads only [CLS] of the last layer, which is then all that is fitted there.
    layout : {"free", "portable"}
        Of the tuned model. In layout portable the FFN ahead of removed layers is to give what the last of them gives.

    Returns
    -------
    Tuned

    Raises
    ------
    InputError
        Activations of the sample are NaN or too large; layer and map are named.
    """
    student = slice_model(teacher.encoder, masks, layout)
    spans = masks.spans if layout == "portable" else [(number, number) for number in range(teacher.encoder.num_layers)]
    last, _ = spans[-1]
    first_alone = reads_first(teacher.encoder.model, problem)
    first_token = frozenset({(last, "attention"), (last, "ffn")}) if first_alone else frozenset()
    if not (first_alone or reads_mean(student)):  # there the last maps have one token an example
        blocks = [block for layer in layers_of(student) for block in layer.blocks]
        widest = max(teacher.encoder.hidden_size, *(block.writes.in_features for block in blocks))
        teacher = teacher.of_enough(TOKENS_PER_INPUT * widest)
    systems = walk(
        teacher, student, spans=spans, first_token=first_token, hold_back=HOLD_BACK, every_map=True, progress=progress
    )
    with fast_products():
        for system in systems:
            projection = system.projection
            weight, bias = solve_weights(system.moments, system.held_back, projection.weight, projection.bias)
            projection.weight.copy_(weight)
            if bias is not None:
                projection.bias.copy_(bias)
    return Tuned(student, masks)


def solve_weights(
    moments: Moments, held_back: Moments, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Ridge regression towards ``weight``: its strength is chosen on ``held_back``, the solution uses all tokens.

    Parameters
    ----------
    moments, held_back : Moments
        Of n inputs against D outputs. Without held-back tokens the middle strength is taken.
    weight : Tensor [D, n]
    bias : Tensor [D], optional

    Returns
    -------
    weight : Tensor [D, n] float64
    bias : Tensor [D] float64
        None where there was none: nothing is then solved for but the weights.
    """
    everything = moments + held_back
    if weight.shape[1] == 0:
        return weight, None if bias is None else everything.cross[0] / everything.gram[0, 0]
    if bias is None:
        moments, held_back, everything = (part.without_means() for part in (moments, held_back, everything))
    start = torch.cat([weight, (weight.new_zeros(len(weight)) if bias is None else bias)[:, None]], dim=1).double()
    solution = ridge(everything, start, best_strength(moments, held_back, start))
    return solution[:, :-1], None if bias is None else solution[:, -1]


def best_strength(moments: Moments, held_back: Moments, start: Tensor) -> float:
    """Of ``RIDGES``, that with the least error on ``held_back``: downhill from the middle, for there is one valley."""

    system = _Centred(moments, start)

    @cache
    def error(position: int) -> float:
        solution, failed = system.solved(RIDGES[position])
        found, fails = torch.stack([squared_error(held_back, solution), failed.double()]).tolist()
        return squared_error(held_back, system.solve(RIDGES[position])).item() if fails else found

    position = len(RIDGES) // 2
    if all(torch.stack([part.gram[-1, -1] for part in (moments, held_back)]).tolist()):
        for step in (-1, 1):
            while 0 <= position + step < len(RIDGES) and error(position + step) < error(position):
                position += step
    return RIDGES[position]


def ridge(moments: Moments, start: Tensor, strength: float) -> Tensor:
    """Minimise ``||[X 1] P^T - B||^2 + lambda ||P - start||^2``, the bias column not penalised.

    ``lambda`` is ``strength`` times the mean variance of the inputs times the tokens. Inputs that do not vary, as those
    of a single token or of dead units, leave the weights as they are and the bias to be solved for.

    Parameters
    ----------
    start : Tensor [D, n + 1] float64

    Returns
    -------
    Tensor [D, n + 1] float64

    Raises
    ------
    InputError
        The moments are not finite.
    """
    return _Centred(moments, start).solve(strength)


class _Centred:
    """A system less its means, to be solved at several strengths of the ridge."""

    def __init__(self, moments: Moments, start: Tensor):
        tokens = moments.gram[-1, -1]
        self._inputs, self._targets = moments.gram[:-1, -1] / tokens, moments.cross[-1] / tokens  # their means [n], [D]
        self._covariance = moments.gram[:-1, :-1] - tokens * self._inputs.outer(self._inputs)  # [n, n]
        cross = moments.cross[:-1] - tokens * self._inputs.outer(self._targets)  # [n, D]
        self._weight = start[:, :-1]
        self._lacks = cross - self._covariance @ self._weight.T  # [n, D]
        self._variance = self._covariance.diagonal().mean()
        self._varies = bool(self._variance > ROUNDING * moments.gram.diagonal()[:-1].mean())

    def solve(self, strength: float) -> Tensor:
        """The solution [D, n + 1], the penalty raised until there is one."""
        for _ in range(TRIES):
            solution, failed = self.solved(strength)
            if not failed:
                return solution
            strength *= 10  # rounding made it indefinite: few tokens and a weak ridge
        raise InputError(
            "the moments of a linear map's inputs are not finite; check the model's activations on the sample"
        )

    def solved(self, strength: float) -> tuple[Tensor, Tensor]:
        """The solution [D, n + 1], and a number [] that is not zero where there is none, of which nobody has asked."""
        weight, failed = self._weight, torch.zeros((), dtype=torch.int32, device=self._weight.device)
        if self._varies:
            penalised = self._covariance.clone()
            penalised.diagonal().add_(strength * self._variance)
            factor, failed = torch.linalg.cholesky_ex(penalised)
            weight = weight + torch.cholesky_solve(self._lacks, factor).T  # [D, n]
        return torch.cat([weight, (self._targets - weight @ self._inputs)[:, None]], dim=1), failed


def squared_error(moments: Moments, projection: Tensor) -> Tensor:
    """``||[X 1] P^T - B||^2`` less ``||B||^2``, which is the same for every projection ``P`` [D, n + 1]."""
    return ((projection @ moments.gram) * projection).sum() - 2 * (projection.T * moments.cross).sum()
