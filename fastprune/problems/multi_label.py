"""Any number of several labels for each text or pair of texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastprune.data.divergence import yes_or_no_divergence
from fastprune.data.label_sets import read_label_sets
from fastprune.data.outcomes import jackknife_average_precision, jackknife_f1
from fastprune.errors import InputError
from fastprune.model.losses import random_signs
from fastprune.problem import Problem


class MultiLabel(Problem):
    """Binary cross-entropy of each label's logit. A label is predicted where its probability is above a half.

    ``average_precision`` and ``macro_f1`` are means over the labels that some row has.
    """

    heads = ("ForSequenceClassification",)
    metrics = ("micro_f1", "macro_f1", "average_precision")
    answers = Path(__file__).with_name("answers") / "multi_label.py"

    def takes(self, config):
        return getattr(config, "problem_type", None) == "multi_label_classification"

    def labels(self, source):
        return read_label_sets(source.table, source.task.label_column, source.config, source.name)

    def loss(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        labels = batch["labels"].to(outputs.logits.device)  # [B, labels], 0 or 1
        return F.binary_cross_entropy_with_logits(outputs.logits, labels, reduction="none").mean(-1)

    def score(
        self, outputs: Any, batch: Mapping[str, Tensor], temperature: float, generator: torch.Generator
    ) -> Tensor:
        """The Hessian is diagonal, ``p (1 - p)`` for each label."""
        p = (outputs.logits.detach() / temperature).sigmoid()
        return (outputs.logits * (p * (1 - p)).sqrt() * random_signs(outputs.logits, generator)).sum()

    def measure(self, split, outputs):
        from sklearn.metrics import average_precision_score  # a second, and few stages evaluate

        scores, wanted = np.stack(outputs), _labels(split)
        found = scores > 0
        counts = [(found & wanted), found, wanted]  # [rows, labels]
        occurs = wanted.any(0)
        if not occurs.any():
            self.check_evaluation(split)  # no mean over no labels
        labels = [jackknife_f1(*(count[:, label] for count in counts)) for label in np.flatnonzero(occurs)]
        whole, rows = jackknife_f1(*(count.sum(1) for count in counts))
        precision = [average_precision_score(wanted[:, label], scores[:, label]) for label in np.flatnonzero(occurs)]
        metrics = {
            "micro_f1": whole,
            "macro_f1": float(np.mean([f1 for f1, _ in labels])),
            "average_precision": float(np.mean(precision)),
        }
        if split.task.metric == "macro_f1":
            rows = np.mean([values for _, values in labels], axis=0)
        elif split.task.metric == "average_precision":
            rows = np.mean(
                [jackknife_average_precision(scores[:, label], wanted[:, label]) for label in np.flatnonzero(occurs)],
                axis=0,
            )
        return metrics, rows

    def compare(self, split, outputs, wanted):
        """A row agrees by the part of its labels that does."""
        found, dense = np.stack(outputs), np.stack(wanted)
        return ((found > 0) == (dense > 0)).mean(1), yes_or_no_divergence(dense, found).sum(1)

    def constant(self, split, num_labels):
        """Of always giving the labels that come most often, as many of them as are best."""
        often = -np.sort(-_labels(split).sum(0))  # [labels]
        rows, occurs = len(split), often[often > 0]
        given = np.arange(1, len(often) + 1)
        return {
            "micro_f1": float((2 * often.cumsum() / (given * rows + often.sum())).max()),
            "macro_f1": float((2 * occurs / (rows + occurs)).mean()),
            "average_precision": float((occurs / rows).mean()),
        }[split.task.metric]

    def margin(self, metric):
        return 0.01

    def check_evaluation(self, split):
        wanted = _labels(split)
        if not wanted.any() or (wanted == wanted[0]).all():
            raise InputError(
                f"task {split.task.name!r}: all evaluation rows have the same labels, so they tell nothing of a "
                "classifier; give rows with several"
            )

    def told(self, answers):
        return [value for row in answers["probabilities"] for value in json.loads(row).values()]

    def expected(self, outputs: Sequence[Sequence[float]]) -> list[float]:
        return torch.tensor(outputs).sigmoid().flatten().tolist()


def _labels(split) -> np.ndarray:
    """Which labels each row has [rows, labels]."""
    return np.asarray(split.features["labels"][:]) > 0


PROBLEM = MultiLabel()
