"""The task loss of every example, from the model's own logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LABELS = ("labels", "start_positions", "end_positions")


def inputs_of(batch: Mapping[str, Tensor], device) -> dict[str, Tensor]:
    """The part of a batch that the model reads, without its labels, on ``device``."""
    return {name: value.to(device) for name, value in batch.items() if name not in LABELS}


def per_example_loss(outputs: Any, batch: Mapping[str, Tensor], problem: str) -> Tensor:
    """Loss of each example, the same that transformers averages over a batch.

    Labels may be class indices or positions, or (label-free calibration) probabilities.

    Returns
    -------
    Tensor [B]
    """
    if problem == "question-answering":
        start = F.cross_entropy(
            outputs.start_logits, batch["start_positions"].to(outputs.start_logits.device), reduction="none"
        )
        end = F.cross_entropy(
            outputs.end_logits, batch["end_positions"].to(outputs.end_logits.device), reduction="none"
        )
        return (start + end) / 2
    labels = batch["labels"].to(outputs.logits.device)
    if problem == "regression":
        return F.mse_loss(outputs.logits.squeeze(-1), labels, reduction="none")
    return F.cross_entropy(outputs.logits, labels, reduction="none")


def gauss_newton_score(outputs: Any, problem: str, temperature: float, generator: torch.Generator) -> Tensor:
    """A scalar whose gradient has the Gauss-Newton matrix as its second moment, without any label.

    The Hessian of the divergence from the model's own predictions ``p`` (softened by ``temperature``) with respect to
    the logits is ``diag(p) - p p^T = B B^T``. With random signs ``e``, the gradient of ``(B e)^T logits`` has
    ``J^T B B^T J`` as its second moment, so that one backward pass stands for all classes. ``B`` is the Cholesky
    factor, whose last column is zero: of two classes a single draw is exact. For regression the Hessian is one.

    Parameters
    ----------
    generator : torch.Generator
        On the CPU, so that every device draws the same signs.

    Returns
    -------
    Tensor []
        Summed over the batch.
    """
    if problem == "regression":
        return (outputs.logits * _signs(outputs.logits, generator)).sum()
    if problem == "question-answering":
        start = _class_score(outputs.start_logits, temperature, generator)
        return (start + _class_score(outputs.end_logits, temperature, generator)) / 2**0.5
    return _class_score(outputs.logits, temperature, generator)


def _class_score(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """``(B e)^T logits``; with ``s[i]`` the sum of ``p`` from ``i`` on, ``B[i, i]^2 = p[i] s[i+1] / s[i]``.

    Below the diagonal ``B[i, j] = -p[i] (p[j] / (s[j] s[j+1]))^(1/2)``.
    """
    p = (logits.detach() / temperature).softmax(-1)
    tail = F.pad(p.flip(-1).cumsum(-1).flip(-1), (0, 1)).clamp(min=torch.finfo(p.dtype).tiny)
    here, beyond = tail[..., :-1].sqrt(), tail[..., 1:].sqrt()
    signs = _signs(logits, generator)
    columns = signs * p.sqrt() / here
    before = F.pad((columns / beyond)[..., :-1].cumsum(-1), (1, 0))
    return (logits * (columns * beyond - p * before)).sum()


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, like.shape, generator=generator) * 2 - 1).to(like)
