"""The task loss of every example, from the model's own logits."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor
from transformers.utils import ModelOutput

LABELS = ("labels", "start_positions", "end_positions")


def inputs_of(batch: Mapping[str, Tensor], device) -> dict[str, Tensor]:
    """The part of a batch that the model reads, without its labels, on ``device``."""
    return {name: value.to(device) for name, value in batch.items() if name not in LABELS}


def per_example_loss(outputs: ModelOutput, batch: Mapping[str, Tensor], problem: str) -> Tensor:
    """Loss of each example, the same that transformers averages over a batch.

    Labels may be class indices or positions, or (label-free calibration) probabilities.

    Returns
    -------
    Tensor [B]
    """
    if problem == "question-answering":
        start = F.cross_entropy(outputs.start_logits, batch["start_positions"].to(outputs.start_logits.device),
                                reduction="none")
        end = F.cross_entropy(outputs.end_logits, batch["end_positions"].to(outputs.end_logits.device),
                              reduction="none")
        return (start + end) / 2
    labels = batch["labels"].to(outputs.logits.device)
    if problem == "regression":
        return F.mse_loss(outputs.logits.squeeze(-1), labels, reduction="none")
    return F.cross_entropy(outputs.logits, labels, reduction="none")
