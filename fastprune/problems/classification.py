"""One class of several for each text or pair of texts."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastprune.data.divergence import class_divergence
from fastprune.data.labels import read_classes
from fastprune.data.outcomes import jackknife
from fastprune.errors import InputError
from fastprune.model.losses import class_score
from fastprune.problem import Problem


class Classification(Problem):
    """Cross-entropy of the classes' logits; ``f1`` is that of class 1 of two, or the mean over more classes."""

    heads = ("ForSequenceClassification",)
    metrics = ("accuracy", "f1", "matthews_correlation")
    answers: ClassVar[Path | None] = Path(__file__).with_name("answers") / "classification.py"

    def takes(self, config):
        kind, outputs = getattr(config, "problem_type", None), config.num_labels or 0
        return outputs != 1 if kind is None else kind == "single_label_classification" and outputs > 1

    def labels(self, source):
        return read_classes(source.table, source.task.label_column, source.config, source.name)

    def loss(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Labels may be class numbers, or (label-free calibration) probabilities."""
        return F.cross_entropy(outputs.logits, batch["labels"].to(outputs.logits.device), reduction="none")

    def score(
        self, outputs: Any, batch: Mapping[str, Tensor], temperature: float, generator: torch.Generator
    ) -> Tensor:
        return class_score(outputs.logits, temperature, generator)

    def measure(self, split, outputs):
        scores, labels, metric = np.stack(outputs), np.asarray(split.features["labels"][:]), split.task.metric
        predictions, classes = scores.argmax(axis=1), scores.shape[1]
        if metric == "accuracy":
            rows = (predictions == labels).astype(np.float64)
        else:
            rows = jackknife(lambda found, wanted: _metrics(found, wanted, classes)[metric], predictions, labels)
        return _metrics(predictions, labels, classes), rows

    def compare(self, split, outputs, wanted):
        found, dense = np.stack(outputs), np.stack(wanted)
        return (found.argmax(1) == dense.argmax(1)).astype(np.float64), class_divergence(dense, found)

    def constant(self, split, num_labels):
        """Of the most frequent class; the model's ``num_labels`` decides the kind of F1, since rows may lack one."""
        labels = np.asarray(split.features["labels"][:])
        return _metrics(np.full_like(labels, np.bincount(labels).argmax()), labels, num_labels or 0)[split.task.metric]

    def margin(self, metric):
        return 0.01 if metric in ("accuracy", "f1") else 0.1

    def check_evaluation(self, split):
        if len(labels := set(split.features["labels"][:])) == 1:
            raise InputError(
                f"task {split.task.name!r}: all evaluation rows are of one class, {labels.pop()}, so they tell nothing "
                "of a classifier; give rows of several classes"
            )

    def told(self, answers):
        return [value for row in answers["probabilities"] for value in json.loads(row).values()]

    def expected(self, outputs: Sequence[Sequence[float]]) -> list[float] | None:
        return torch.tensor(outputs).softmax(-1).flatten().tolist()


def _metrics(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef  # a second, and few stages evaluate

    average = "binary" if num_classes == 2 else "macro"
    with warnings.catch_warnings():
        # Labels or predictions all of one class are no accident here: the constant answer asks for that.
        warnings.simplefilter("ignore", UserWarning)
        correlation = matthews_corrcoef(labels, predictions)
    return {
        "accuracy": float(accuracy_score(labels, predictions)),
        "f1": float(f1_score(labels, predictions, average=average, zero_division=0.0)),
        "matthews_correlation": float(correlation),
    }


PROBLEM = Classification()
