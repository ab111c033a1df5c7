"""What is compared between two forms of a model: outputs, the metric, agreement, milliseconds in turn."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fastprune.data import Split, collate
from fastprune.data.evaluation import Evaluated, evaluate_rows
from fastprune.data.outcomes import standard_error
from fastprune.export.inputs import Batch
from fastprune.latency.timing import steady_allocator, torch_threads
from fastprune.model.losses import inputs_of
from fastprune.problem import problem_of


@torch.inference_mode()
def run(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """All outputs of a batch by name; those of padding are zero."""
    mask = batch["attention_mask"]
    found = {}
    for name, value in model(**inputs_of(batch, "cpu")).items():
        if isinstance(value, Tensor):
            value = value.float()
            if value.shape[:2] == mask.shape and mask.shape[1] > 1:
                value = value * mask.reshape(*mask.shape, *[1] * (value.dim() - 2))
            found[name] = value.numpy()
    return found


def difference(one: nn.Module, other: nn.Module, batches: Sequence[Batch]) -> float:
    """The greatest between outputs of two models, absolute, or relative to values beyond 1."""
    worst = 0.0
    for batch in batches:
        expected, found = run(one, batch), run(other, batch)
        for name, values in expected.items():
            apart = np.abs(values - found[name]) / np.maximum(1.0, np.abs(values))
            worst = max(worst, float(apart.max()) if np.isfinite(apart).all() else float("inf"))
    return worst


def judge(models: Mapping[str, nn.Module], splits: Mapping[str, Split], pads: Mapping[str, int]) -> dict[str, dict]:
    """How good models are on the same rows, each by its own tokenizer.

    Returns
    -------
    dict
        Of each model by its name: ``metric`` (``name``, ``value``, ``rows`` and ``standard_error``), and ``agreement``
        with the first model, as the problem compares two models without labels; None where another tokenizer makes
        outputs of another shape. A metric of likeness is to the first model too.
    """
    first: Evaluated | None = None
    judged = {}
    for name, model in models.items():
        split = splits[name]
        one = evaluate_rows(model, split, pad_token_id=pads[name], dense=first, progress=False)
        first = first or one
        metric = {"name": split.task.metric, "value": one.metrics["metric"], "rows": one.metrics["n"]}
        if (error := standard_error(one.outcomes)) is not None:
            metric["standard_error"] = error
        judged[name] = {"metric": metric, "agreement": agreement(split, one, first)}
    return judged


def agreement(split: Split, one: Evaluated, first: Evaluated) -> float | None:
    """How often a model answers as the first one does.

    None where their outputs are of other shapes, or the problem cannot tell.
    """
    problem = problem_of(split.task.problem)
    if not problem.compares or [each.shape for each in one.outputs] != [each.shape for each in first.outputs]:
        return None
    _, rows = problem.likeness(split, one.outputs, first.outputs)
    return float(rows.mean())


@dataclass(frozen=True)
class Speed:
    """Milliseconds of a batch, and rows a second."""

    batch_size: int
    p50_ms: float
    p95_ms: float
    rows_per_second: float


def time_in_turn(
    models: Mapping[str, nn.Module],
    batches: Mapping[str, Sequence[Batch]],
    *,
    rounds: int = 3,
    threads: int = 1,
    cpu_time: bool = False,
) -> dict[str, Speed]:
    """Time models side by side, batch by batch (A B, A B ...), so that a busy machine slows all of them.

    Parameters
    ----------
    models
        By name. A runtime with threads of its own must have been given as many.
    batches
        Of each model by its name, of the same rows. Each is run once in each round, after one round that is not timed.
    threads
        Of torch.
    cpu_time
        Count the time of the processor, not the wall's: on a machine that does other work too, a long call is
        interrupted more often than a short one.
    """
    inputs = {name: [inputs_of(batch, "cpu") for batch in batches[name]] for name in models}
    counts = [len(batch["attention_mask"]) for batch in batches[next(iter(models))]]
    times: dict[str, list[float]] = {name: [] for name in models}
    clock = time.process_time if cpu_time else time.perf_counter
    with steady_allocator(), torch_threads(threads), torch.inference_mode():
        for repeat in range(-1, rounds):
            for place in range(len(counts)):
                for name, model in models.items():
                    begin = clock()
                    model(**inputs[name][place])
                    if repeat >= 0:
                        times[name].append((clock() - begin) * 1e3)
    speeds = {}
    for name, spent in times.items():
        p50, p95 = map(float, np.percentile(spent, [50, 95]))
        speeds[name] = Speed(max(counts), p50, p95, 1e3 * rounds * sum(counts) / sum(spent))
    return speeds


def real_batches(split: Split, batch_size: int, count: int, pad_token_id: int) -> list[Batch]:
    """Batches of rows drawn at random, as requests come: lengths are mixed, and padded to the longest."""
    rows = np.random.default_rng(0).permutation(len(split))[: batch_size * count]
    return [
        collate(split, rows[first : first + batch_size], pad_token_id)
        for first in range(0, len(rows) - len(rows) % batch_size or len(rows), batch_size)
    ]
