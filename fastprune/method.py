"""The method, step by step: the one choreography that :func:`fastprune.compress` and the stages of a pipeline share.

As in the paper's algorithm box::

    information = gather(...)                 one pass over the sample            section 3.2
    importance  = importance_of(...)          what every head and filter is worth
    keep_ratio  = settle(...)                 what the budget comes to
    masks       = search(...)                 the best units within it            algorithm 1
    masks       = rearrange(...)              swaps within a layer                section 3.3
    tuned       = tune(...)                   make up for what was cut            section 3.4
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from fastprune import memory
from fastprune.data import Split
from fastprune.data.evaluation import evaluate_rows
from fastprune.data.outcomes import fall
from fastprune.errors import InputError
from fastprune.importance.selection import Importance, selection_of
from fastprune.model.architectures import Encoder
from fastprune.model.masks import Masks
from fastprune.model.precision import round_as_saved
from fastprune.processes import Group, together
from fastprune.search.accuracy_drop import Curve, smallest_keep_ratio
from fastprune.search.cost import Cost
from fastprune.settings import Budget, Method
from fastprune.tuning.layerwise import Teacher
from fastprune.tuning.method import Tuned, TuningMethod, tuning_of

Batches = Sequence[Mapping[str, Tensor]]


@dataclass(frozen=True)
class Served:
    """The form in which a model will be served, where that answers otherwise than the model itself.

    Attributes
    ----------
    name : str
        Such as ``onnx int8``.
    of : callable
        Makes of a model one that answers as it will.
    """

    name: str
    of: Callable[[transformers.PreTrainedModel], nn.Module]


def gather(
    encoder: Encoder,
    batches: Batches,
    problem: str,
    method: Method,
    *,
    shard: int = 0,
    shards: int = 1,
    processes: int = 1,
    progress: bool = True,
) -> Any:
    """What the importance is computed from: the pass over the sample, or over a shard of its batches.

    With several ``processes`` of this machine each passes over a shard of its own, and the parts are merged.

    Raises
    ------
    InputError
        There are fewer batches than shards.
    """
    if processes > 1 and shards == 1 and len(batches) > 1:
        way = selection_of(method.selection)
        with tempfile.TemporaryDirectory() as folder:
            size = min(processes, len(batches))
            own = together(size, _gather_share, folder, encoder, batches, problem, method, progress)
            others = (way.load(Path(folder, str(rank))) for rank in range(1, size))
            return way.merge(itertools.chain([own], others))
    if shards > len(batches):
        raise InputError(
            f"importance_shards is {shards}, and the sample has {len(batches)} batches; use no more shards than batches"
        )
    # Whoever calls may have gradients switched off.
    with torch.inference_mode(False), torch.enable_grad():
        return selection_of(method.selection).gather(
            encoder, batches, problem, method, shard=shard, shards=shards, progress=progress
        )


def _gather_share(
    group: Group, folder: str, encoder: Encoder, batches: Batches, problem: str, method: Method, progress: bool
) -> Any:
    """One process's part of :func:`gather`; those beside the first leave it in a folder."""
    _to_own_gpu(group, encoder)
    part = gather(
        encoder, batches, problem, method, shard=group.rank, shards=group.size, progress=progress and not group.rank
    )
    if group.rank:
        part.save(Path(folder, str(group.rank)))
    return part


def _to_own_gpu(group: Group, encoder: Encoder) -> None:
    """Where there are several GPUs each process has its own."""
    if group.rank and encoder.device.type == "cuda":
        encoder.model.to(f"cuda:{group.rank % torch.cuda.device_count()}")  # type: ignore[arg-type]


def importance_of(encoder: Encoder, information: Any, method: Method) -> Importance:
    """What every head and filter is worth."""
    return selection_of(method.selection).importance(encoder, information)


