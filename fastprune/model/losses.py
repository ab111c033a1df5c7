"""What the losses of the problems are made of."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from fastprune.model import model_inputs
from fastprune.model.tokens import send

IGNORED = -100
"""The label of a token that has none, as transformers has it."""

LABELS = ("labels", "start_positions", "end_positions")


def inputs_of(batch: Mapping[str, Tensor], device) -> dict[str, Tensor]:
    """The part of a batch that the model reads, without its labels, on ``device``."""
    unread = (*LABELS, "attention_mask") if "pixel_values" in batch else LABELS  # an image is read as a whole
    return {name: send(value, device) for name, value in batch.items() if name not in unread}


def stack(inputs: Mapping, pad_token_id: int) -> dict[str, Tensor]:
    """Rows of what a model reads, of unlike lengths, as CPU tensors: see :func:`fastprune.model.model_inputs.pad`."""
    return {name: torch.from_numpy(rows) for name, rows in model_inputs.pad(inputs, pad_token_id).items()}


def class_score(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """``(B e)^T logits`` of classes, whose Hessian ``diag(p) - p p^T`` is ``B B^T``, see :meth:`Problem.score`.

    ``B`` is the Cholesky factor, whose last column is zero: of two classes a single draw is exact. With ``s[i]`` the
    sum of ``p`` from ``i`` on, ``B[i, i]^2 = p[i] s[i+1] / s[i]``, and below the diagonal
    ``B[i, j] = -p[i] (p[j] / (s[j] s[j+1]))^(1/2)``.
    """
    p = (logits.detach() / temperature).softmax(-1)
    tail = F.pad(p.flip(-1).cumsum(-1).flip(-1), (0, 1)).clamp(min=torch.finfo(p.dtype).tiny)
    here, beyond = tail[..., :-1].sqrt(), tail[..., 1:].sqrt()
    signs = random_signs(logits, generator)
    columns = signs * p.sqrt() / here
    before = F.pad((columns / beyond)[..., :-1].cumsum(-1), (1, 0))
    return (logits * (columns * beyond - p * before)).sum()


def random_signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return send((torch.randint(0, 2, like.shape, generator=generator) * 2 - 1).to(like.dtype), like.device)
