"""How good a model is on a split, and what always giving one answer would reach."""

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from fastprune import memory
from fastprune.data import Split, collate, order_rows
from fastprune.data.outcomes import Outcomes
from fastprune.errors import InputError
from fastprune.problem import problem_of


@dataclass(frozen=True)
class Evaluated:
    """How good a model is: what :func:`evaluate` gives, and what it made of every row.

    Attributes
    ----------
    metrics : dict
    outcomes : ndarray
        One number for each example, in the order of the split, whose mean is the task's metric: see
        :mod:`fastprune.data.outcomes`.
    outputs : sequence of ndarray
        What was put out for each feature, for metrics that hold other models against that.
    """

    metrics: dict[str, float]
    outcomes: np.ndarray
    outputs: Sequence[np.ndarray]

    @property
    def by_name(self) -> dict[str, float]:
        """The metrics that are numbers, by their names alone."""
        told = {name: value for name, value in self.metrics.items() if name not in ("metric", "n")}
        return {name: value for name, value in told.items() if np.isfinite(value)}


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
    dense: Evaluated | None = None,
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
    dense
        What the dense model gave on the same split, which some metrics hold this model against; without it, this is
        the dense model.
    progress
        Show a bar on a terminal.

    Returns
    -------
    Evaluated
        Its metrics: ``metric``, the task's primary one; every metric of the problem by name, as fractions (of 1, not of
        100); and ``n``, the number of examples.

    Raises
    ------
    InputError
        If the split lacks labels or examples, or the model's outputs are not finite.
    """
    problem = problem_of(split.task.problem)
    metric = split.task.metric
    likeness = problem.beside_dense(metric)
    if not (split.labelled or likeness):
        raise InputError(f"task {split.task.name!r}: the split has no labels to evaluate on")
    if "example_id" in split.features.column_names and split.examples is None:
        raise InputError(f"task {split.task.name!r}: encode the questions with for_evaluation=True")
    if device is not None:
        model.to(device)

    in_order = memory.retreat(partial(_outputs, model, split, pad_token_id, progress), batch_size)
    if likeness:
        metrics, outcomes = problem.likeness(split, in_order, in_order if dense is None else dense.outputs)
    else:
        metrics, outcomes = problem.measure(split, in_order)
    told = {"metric": metrics[metric], **metrics, "n": len(outcomes)}
    return Evaluated(told, outcomes, in_order)


def _outputs(model: nn.Module, split: Split, pad_token_id: int, progress: bool, batch_size: int) -> list[np.ndarray]:
    """What the problem keeps of every feature, in the order of the split."""
    problem, outputs = problem_of(split.task.problem), dict[int, np.ndarray]()
    batches = order_rows(split, batch_size)
    with _eval_mode(model):
        for rows in tqdm(batches, desc="evaluate", leave=False, disable=None if progress else True):
            result = problem.run(model, collate(split, rows, pad_token_id))
            scores = problem.outputs(result).float().cpu().numpy()
            if not np.isfinite(scores).all():
                raise InputError(
                    "the model's outputs are not finite; look for NaN in its weights, load them in float32"
                )
            outputs |= zip(rows.tolist(), scores, strict=True)
    return [outputs[row] for row in range(len(split))]


@contextmanager
def _eval_mode(model: nn.Module):
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def majority_metric(split: Split, num_classes: int | None) -> float:
    """Return the primary metric of always giving the most frequent class.

    Where the problem has no such answer, 0: the correlation of a constant, or the score of no answer. ``num_classes``
    are the model's.
    """
    problem = problem_of(split.task.problem)
    return 0.0 if problem.beside_dense(split.task.metric) else problem.constant(split, num_classes)


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
        By how much it must be better; by default the problem's own margin.

    Raises
    ------
    InputError
        If it is not.
    """
    problem = problem_of(split.task.problem)
    if problem.beside_dense(split.task.metric):
        return  # without labels nothing tells
    if tolerance is None:
        tolerance = problem.margin(split.task.metric)
    baseline = majority_metric(split, num_classes)
    problem.check_evaluation(split)
    if not metric > baseline + tolerance:
        raise InputError(
            f"the dense model reaches {split.task.metric} {metric:.4f} on task {split.task.name!r}, where "
            f"always giving the same answer reaches {baseline:.4f}: it is probably not fine-tuned for this task, "
            f"or its labels are not numbered as the data's are; fine-tune it first"
        )