def settle(
    budget: Budget,
    cost: Cost,
    encoder: Encoder,
    importance: Importance,
    information: Any,
    batches: Batches,
    method: Method,
    validation: Split | None,
    *,
    pad_token_id: int,
    batch_size: int = 32,
    teacher: Teacher | None = None,
    served: Served | None = None,
    processes: int = 1,
    progress: bool = True,
) -> tuple[float, Curve | None, Tuned | None]:
    """The keep ratio of a budget; of an accuracy drop the smallest that holds it, with the curve of what was tried.

    What was tuned at that ratio comes with it: :func:`tune` would make the same again, bit by bit.
    With the budget's ``confidence`` the upper end of the loss's interval counts.
    Every try is searched, tuned and measured on ``validation``, in the form in which it will be ``served``: the drop is
    that form's against the dense model. The importance, and with weight reconstruction the
    dense model's targets, are shared by the tries.
    """
    max_drop = budget.max_accuracy_drop
    if max_drop is None:
        return cost.settle(budget), None, None
    if validation is None:
        raise InputError("max_accuracy_drop needs validation rows to measure on")
    measure = partial(evaluate_rows, split=validation, pad_token_id=pad_token_id, progress=False)
    dense, margins = measure(encoder.model, batch_size=batch_size), dict[float, float]()
    problem = validation.task.problem
    latest = within = None  # tuned at the ratio just tried, and at the smallest that has passed

    def metric_at(keep_ratio: float) -> float:
        nonlocal latest
        masks = rearrange(search(cost, importance, keep_ratio), information, method)
        latest = tune(
            encoder,
            masks,
            importance,
            cost,
            keep_ratio,
            batches,
            problem,
            method.tuning,
            teacher=teacher,
            processes=processes,
            progress=progress,
        )
        if served:  # by as many rows as an export is evaluated: int8 answers by the rest of the batch
            tried = measure(served.of(latest.model), dense=dense)
        else:
            tried = measure(latest.model, dense=dense, batch_size=batch_size)
        if budget.confidence is not None:
            lost = fall(dense.outcomes, tried.outcomes, budget.confidence)
            margins[keep_ratio] = lost.upper - lost.mean
        return tried.metrics["metric"]

    def passed(_: float) -> None:
        nonlocal within
        within = latest

    curve = smallest_keep_ratio(
        metric_at,
        dense.metrics["metric"],
        max_drop,
        margin_at=None if budget.confidence is None else margins.__getitem__,
        passed=passed,
        least=cost.smallest,
        form=served.name if served else "",
    )
    return curve.keep_ratio, curve, within


def search(cost: Cost, importance: Importance, keep_ratio: float) -> Masks:
    """The heads and filters of the greatest total importance within the budget."""
    return cost.search(importance, keep_ratio)


def rearrange(masks: Masks, information: Any, method: Method) -> Masks:
    """The units of each layer chosen again, where the selection rearranges; else the same masks."""
    selection = selection_of(method.selection)
    return selection.rearrange(masks, information) if selection.rearranges else masks


def make_teacher(encoder: Encoder, batches: Batches, tuning: str, *, keep: bool = False) -> Teacher | None:
    """The dense model on the sample, which the tries of a budget and the last tuning share."""
    return tuning_of(tuning).teacher(encoder, batches, keep=keep)


def tune(
    encoder: Encoder,
    masks: Masks,
    importance: Importance,
    cost: Cost,
    keep_ratio: float,
    batches: Batches,
    problem: str,
    tuning: str,
    *,
    teacher: Teacher | None = None,
    processes: int = 1,
    progress: bool = True,
) -> Tuned:
    """Slice the model by binary masks and make up for what was cut, by the tuning of that name.

    The weights are rounded to what is saved. With several ``processes`` of this machine each walks over a share of the
    batches, where the tuning has a teacher; the given one is then not used.
    """
    work = _Tuning(encoder, masks, importance, cost, keep_ratio, problem, tuning)
    size = min(processes, len(batches))
    if size > 1 and type(tuning_of(tuning)).teacher is not TuningMethod.teacher:
        tuned = together(size, _tune_share, work, batches, progress)
        round_as_saved(tuned.model)
        return tuned
    whole = max(len(batch["attention_mask"]) for batch in batches)

    def tuned_by(examples: int) -> Tuned:
        given, targets = batches, teacher
        if examples < whole:  # the GPU's memory has ended
            given = memory.smaller(batches, examples)
            targets = teacher and make_teacher(encoder, given, tuning)
        return work.over(given, targets, progress)

    tuned = memory.retreat(tuned_by, whole)
    round_as_saved(tuned.model)
    return tuned


@dataclass(frozen=True)
class _Tuning:
    """What :func:`tune` is asked for, but for the batches: those may be parted."""

    encoder: Encoder
    masks: Masks
    importance: Importance
    cost: Cost
    keep_ratio: float
    problem: str
    name: str

    def over(self, batches: Batches, teacher: Teacher | None, progress: bool) -> Tuned:
        return tuning_of(self.name).tune(
            self.encoder,
            self.masks,
            batches,
            self.problem,
            keep_ratio=self.keep_ratio,
            search_at=lambda ratio: search(self.cost, self.importance, ratio),
            layout=self.cost.layout,
            teacher=teacher,
            progress=progress,
        )


def _tune_share(group: Group, work: _Tuning, batches: Batches, progress: bool) -> Tuned:
    """One process's part of :func:`tune`."""
    _to_own_gpu(group, work.encoder)
    teacher = tuning_of(work.name).teacher(work.encoder, batches, group=group)
    return work.over(batches, teacher, progress and not group.rank)
