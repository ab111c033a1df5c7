"""The whole method in one call."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import torch
import transformers

from fastprune import method as steps
from fastprune.data import Task, make_batches
from fastprune.data.evaluation import evaluate_rows, outcomes_of, refuse_untuned
from fastprune.data.preparation import Rows, as_table, parted, prepare_rows
from fastprune.environment import choose_device, timed, usable_threads
from fastprune.errors import InputError
from fastprune.export.served import as_served
from fastprune.latency.lut import LatencyTable
from fastprune.latency.timing import torch_threads
from fastprune.manifest import compare_latency, make_manifest, size_metrics
from fastprune.memory import limited
from fastprune.model import checkpoint
from fastprune.model.architectures import describe
from fastprune.model.images import reader_of
from fastprune.model.refusals import check_tokenizer
from fastprune.result import Compressed, write
from fastprune.search.cost import Cost
from fastprune.settings import Budget, Method, settings_of
from fastprune.store import keys
from fastprune.store.output import check_output

Table: TypeAlias = str | Path | datasets.Dataset


def compress(
    model: str | Path | transformers.PreTrainedModel,
    tokenizer: Any = None,
    dataset: Table | None = None,
    *,
    task: Task,
    evaluation: Table | None = None,
    validation: Table | None = None,
    budget: Budget | None = None,
    method: Method | None = None,
    num_samples: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    device: str = "auto",
    memory: str | int | None = None,
    processes: int = 1,
    lut: str | Path | LatencyTable | None = None,
    output_dir: str | Path | None = None,
    allow_untuned: bool = False,
    pooling: str | None = None,
    dry_run: bool = False,
    export: str | None = None,
    quantize: str | None = None,
    progress: bool = True,
    **settings: Any,
) -> Compressed:
    """Prune a fine-tuned encoder to a fraction of its MACs or of its latency, without retraining.

    Parameters
    ----------
    model : str, Path or PreTrainedModel
        A local folder, a hub name or a model in memory (left as it was: mode, device, gradients).
    tokenizer : PreTrainedTokenizerBase or image processor, optional
        By default the one beside ``model``.
    dataset : path or datasets.Dataset
        Rows from which the pruning sample is drawn, never those of ``evaluation``. They need labels only with
        ``selection="fisher"``.
    task : Task
        Its columns, problem and metric.
    evaluation : path or datasets.Dataset
        Labelled rows on which the dense and the pruned model are measured.
    validation : path or datasets.Dataset, optional
        Labelled rows on which a ``max_accuracy_drop`` is measured; by default a fifth of ``dataset``, kept out of the
        sample. Rows that the model was fine-tuned on overstate the loss.
    budget : Budget
        How small; see :class:`fastprune.settings.Budget`.
    method : Method, optional
        How; see :class:`fastprune.settings.Method`.
    num_samples : int, optional
        Size of the pruning sample; the whole of ``dataset`` if that is smaller. By default 2,048, or 512 with
        ``effort="low"``; with removal costs fewer where they have more than 131,072 tokens, but not below 512.
    seed : int
        Of the drawing of the sample, the only random choice.
    batch_size : int
    device : str
        ``auto`` takes CUDA if there is one.
    memory : str or int, optional
        What the process may take, such as ``8GiB``; by default what the machine or its container has left. Less is made
        up for by the disk and by more passes, see :mod:`fastprune.memory`.
    processes : int
        That share importance and reconstruction on this machine, each with the model and a part of the sample.
    lut : str, Path or LatencyTable, optional
        Of the device that the model will run on, for a latency budget; see :mod:`fastprune.latency.profiler`.
    output_dir : str or Path, optional
        Must not exist. Gets the model, ``manifest.json`` and ``metrics.json``. Where it cannot be written any more when
        all is done, the result is kept elsewhere, and the InputError says where. Where the export fails, the model is
        there without it, and the error says so.
    allow_untuned : bool
        Go on although the dense model does no better than the majority class.
    pooling : {"mean", "cls", "max"}, optional
        Makes an embedding model of an encoder without a task head; a folder of sentence-transformers has its own.
    dry_run : bool
        Stop before tuning: the result says what would be kept, its model is only sliced, and neither
        ``pruned`` nor ``latency_ms`` is measured. Nothing is written.
    export : str, optional
        ``onnx`` or ``openvino``: the pruned model as a runtime serves it, in a folder of that name within
        ``output_dir``; see :func:`fastprune.export.exporting.export`. It is a candidate of its own: its metric,
        agreement with the dense model, megabytes and latency are ``exported`` of the metrics.
    quantize : str, optional
        With it: ``int8`` or ``fp16``. A ``max_accuracy_drop`` is then that of the quantised model.
    progress : bool
    **settings
        Any field of ``budget`` or ``method`` by its own name: ``keep_ratio=0.5`` is ``budget=Budget(keep_ratio=0.5)``.

    Returns
    -------
    Compressed

    Raises
    ------
    InputError
        Bad input of any kind; nothing is written then.
    """
    budget, method = settings_of(budget, method, settings)
    budget.check_table(lut is not None)
    if validation is not None and budget.max_accuracy_drop is None:
        raise InputError(
            "validation is given, and only max_accuracy_drop is measured on it: give that too, or leave validation out"
        )
    if dataset is None:
        raise InputError("give dataset, to draw the pruning sample from")
    if export or quantize:
        _check_export(export, quantize, output_dir)
    if output_dir is not None:
        check_output(output_dir)
        keys.public_key()  # one that cannot be read is refused before the work

    seconds: dict[str, float] = {}
    with limited(memory), _dense_model(model, choose_device(device), allow_untuned, pooling) as dense:
        if output_dir is not None and not dry_run:
            check_output(output_dir, checkpoint.saved_bytes(dense))
        with timed(seconds, "prepare"):
            source = str(dense.name_or_path) if isinstance(model, transformers.PreTrainedModel) else str(model)
            tokenizer = checkpoint.load_tokenizer(source) if tokenizer is None else reader_of(tokenizer)
            check_tokenizer(tokenizer, source)
            drawn_from, held_out = parted(
                as_table(dataset, "dataset"),
                None if evaluation is None else as_table(evaluation, "evaluation"),
                task,
                seed,
            )
            rows = prepare_rows(
                drawn_from,
                held_out,
                None if validation is None else as_table(validation, "validation"),
                set_apart=budget.max_accuracy_drop is not None,
                tokenizer=tokenizer,
                config=dense.config,
                task=task,
                selection=method.selection,
                num_samples=num_samples,
                seed=seed,
                effort=method.effort,
            )
        with timed(seconds, "profile") if lut is not None else nullcontext():
            table = lut if lut is None or isinstance(lut, LatencyTable) else LatencyTable.load(lut)
        result = _prune(
            dense,
            rows,
            budget,
            method,
            table=table,
            pad_token_id=tokenizer.pad_token_id,
            batch_size=batch_size,
            processes=processes,
            seconds=seconds,
            allow_untuned=allow_untuned,
            dry_run=dry_run,
            progress=progress,
            origin={"source": source, "seed": seed},
            served=as_served(export or "", quantize or "", rows.sample, tokenizer.pad_token_id, dense),
        )
        if output_dir is not None and not dry_run:
            with _exported(result, export, quantize, dense, tokenizer, rows) as (result, folder, failed):
                write(result, tokenizer, Path(output_dir), folder)
            if failed is not None:
                kept = f"the pruned model is in {output_dir} without its export; make that with `fastprune export`"
                if isinstance(failed, InputError):
                    raise InputError(f"{failed}; {kept}") from failed
                failed.add_note(kept)
                raise failed
    return result


@contextmanager
def _exported(
    result: Compressed,
    export: str | None,
    quantize: str | None,
    dense: transformers.PreTrainedModel,
    tokenizer: Any,
    rows: Rows,
) -> Iterator[tuple[Compressed, Path | None, Exception | None]]:
    """The result with what is told of its export, the folder of that, and what went wrong: the pruning is not lost."""
    if not export:
        yield result, None, None
        return
    from fastprune.export.exporting import export_beside  # onnx, where it is asked for alone

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, export)
        made.mkdir()
        failed = None
        try:
            with timed(result.metrics["seconds"], "export"):
                result.metrics["exported"], outcomes = export_beside(
                    made,
                    export,
                    quantize or "",
                    result.model,
                    dense,
                    tokenizer,
                    rows.sample,
                    rows.evaluation,
                    result.manifest,
                )
        except Exception as error:
            failed = error
        else:
            result = replace(result, outcomes=result.outcomes | outcomes)
        yield result, None if failed else Path(folder), failed


def _check_export(export: str | None, quantize: str | None, output_dir: str | Path | None) -> None:
    """Raise InputError for an export that could not be made when the work is done."""
    if not export:
        raise InputError("quantize is of an exported model: give export too (--export onnx)")
    if output_dir is None:
        raise InputError("export is written within output_dir: give that too")
    from fastprune.export.exporting import check_choices

    check_choices(export, quantize or "")


def _prune(
    dense: transformers.PreTrainedModel,
    rows: Rows,
    budget: Budget,
    method: Method,
    *,
    table: LatencyTable | None,
    pad_token_id: int,
    batch_size: int,
    processes: int,
    seconds: dict[str, float],
    allow_untuned: bool,
    dry_run: bool,
    progress: bool,
    origin: dict[str, Any],
    served: steps.Served | None,
) -> Compressed:
    """The steps of :mod:`fastprune.method` one after the other, each timed, and what is told of them."""
    encoder, task = describe(dense), rows.sample.task
    cost = Cost.of(encoder, rows.sample.mean_length, table, method.solver, method.layout)
    if budget.max_accuracy_drop is None:
        cost.settle(budget)  # a budget that cannot be met is refused before anything is measured
    with timed(seconds, "evaluate_dense"):
        before = evaluate_rows(
            dense, rows.evaluation, pad_token_id=pad_token_id, batch_size=batch_size, progress=progress
        )
    if not allow_untuned:
        refuse_untuned(before.metrics["metric"], rows.evaluation, dense.config.num_labels)
    batches = make_batches(rows.sample, batch_size, pad_token_id)
    with timed(seconds, "importance"):
        information = steps.gather(encoder, batches, task.problem, method, processes=processes, progress=progress)
        importance = steps.importance_of(encoder, information, method)
    sought = budget.max_accuracy_drop is not None
    with timed(seconds, "budget"):
        teacher = steps.make_teacher(encoder, batches, method.tuning, keep=True) if sought else None
        keep_ratio, curve, tried = steps.settle(
            budget,
            cost,
            encoder,
            importance,
            information,
            batches,
            method,
            rows.validation,
            pad_token_id=pad_token_id,
            batch_size=batch_size,
            teacher=teacher,
            served=served,
            processes=processes,
            progress=progress,
        )
    with timed(seconds, "search"):
        masks = steps.search(cost, importance, keep_ratio)
    with timed(seconds, "rearrange"):
        masks = steps.rearrange(masks, information, method)
    del information  # gigabytes, of a large model
    with timed(seconds, "tune"):
        tuned = (not dry_run and tried) or steps.tune(
            encoder,
            masks,
            importance,
            cost,
            keep_ratio,
            batches,
            task.problem,
            "none" if dry_run else method.tuning,
            teacher=teacher,
            processes=processes,
            progress=progress,
        )
    metrics = {
        "metric": task.metric,
        "dense": before.metrics["metric"],
        **size_metrics(encoder, cost, tuned, keep_ratio),
    }
    outcomes, by_name = outcomes_of(rows.evaluation, dense=before), {"dense": before.by_name}
    if not dry_run:
        with timed(seconds, "evaluate_pruned"):
            after = evaluate_rows(
                tuned.model,
                rows.evaluation,
                pad_token_id=pad_token_id,
                batch_size=batch_size,
                dense=before,
                progress=progress,
            )
            outcomes = outcomes_of(rows.evaluation, dense=before, pruned=after)
            metrics["pruned"], by_name["pruned"] = after.metrics["metric"], after.by_name
            if "divergence" in after.metrics:
                metrics["divergence"] = after.metrics["divergence"]
            metrics["latency_ms"] = compare_latency(dense, tuned.model, rows.evaluation, pad_token_id, table)
    metrics |= {"all_metrics": by_name, "standard_error": outcomes.standard_errors, "rows": int(before.metrics["n"])}
    if curve is not None:
        metrics["curve"] = asdict(curve)
    metrics["seconds"] = seconds
    manifest = make_manifest(
        encoder,
        cost,
        tuned,
        source=origin["source"],
        source_digest=checkpoint.digest(dense),
        sample=rows.sample,
        evaluation=rows.evaluation,
        seed=origin["seed"],
        keep_ratio=keep_ratio,
        selection=method.selection,
        estimator=method.estimator,
        tuning=method.tuning,
        effort=method.effort,
    )
    return Compressed(tuned.model, tuned.masks, metrics, manifest, outcomes)


@contextmanager
def _dense_model(
    model: str | Path | transformers.PreTrainedModel, device: torch.device, allow_untuned: bool, pooling: str | None
) -> Iterator[transformers.PreTrainedModel]:
    """The model to prune, in evaluation mode on ``device``, within the CPU limit; one in memory is left as it was."""
    with torch_threads(usable_threads()):
        if isinstance(model, (str, Path)):
            yield checkpoint.load_dense(model, device=device, allow_untuned=allow_untuned, pooling=pooling)
        else:
            yield checkpoint.adopt(model, device, pooling)
