"""A number for each text or pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastprune.data.outcomes import jackknife_correlation
from fastprune.errors import InputError
from fastprune.model.losses import random_signs
from fastprune.problem import Problem


class Regression(Problem):
    """Squared error of the only output; correlations, 0 where predictions or labels are constant and tell nothing."""

    heads = ("ForSequenceClassification",)
    metrics = ("pearson", "spearman", "pearson_spearman")
    answers = Path(__file__).with_name("answers") / "regression.py"

    def takes(self, config):
        return config.num_labels == 1 and getattr(config, "problem_type", None) in (None, "regression")

    def labels(self, source):
        if source.config.num_labels != 1:
            raise InputError(
                f"task {source.task.name!r} is a regression, but the model has {source.config.num_labels} outputs; "
                f"use a model with num_labels 1"
            )
        return source.numbers()

    def loss(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        return F.mse_loss(outputs.logits.squeeze(-1), batch["labels"].to(outputs.logits.device), reduction="none")

    def score(
        self, outputs: Any, batch: Mapping[str, Tensor], temperature: float, generator: torch.Generator
    ) -> Tensor:
        """The Hessian is one."""
        return (outputs.logits * random_signs(outputs.logits, generator)).sum()

    def measure(self, split, outputs):
        predictions, labels = np.stack(outputs)[:, 0], np.asarray(split.features["labels"][:])
        return _metrics(predictions, labels), _rows(predictions, labels)[split.task.metric]

    def compare(self, split, outputs, wanted):
        """Agreement is Pearson's correlation with the dense model's values, divergence the squared difference."""
        found, dense = np.stack(outputs)[:, 0], np.stack(wanted)[:, 0]
        return jackknife_correlation(found, dense), (found.astype(np.float64) - dense) ** 2

    def told(self, answers):
        return answers["value"].tolist()

    def expected(self, outputs: Sequence[Sequence[float]]) -> list[float]:
        return [row[0] for row in outputs]


def _metrics(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    from scipy.stats import pearsonr, spearmanr  # half a second

    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        pearson = spearman = 0.0
    else:
        pearson = float(pearsonr(predictions, labels).statistic)
        spearman = float(spearmanr(predictions, labels).statistic)
    return {"pearson": pearson, "spearman": spearman, "pearson_spearman": (pearson + spearman) / 2}


def _rows(predictions: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Of Spearman's correlation with the ranks that all rows have."""
    from scipy.stats import rankdata

    pearson = jackknife_correlation(predictions, labels)
    spearman = jackknife_correlation(rankdata(predictions), rankdata(labels))
    return {"pearson": pearson, "spearman": spearman, "pearson_spearman": (pearson + spearman) / 2}


PROBLEM = Regression()
