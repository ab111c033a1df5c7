"""Empirical Fisher information of the mask variables (paper, section 3.2, eq. 6).

The importance of a unit is the sum of squared gradients of the loss with respect to its mask variable, taken
at masks of one. Only the masks get gradients; the weights are frozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from fastprune import memory
from fastprune.model.architectures import Encoder
from fastprune.model.finite import check_finite
from fastprune.model.masks import masked
from fastprune.model.tensors import read_tensors
from fastprune.model.tokens import send
from fastprune.problem import problem_of
from fastprune.settings import Estimator


@dataclass(frozen=True)
class Fisher:
    """Gradient rows of the mask variables.

    Attributes
    ----------
    head_grads : Tensor [N, L, H] float32
    filter_grads : Tensor [N, L, I] float32
        A row an example (``per_sample``) or a mini-batch (``per_batch``).
    """

    head_grads: Tensor
    filter_grads: Tensor

    @property
    def head_importance(self) -> Tensor:
        """Diagonal of the Fisher over heads, [L, H] float64."""
        return self.head_grads.double().square().sum(0)

    @property
    def filter_importance(self) -> Tensor:
        """Diagonal of the Fisher over filters, [L, I] float64."""
        return torch.stack([layer.double().square().sum(0) for layer in self.filter_grads.unbind(1)])

    def save(self, path: str | Path) -> None:
        save_file(
            {"head_grads": self.head_grads.contiguous(), "filter_grads": self.filter_grads.contiguous()}, str(path)
        )

    @classmethod
    def merge(cls, parts: Sequence[Fisher]) -> Fisher:
        """That of all the parts' rows."""
        return cls(torch.cat([part.head_grads for part in parts]), torch.cat([part.filter_grads for part in parts]))

    @classmethod
    def load(cls, path: str | Path) -> Fisher:
        return cls(**read_tensors(path, {"head_grads": 3, "filter_grads": 3}))


def estimate_fisher(
    encoder: Encoder,
    batches: Sequence[Mapping[str, Tensor]],
    problem: str,
    *,
    estimator: Estimator = "per_sample",
    progress: bool = True,
) -> Fisher:
    """Gradients of the loss with respect to every head's and filter's mask.

    Parameters
    ----------
    batches : sequence of dict of Tensor
        Padded inputs with labels.
    problem : str
    estimator : {"per_sample", "per_batch"}
        ``per_sample`` expands the masks over the batch, so that one backward pass of the summed loss gives every
        example's own gradient: the Fisher of the paper's eq. 6. ``per_batch`` takes the gradient of each
        mini-batch's mean loss, as the authors' published code does; examples cancel within a batch.

    Returns
    -------
    Fisher
        ``N`` rows: examples or batches. Memory is that of one batch's activations plus ``4 N L (H + I)`` bytes.

    Raises
    ------
    InputError
        Gradients are NaN or infinite; the layer is named.
    """
    most = max(len(batch["attention_mask"]) for batch in batches)
    fisher = memory.retreat(partial(_estimate, encoder, batches, problem, estimator, progress), most)
    for index in reversed(range(encoder.num_layers)):  # backwards, as the gradients go
        check_finite(fisher.filter_grads[:, index], "gradients", f"layer {index} ffn")
        check_finite(fisher.head_grads[:, index], "gradients", f"layer {index} attention")
    return fisher


def _estimate(
    encoder: Encoder,
    batches: Sequence[Mapping[str, Tensor]],
    problem: str,
    estimator: Estimator,
    progress: bool,
    most: int,
) -> Fisher:
    """From at most so many examples at once; a mini-batch's mean stays that of the whole of it."""
    model, asked = encoder.model.eval(), problem_of(problem)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    head_rows: list[Tensor] = []  # of each batch [B or 1, L, H]
    filter_rows: list[Tensor] = []  # [B or 1, L, I]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        for batch in tqdm(batches, desc=f"Fisher ({estimator})", unit="batch", disable=not progress):
            made = []
            for part in memory.parts(batch, most):
                there = {name: send(values, encoder.device) for name, values in part.items()}
                size = (len(part["attention_mask"]),) if estimator == "per_sample" else ()
                masks = [
                    torch.ones(*size, encoder.num_layers, units, device=encoder.device, requires_grad=True)
                    for units in (encoder.num_heads, encoder.num_filters)
                ]
                with masked(encoder, *masks):
                    losses = asked.loss(asked.run(model, there), there)
                share = len(part["attention_mask"]) / len(batch["attention_mask"])
                loss = losses.sum() if size else losses.mean() * share
                made.append(torch.autograd.grad(loss, masks))
            for rows, gradients in zip((head_rows, filter_rows), zip(*made)):
                rows += gradients if estimator == "per_sample" else [torch.stack(gradients).sum(0, keepdim=True)]
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
    return Fisher(torch.cat(head_rows).cpu(), torch.cat(filter_rows).cpu())
