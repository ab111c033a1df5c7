"""How good a model is on a split, and what always giving one answer would reach."""

import re
import string
import warnings
from collections import Counter
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from tqdm import tqdm

from fastprune.data import Split, collate, order_rows
from fastprune.data.outcomes import Outcomes, jackknife, jackknife_correlation
from fastprune.errors import InputError
from fastprune.model.losses import inputs_of
from fastprune.model.model_inputs import best_span


@dataclass(frozen=True)
class Evaluated:
    """How good a model is: what :func:`evaluate` gives, and what it made of every row.

    Attributes
    ----------
    metrics : dict
    outcomes : ndarray
        One number for each example, in the order of the split, whose mean is the task's metric: see
        :mod:`fastprune.data.outcomes`.
    """

    metrics: dict[str, float]
    outcomes: np.ndarray


def outcomes_of(split: Split, **evaluated: Evaluated) -> Outcomes:
    """The outcomes of models on a split, by their names."""
    return Outcomes(split.task.metric, split.digest, {name: one.outcomes for name, one in evaluated.items()})


def evaluate(model: nn.Module, split: Split, **settings) -> dict[str, float]:
    """The metrics of :func:`evaluate_rows`, whose arguments it takes."""
    return evaluate_rows(model, split, **settings).metrics


def evaluate_rows(
    model: nn.Module,
    split: Split,
    *,
    pad_token_id: int,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Evaluated:
    """Measure a model in evaluation mode on a labelled split, with the outcome of every row.

    Features run in batches of like length; neither their order nor the batch size changes the result beyond
    rounding.

    Parameters
    ----------
    model
        A Hugging Face model with the head of the split's problem.
    split
        Labelled; for question answering encoded with ``for_evaluation=True``.
    pad_token_id, batch_size
        How to batch.
    device
        Moves the model there; by default it stays where it is.
    progress
        Show a bar on a terminal.

    Returns
    -------
    Evaluated
        Its metrics: ``metric``, the task's primary one; every metric of the problem by name, as fractions (of 1, not of
        100); and ``n``, the number of examples. ``f1`` is that of class 1 where there are two classes, else
        the mean over classes.

    Raises
    ------
    InputError
        If the split lacks labels or examples, or the model's outputs are not finite.
    """
    problem = split.task.problem
    if not split.labelled:
        raise InputError(f"task {split.task.name!r}: the split has no labels to evaluate on")
    if problem == "question-answering" and split.examples is None:
        raise InputError(f"task {split.task.name!r}: encode the questions with for_evaluation=True")
    if device is not None:
        model.to(device)
    device = next(model.parameters()).device

    outputs: dict[int, np.ndarray] = {}
    batches = order_rows(split, batch_size)
    with _eval_mode(model):
        for rows in tqdm(batches, desc="evaluate", leave=False, disable=None if progress else True):
            result = model(**inputs_of(collate(split, rows, pad_token_id), device))
            if problem == "question-answering":
                logits = torch.stack([result.start_logits, result.end_logits], dim=1)
            else:
                logits = result.logits
            scores = logits.float().cpu().numpy()
            if not np.isfinite(scores).all():
                raise InputError(
                    "the model's outputs are not finite; look for NaN in its weights, load them in float32"
                )
            outputs |= zip(rows.tolist(), scores, strict=True)

    in_order, metric = [outputs[row] for row in range(len(split))], split.task.metric
    if split.examples is not None:
        scored = squad_scores(_read_answers(split, split.examples, in_order), split.examples)
        metrics = {name: _mean(column) for name, column in scored.items()}
        rows = np.array(scored[metric])
    else:
        scores, labels = np.stack(in_order), np.asarray(split.features["labels"][:])
        if problem == "regression":
            metrics = _regression_metrics(scores[:, 0], labels)
            rows = _regression_rows(scores[:, 0], labels)[metric]
        else:
            predictions, classes = scores.argmax(axis=1), scores.shape[1]
            metrics = _classification_metrics(predictions, labels, classes)
            rows = _classification_rows(predictions, labels, classes, metric)
    return Evaluated({"metric": metrics[metric], **metrics, "n": len(rows)}, rows)


@contextmanager
def _eval_mode(model: nn.Module):
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def _classification_metrics(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> dict[str, float]:
    from sklearn.metrics import (  # a second, and few stages evaluate
        accuracy_score,
        f1_score,
        matthews_corrcoef,
    )

    average = "binary" if num_classes == 2 else "macro"
    with warnings.catch_warnings():
        # Labels or predictions all of one class are no accident here: majority_metric asks for that.
        warnings.simplefilter("ignore", UserWarning)
        correlation = matthews_corrcoef(labels, predictions)
    return {
        "accuracy": float(accuracy_score(labels, predictions)),
        "f1": float(f1_score(labels, predictions, average=average, zero_division=0.0)),
        "matthews_correlation": float(correlation),
    }


def _classification_rows(predictions: np.ndarray, labels: np.ndarray, num_classes: int, metric: str) -> np.ndarray:
    if metric == "accuracy":
        return (predictions == labels).astype(np.float64)

    def measured(predictions: np.ndarray, labels: np.ndarray) -> float:
        return _classification_metrics(predictions, labels, num_classes)[metric]

    return jackknife(measured, predictions, labels)


def _regression_metrics(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Correlations; 0 where predictions or labels are constant, since they then tell nothing."""
    from scipy.stats import pearsonr, spearmanr  # half a second

    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        pearson = spearman = 0.0
    else:
        pearson = float(pearsonr(predictions, labels).statistic)
        spearman = float(spearmanr(predictions, labels).statistic)
    return {"pearson": pearson, "spearman": spearman, "pearson_spearman": (pearson + spearman) / 2}


def _regression_rows(predictions: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Of Spearman's correlation with the ranks that all rows have."""
    from scipy.stats import rankdata

    pearson = jackknife_correlation(predictions, labels)
    spearman = jackknife_correlation(rankdata(predictions), rankdata(labels))
    return {"pearson": pearson, "spearman": spearman, "pearson_spearman": (pearson + spearman) / 2}


def _read_answers(split: Split, examples: Dataset, logits: list[np.ndarray]) -> dict[str, str]:
    """The best answer of each question over its windows. ``logits`` [2, padded length] a window."""
    contexts = dict(zip(examples["id"], examples["context"], strict=True))
    best: dict[str, tuple[float, str]] = {}
    features = split.features.select_columns(["example_id", "offset_mapping"])
    for feature, scores in zip(features, logits, strict=True):
        span, example = best_span(scores, np.asarray(feature["offset_mapping"])), feature["example_id"]
        if span and (example not in best or span[0] > best[example][0]):
            best[example] = (span[0], contexts[example][span[1] : span[2]])
    return {example: answer for example, (_, answer) in best.items()}


def squad_metrics(predictions: Mapping[str, str], examples: Dataset) -> dict[str, float]:
    """Score answers as SQuAD's official v1.1 evaluation does: the means of :func:`squad_scores`."""
    return {name: _mean(column) for name, column in squad_scores(predictions, examples).items()}


def squad_scores(predictions: Mapping[str, str], examples: Dataset) -> dict[str, list[float]]:
    """What SQuAD's official v1.1 evaluation gives each question, as fractions of 1.

    Parameters
    ----------
    predictions
        Answer by question id; a question without one scores 0.
    examples
        ``id`` and ``answers``; the best match over a question's gold answers counts.
    """
    scores: dict[str, list[float]] = {"squad_f1": [], "squad_exact_match": []}
    for example, gold in zip(examples["id"], examples["answers"], strict=True):
        answer = predictions.get(example)
        texts = gold["text"] if answer is not None else []
        scores["squad_f1"].append(max((_token_f1(answer or "", text) for text in texts), default=0.0))
        wanted = {_normalise(text) for text in texts}
        scores["squad_exact_match"].append(float(_normalise(answer or "") in wanted))
    return scores


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _normalise(answer: str) -> str:
    """Drop case, punctuation, English articles and extra blanks, in the official order."""
    kept = "".join(letter for letter in answer.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def _token_f1(prediction: str, gold: str) -> float:
    predicted, wanted = _normalise(prediction).split(), _normalise(gold).split()
    shared = sum((Counter(predicted) & Counter(wanted)).values())
    return 2 * shared / (len(predicted) + len(wanted)) if shared else 0.0


def majority_metric(split: Split, num_classes: int | None) -> float:
    """Return the primary metric of always giving the most frequent class.

    Regression and question answering have no such answer: 0, the correlation of a constant and the score
    of no answer. ``num_classes``, the model's, decides the kind of F1, as in :func:`evaluate`: the evaluation rows may
    lack a class.
    """
    if split.task.problem != "classification":
        return 0.0
    labels = np.asarray(split.features["labels"][:])
    constant = np.full_like(labels, np.bincount(labels).argmax())
    return _classification_metrics(constant, labels, num_classes or 0)[split.task.metric]


def refuse_untuned(metric: float, split: Split, num_classes: int | None, tolerance: float | None = None) -> None:
    """Refuse a dense model that does no better than always giving the same answer.

    Parameters
    ----------
    metric
        The dense model's primary metric on the split.
    split
        What it was measured on.
    num_classes
        The model's.
    tolerance
        By how much it must be better; by default 0.01 for accuracy and F1, and 0.1 for correlations and
        question answering, where guessing gives a little more than 0 (a random model's SQuAD F1 is 0.06).

    Raises
    ------
    InputError
        If it is not.
    """
    if tolerance is None:
        tolerance = 0.01 if split.task.metric in ("accuracy", "f1") else 0.1
    baseline = majority_metric(split, num_classes)
    if split.task.problem == "classification" and len(labels := set(split.features["labels"][:])) == 1:
        raise InputError(
            f"task {split.task.name!r}: all evaluation rows are of one class, {labels.pop()}, so they tell nothing "
            "of a classifier; give rows of several classes"
        )
    if not metric > baseline + tolerance:
        raise InputError(
            f"the dense model reaches {split.task.metric} {metric:.4f} on task {split.task.name!r}, where "
            f"always giving the same answer reaches {baseline:.4f}: it is probably not fine-tuned for this task, "
            f"or its labels are not numbered as the data's are; fine-tune it first"
        )
