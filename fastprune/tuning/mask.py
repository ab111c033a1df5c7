"""Mask tuning: a scale for every kept head and filter, by linear least squares (paper, section 3.4, eq. 12)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.sparse.linalg import lsmr
from torch import Tensor

from fastprune.model.architectures import Encoder, reads_first
from fastprune.model.masks import Masks
from fastprune.model.surgery import slice_model
from fastprune.tuning.layerwise import Teacher, walk
from fastprune.tuning.method import Tuned
from fastprune.tuning.moments import Moments

MAX_SCALE = 10
"""A layer whose scales leave [-MAX_SCALE, MAX_SCALE] ends tuning: its system is too ill-conditioned to trust."""


@torch.no_grad()
def tune_masks(
    encoder: Encoder,
    masks: Masks,
    teacher_masks: Masks,
    batches: Sequence[Mapping[str, Tensor]],
    problem: str,
    *,
    progress: bool = True,
) -> Tuned:
    """Scale every kept head and filter so that each layer meets the teacher's output.

    As published: the teacher is the model under ``teacher_masks`` (the search at the square root of the budget),
    layer 0's heads are left alone, the last FFN of a classifier is fitted on [CLS] alone, and tuning ends at
    the first system whose solver fails or whose scales leave [-10, 10]; what was tuned before stays.

    Parameters
    ----------
    encoder : Encoder
        Of the dense model.
    masks : Masks
        Binary, rearranged.
    teacher_masks : Masks
        Binary, from the search at ``sqrt(keep_ratio)``.
    batches : sequence of dict of Tensor
    problem : str

    Returns
    -------
    Tuned
    """
    student = slice_model(encoder, masks)
    heads, filters = masks.heads.clone(), masks.filters.clone()
    first_alone = reads_first(encoder.model, problem)
    first_token = frozenset({(encoder.num_layers - 1, "ffn")}) if first_alone else frozenset()
    stopped = None
    teacher = Teacher(encoder, batches, teacher_masks)
    for system in walk(teacher, student, first_token=first_token, progress=progress):
        attention = system.kind == "attention"
        row = (heads if attention else filters)[system.index]
        if not row.any() or (attention and system.index == 0):
            continue
        weight = system.projection.weight
        units = encoder.head_size if attention else 1
        scales, converged = solve_scales(
            *scale_system(system.moments, weight, system.projection.bias, units, constant=attention)
        )
        scales = scales[:-1] if attention else scales
        if not converged or not (scales.abs() <= MAX_SCALE).all():  # so put that NaN ends it too
            reason = "scales beyond 10" if converged else "the solver did not converge"
            stopped = f"layer {system.index} {system.kind}: {reason}"
            break
        row[row != 0] = scales.float()
        weight.mul_(scales.to(weight).repeat_interleave(units))
    return Tuned(student, Masks(heads, filters), stopped)


def scale_system(
    moments: Moments, weight: Tensor, bias: Tensor | None, units: int, *, constant: bool
) -> tuple[Tensor, Tensor]:
    """Normal equations of the scales, from the moments of the projection's inputs.

    Unit j (``units`` neighbouring columns of the weight) puts ``W_j x_j`` out; the tall matrix ``A`` of the paper
    has a row per token and hidden dimension and a column per unit. It need not be formed:
    ``A^T A = (X^T X) o (W^T W)`` and ``A^T b`` is the diagonal of ``(X^T B) W``, summed over each unit's block.

    Parameters
    ----------
    moments : Moments
        Of n inputs against the target, bias included.
    weight : Tensor [D, n]
    bias : Tensor [D], optional
    units : int
        Columns per unit: the head size for attention, 1 for filters.
    constant : bool
        Add a last column of ones, as published for heads.

    Returns
    -------
    ATA : Tensor [k, k] float64
    ATB : Tensor [k] float64
    """
    weight = weight.double()
    n = weight.shape[1]
    gram, sums, tokens = moments.gram[:n, :n], moments.gram[:n, n], moments.gram[n, n]  # [n, n], [n], []
    cross = moments.cross  # [n + 1, D]
    if bias is not None:
        cross = cross - moments.gram[:, n:] * bias.double()  # against the target without the bias

    def per_unit(values: Tensor) -> Tensor:  # [n, ...] -> [k, ...]
        return values.unflatten(0, (-1, units)).sum(1)

    ata = per_unit(per_unit(gram * (weight.T @ weight)).T).T  # [k, k]
    atb = per_unit((cross[:n] * weight.T).sum(1))  # [k]
    if constant:
        column = per_unit(sums * weight.sum(0))  # [k]
        corner = tokens * len(weight)
        ata = torch.cat([torch.cat([ata, column[:, None]], 1), torch.cat([column, corner[None]])[None]])
        atb = torch.cat([atb, cross[n].sum()[None]])
    return ata, atb


def solve_scales(ata: Tensor, atb: Tensor) -> tuple[Tensor, bool]:
    """LSMR on the normal equations, damped towards scales of one: damp 1, at most 5n iterations, as published.

    LSMR stops far from the minimiser (at its default tolerances of 1e-6), and that early stop is part of the
    method; it runs in float32 because where it stops depends on the precision.

    Parameters
    ----------
    ata : Tensor [k, k]
    atb : Tensor [k]

    Returns
    -------
    scales : Tensor [k] float64
    converged : bool
        False when LSMR ran out of iterations or judged the system too ill-conditioned.
    """
    residual = (atb - ata.sum(dim=1)).float().cpu().numpy()
    matrix = ata.float().cpu().numpy()
    with np.errstate(over="ignore"):  # its running estimate of the condition number may pass float32
        change, reason, *_ = lsmr(matrix, residual, damp=1, maxiter=5 * len(matrix))
    return torch.from_numpy(np.asarray(change)).double() + 1, reason < 3
