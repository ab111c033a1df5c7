"""The whole method in one call: importance, search, rearrangement, tuning, surgery, evaluation."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import datasets
import numpy as np
import torch
import transformers
from torch import Tensor

from fastprune.data import Split, Task, draw_sample, encode, make_batches, read_table
from fastprune.data.evaluation import evaluate, refuse_untuned
from fastprune.environment import choose_device
from fastprune.errors import InputError
from fastprune.importance.curvature import Curvature, estimate_curvature
from fastprune.importance.fisher import Fisher, estimate_fisher
from fastprune.importance.surgeon import removal_costs
from fastprune.latency.lut import LatencyTable
from fastprune.manifest import compare_latency, make_manifest, size_metrics
from fastprune.model import checkpoint
from fastprune.model.architectures import Encoder, describe
from fastprune.model.masks import Masks
from fastprune.model.surgery import slice_model
from fastprune.search.accuracy_drop import Curve, check_max_drop, smallest_keep_ratio
from fastprune.search.cost import Constraint, check_constraint
from fastprune.search.rearrange import rearrange
from fastprune.settings import Estimator, Kind, Selection, Solver, Tuning
from fastprune.store.storage import check_absent
from fastprune.tuning.layerwise import Teacher
from fastprune.tuning.mask import Tuned, tune_masks
from fastprune.tuning.weights import reconstruct_weights

VALIDATION_ROWS = 2000
"""Rows set apart, at most, for choosing a budget by its accuracy."""


@dataclass(frozen=True)
class Compressed:
    """A pruned model and the record of how it was made.

    Attributes
    ----------
    model : PreTrainedModel
        The smaller dense model, in evaluation mode.
    masks : Masks
        What was kept, with the scales that are folded into the model.
    metrics : dict
        ``metric``, ``dense``, ``pruned``, ``macs_kept``, ``params_kept``, ``seconds`` by stage, ``latency_ms``.
    manifest : dict
        Source and data digests, seed, budget, kept heads and filters per layer, MACs, library versions.
    """

    model: transformers.PreTrainedModel
    masks: Masks
    metrics: dict
    manifest: dict


def compress(
    model: str | Path | transformers.PreTrainedModel,
    tokenizer: transformers.PreTrainedTokenizerBase | None = None,
    dataset: str | Path | datasets.Dataset | None = None,
    *,
    task: Task,
    keep_ratio: float = 0.6,
    evaluation: str | Path | datasets.Dataset | None = None,
    num_samples: int = 2048,
    seed: int = 0,
    selection: Selection = "surgeon",
    fisher: Estimator = "per_sample",
    tuning: Tuning = "weights",
    batch_size: int = 32,
    device: str = "auto",
    constraint: Kind = "macs",
    lut: str | Path | LatencyTable | None = None,
    latency_ms: float | None = None,
    solver: Solver = "exact",
    max_accuracy_drop: float | None = None,
    validation: str | Path | datasets.Dataset | None = None,
    output_dir: str | Path | None = None,
    allow_untuned: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> Compressed:
    """Prune a fine-tuned encoder to a fraction of its MACs or of its latency, without retraining.

    Parameters
    ----------
    model : str, Path or PreTrainedModel
        A local folder, a hub name or a model in memory (left as it was).
    tokenizer : PreTrainedTokenizerBase, optional
        By default the one beside ``model``.
    dataset : path or datasets.Dataset
        Rows from which the pruning sample is drawn, never those of ``evaluation``. They need labels only with
        ``selection="fisher"``.
    task : Task
        Its columns, problem and metric.
    keep_ratio : float
        Fraction of the dense model's MACs (or predicted latency) to keep, in (0, 1).
    evaluation : path or datasets.Dataset
        Labelled rows on which the dense and the pruned model are measured.
    num_samples : int
        Size of the pruning sample; the whole of ``dataset`` if that is smaller.
    seed : int
        Of the drawing of the sample, the only random choice.
    selection : {"surgeon", "fisher"}
        What makes a unit important: ``surgeon``, what its removal costs after compensation (reads no labels), or
        ``fisher``, the paper's Fisher information with rearrangement.
    fisher : {"per_sample", "per_batch"}
        With ``selection="fisher"``: see :func:`fastprune.importance.fisher.estimate_fisher`.
    tuning : {"weights", "mask", "none"}
        ``weights`` solves for every kept linear map as a whole, ``mask`` is the paper's mask tuning.
    batch_size : int
    device : str
        ``auto`` takes CUDA if there is one.
    constraint : {"macs", "latency"}
        What the budget is a fraction of.
    lut : str, Path or LatencyTable, optional
        Of the device that the model will run on, for ``constraint="latency"``; see :mod:`fastprune.latency.profiler`.
    latency_ms : float, optional
        The budget in milliseconds of the table's batch, in place of ``keep_ratio``.
    solver : {"exact", "piecewise"}
        With ``constraint="latency"``: see :func:`fastprune.latency.search.search_latency`.
    max_accuracy_drop : float, optional
        Find the smallest ``keep_ratio`` whose metric on ``validation`` is at most so much below the dense model's
        (an absolute difference), in place of the given one.
    validation : path or datasets.Dataset, optional
        Labelled rows for that; by default a fifth of ``dataset``, set apart from the sample. Rows that the model was
        fine-tuned on overstate the loss: it knows them by heart.
    output_dir : str or Path, optional
        Must not exist. Gets the model, ``manifest.json`` and ``metrics.json``.
    allow_untuned : bool
        Go on although the dense model does no better than the majority class.
    dry_run : bool
        Stop before tuning: the result says what would be kept, its model is merely sliced, and neither
        ``pruned`` nor ``latency_ms`` is measured. Nothing is written.
    progress : bool

    Returns
    -------
    Compressed

    Raises
    ------
    InputError
        Bad input of any kind; nothing is written then.
    """
    check_constraint(constraint, keep_ratio, latency_ms, lut is not None)
    if max_accuracy_drop is not None:
        check_max_drop(max_accuracy_drop)
    elif validation is not None:
        raise InputError(
            "validation is given, and only max_accuracy_drop is measured on it: give that too, or leave validation out"
        )
    lut_table = lut if lut is None or isinstance(lut, LatencyTable) else LatencyTable.load(lut)
    if dataset is None or evaluation is None:
        raise InputError("give both dataset, to draw the pruning sample from, and evaluation, to measure on")
    if output_dir is not None:
        check_absent(output_dir)
    device = choose_device(device)
    source = model.name_or_path if isinstance(model, transformers.PreTrainedModel) else str(model)
    tokenizer = tokenizer or checkpoint.load_tokenizer(source)
    if isinstance(model, transformers.PreTrainedModel):
        checkpoint.check_finite(model)
        if model.dtype != torch.float32:
            raise InputError(f"the model is in {model.dtype}; load it with dtype=torch.float32 to prune it")
        model = model.to(device).eval()
    else:
        model = checkpoint.load_dense(model, device=device, allow_untuned=allow_untuned)
    encoder = describe(model)
    if lut_table is not None:
        lut_table.check_shape(encoder)
    table = _table(dataset)
    if max_accuracy_drop is not None and validation is None:
        table, validation = set_apart(table, seed)
    # Only the Fisher's loss reads the sample's labels.
    rows = encode(table, tokenizer, task, model.config, labelled=selection == "fisher")
    sample = draw_sample(rows, num_samples, seed)
    held_out = encode(_table(evaluation), tokenizer, task, model.config, for_evaluation=True)
    if validation is not None:
        validation = encode(_table(validation), tokenizer, task, model.config, for_evaluation=True)
    pad = tokenizer.pad_token_id
    cost = Constraint.of(encoder, sample.mean_length, lut_table, solver)
    keep_ratio = cost.settle(keep_ratio, latency_ms)

    seconds: dict[str, float] = {}
    with timed(seconds, "evaluate_dense"):
        dense = evaluate(model, held_out, pad_token_id=pad, progress=progress)["metric"]
    if not allow_untuned:
        refuse_untuned(dense, held_out)
    batches = make_batches(sample, batch_size, pad)
    with timed(seconds, "importance"):
        importance, information = measure_importance(
            encoder, batches, task.problem, selection, fisher=fisher, progress=progress
        )
    teacher = Teacher(encoder, batches, keep=max_accuracy_drop is not None) if tuning == "weights" else None
    curve = None
    if max_accuracy_drop is not None:
        with timed(seconds, "budget"):
            curve = find_keep_ratio(
                encoder,
                importance,
                information,
                cost,
                batches,
                tuning,
                validation,
                max_accuracy_drop,
                pad_token_id=pad,
                teacher=teacher,
                progress=progress,
            )
        keep_ratio = curve.keep_ratio
    with timed(seconds, "search"):
        masks = cost.search(importance, keep_ratio)
    if information is not None:
        with timed(seconds, "rearrange"):
            masks = rearrange(masks, information)
    with timed(seconds, "tuning"):
        tuned = tune(
            encoder,
            masks,
            importance,
            cost,
            keep_ratio,
            batches,
            task.problem,
            "none" if dry_run else tuning,
            teacher=teacher,
            progress=progress,
        )
    metrics = {"metric": task.metric, "dense": dense, **size_metrics(encoder, cost, tuned, keep_ratio)}
    if not dry_run:
        with timed(seconds, "evaluate_pruned"):
            metrics["pruned"] = evaluate(tuned.model, held_out, pad_token_id=pad, progress=progress)["metric"]
        metrics["latency_ms"] = compare_latency(model, tuned.model, held_out, pad, lut_table)
    if curve is not None:
        metrics["curve"] = asdict(curve)
    metrics["seconds"] = seconds
    manifest = make_manifest(
        encoder,
        cost,
        tuned,
        source=source,
        source_digest=checkpoint.digest(model),
        sample=sample,
        evaluation=held_out,
        seed=seed,
        keep_ratio=keep_ratio,
        selection=selection,
        fisher=fisher,
        tuning=tuning,
    )
    if output_dir is not None and not dry_run:
        checkpoint.save(output_dir, tuned.model, tokenizer, manifest, metrics=metrics)
    return Compressed(tuned.model, tuned.masks, metrics, manifest)


def measure_importance(
    encoder: Encoder,
    batches: Sequence[Mapping[str, Tensor]],
    problem: str,
    selection: Selection,
    *,
    fisher: Estimator = "per_sample",
    progress: bool = True,
) -> tuple[tuple[Tensor, Tensor], Fisher | None]:
    """Importance of every head [L, H] and filter [L, I], and the Fisher where rearrangement is to follow.

    Parameters
    ----------
    encoder : Encoder
    batches : sequence of dict of Tensor
    problem : {"classification", "regression", "question-answering"}
    selection : {"surgeon", "fisher"}
    fisher : {"per_sample", "per_batch"}
    """
    information = gather(encoder, batches, problem, selection, fisher=fisher, progress=progress)
    return importance_of(encoder, information), information if isinstance(information, Fisher) else None


def gather(
    encoder: Encoder,
    batches: Sequence[Mapping[str, Tensor]],
    problem: str,
    selection: Selection,
    *,
    fisher: Estimator = "per_sample",
    shard: int = 0,
    shards: int = 1,
    progress: bool = True,
) -> Curvature | Fisher:
    """What the importance is computed from: the pass over the sample, or over a shard of its batches.

    Raises
    ------
    InputError
        There are fewer batches than shards.
    """
    if shards > len(batches):
        raise InputError(
            f"fisher_shards is {shards}, and the sample has {len(batches)} batches; use no more shards than batches"
        )
    if selection == "surgeon":
        return estimate_curvature(encoder, batches, problem, shard=shard, shards=shards, progress=progress)
    if selection == "fisher":
        return estimate_fisher(encoder, batches[shard::shards], problem, estimator=fisher, progress=progress)
    raise InputError(f"selection {selection!r} is not known; use one of {', '.join(get_args(Selection))}")


def importance_of(encoder: Encoder, information: Curvature | Fisher) -> tuple[Tensor, Tensor]:
    """Of heads [L, H] and filters [L, I]."""
    if isinstance(information, Fisher):
        return information.head_importance, information.filter_importance
    return removal_costs(encoder, information)


def tune(
    encoder: Encoder,
    masks: Masks,
    importance: tuple[Tensor, Tensor],
    cost: Constraint,
    keep_ratio: float,
    batches: Sequence[Mapping[str, Tensor]],
    problem: str,
    method: Tuning,
    *,
    teacher: Teacher | None = None,
    progress: bool = True,
) -> Tuned:
    """Slice the model and make up for what was cut, by the method of that name.

    Parameters
    ----------
    encoder : Encoder
    masks : Masks
        Binary.
    importance, cost, keep_ratio
        What the masks were searched with; mask tuning's teacher is the search at ``sqrt(keep_ratio)``.
    batches : sequence of dict of Tensor
    problem : {"classification", "regression", "question-answering"}
    method : {"weights", "mask", "none"}
    teacher : Teacher, optional
        The dense model on ``batches``, to be shared by several budgets.
    """
    if method == "none":
        return Tuned(slice_model(encoder, masks), masks)
    if method == "mask":
        teacher_masks = cost.search(importance, keep_ratio**0.5)
        return tune_masks(encoder, masks, teacher_masks, batches, problem, progress=progress)
    if method == "weights":
        return reconstruct_weights(teacher or Teacher(encoder, batches), masks, problem, progress=progress)
    raise InputError(f"tuning method {method!r} is not known; use one of {', '.join(get_args(Tuning))}")


def find_keep_ratio(
    encoder: Encoder,
    importance: tuple[Tensor, Tensor],
    fisher: Fisher | None,
    cost: Constraint,
    batches: Sequence[Mapping[str, Tensor]],
    tuning: Tuning,
    validation: Split,
    max_drop: float,
    *,
    pad_token_id: int,
    teacher: Teacher | None = None,
    progress: bool = True,
) -> Curve:
    """The smallest keep ratio within an accuracy drop, every try searched, tuned and measured on ``validation``.

    The importance, and with weight reconstruction the dense model's targets, are shared by the tries.
    """

    def measure(model: transformers.PreTrainedModel) -> float:
        return evaluate(model, validation, pad_token_id=pad_token_id, progress=False)["metric"]

    def metric_at(keep_ratio: float) -> float:
        masks = cost.search(importance, keep_ratio)
        masks = masks if fisher is None else rearrange(masks, fisher)
        return measure(
            tune(
                encoder,
                masks,
                importance,
                cost,
                keep_ratio,
                batches,
                validation.task.problem,
                tuning,
                teacher=teacher,
                progress=progress,
            ).model
        )

    return smallest_keep_ratio(metric_at, measure(encoder.model), max_drop, least=cost.smallest)


def set_apart(table: datasets.Dataset, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Part a table into rows to prune on and rows to choose a budget on: a fifth, at most ``VALIDATION_ROWS``."""
    if len(table) < 2:
        raise InputError("a table of one row cannot be parted into sample and validation; give more rows")
    order = np.random.default_rng(seed).permutation(len(table))
    held = min(max(len(table) // 5, 1), VALIDATION_ROWS)
    rest, apart = table.select(np.sort(order[held:])), table.select(np.sort(order[:held]))
    rest.info.dataset_name = apart.info.dataset_name = table.info.dataset_name
    return rest, apart


def table_task(
    model: str | Path,
    text_columns: tuple[str, ...],
    label_column: str | None,
    metric: str | None = None,
    max_length: int | None = None,
) -> Task:
    """What a user's own table is for, from its columns and the model's configuration.

    A question-answering model reads SQuAD's columns unless others are named; one output is regression.
    """
    config = checkpoint.load_config(model)
    if "QuestionAnswering" in (config.architectures or [""])[0]:
        return Task(
            "squad",
            "question-answering",
            metric or "squad_f1",
            text_columns or ("question", "context"),
            label_column or "answers",
            max_length or 384,
        )
    if not text_columns or not label_column:
        raise InputError(
            "name the columns of the data: --text-column (twice for pairs: --text-column-b) and --label-column"
        )
    regression = config.num_labels == 1
    return Task(
        "table",
        "regression" if regression else "classification",
        metric or ("pearson" if regression else "accuracy"),
        text_columns,
        label_column,
        max_length or 128,
    )


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Note the wall seconds of a ``with`` block under ``stage``."""
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start


def _table(data: str | Path | datasets.Dataset) -> datasets.Dataset:
    return data if isinstance(data, datasets.Dataset) else read_table(data)
