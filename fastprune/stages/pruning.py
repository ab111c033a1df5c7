"""The compression cut into stages, each a function from folders to folders.

A pipeline runs every stage in a process of its own, so all that passes between two stages lies in a folder: weights
and masks as safetensors, tables as Parquet, the rest as JSON. A folder gets its name only when it is complete.
The first output of every stage holds ``stage.json``: its name, seconds, settings and metrics; every output is an
artifact with a manifest (:mod:`fastprune.store.artifacts`).

Which folder goes into which stage stands in :mod:`fastprune.sweep.graph`. A ``table`` is given where any budget of the
sweep is latency; the others leave it alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fastprune.compression import find_keep_ratio, table_task
from fastprune.compression import set_apart as set_rows_apart
from fastprune.compression import tune as tune_model
from fastprune.data import Split, draw_sample, encode, glue_task, load_glue, read_table
from fastprune.data.evaluation import evaluate, majority_metric, refuse_untuned
from fastprune.environment import choose_device
from fastprune.errors import InputError
from fastprune.latency.lut import LatencyTable
from fastprune.latency.table_store import stored_table
from fastprune.manifest import compare_latency, make_manifest, size_metrics
from fastprune.model import checkpoint
from fastprune.model.architectures import describe
from fastprune.model.masks import Masks, masked
from fastprune.search.accuracy_drop import check_max_drop
from fastprune.search.cost import Constraint, check_constraint
from fastprune.search.rearrange import rearrange as rearrange_masks
from fastprune.settings import NO_DROP, Kind, Selection, Solver, Tuning
from fastprune.stages.folders import (
    load_budget,
    load_fisher,
    load_importance,
    load_macs,
    load_model,
    load_sample,
    load_table,
    read_json,
    record_of,
    save_masks,
    table_of_budget,
    write_json,
    write_record,
)
from fastprune.store import storage
from fastprune.store.artifacts import RECORD, makes
from fastprune.tuning.layerwise import Teacher


@makes(
    model=("source_sha256",),
    calibration=("source_sha256", "sample_sha256", "seed"),
    evaluation=("source_sha256", "evaluation_sha256"),
    reads=("source", "train_file", "eval_file", "validation_file"),
)
def prepare(
    *,
    model: Path,
    calibration: Path,
    evaluation: Path,
    source: str,
    task: str = "",
    train_file: str = "",
    eval_file: str = "",
    validation_file: str = "",
    text_columns: Sequence[str] = (),
    label_column: str = "",
    metric: str = "",
    max_length: int = 0,
    num_samples: int = 2048,
    seed: int = 0,
    selection: Selection = "surgeon",
    set_apart: bool = False,
    allow_untuned: bool = False,
) -> dict:
    """Freeze everything that a compression reads: model, tokenizer, pruning sample and evaluation data.

    Parameters
    ----------
    model, calibration, evaluation : Path
        Outputs. With ``set_apart``, ``calibration/validation`` holds the rows that :func:`budget` measures on.
    source : str
        The fine-tuned model: a local folder or a hub name.
    task : str
        A GLUE task or ``squad``; otherwise the two files, the columns and perhaps a metric.
    validation_file : str
        The rows for an accuracy drop; by default a part of the training rows, kept out of the sample.
    num_samples, seed : int
        Of the pruning sample, drawn from the training rows.
    selection : {"surgeon", "fisher"}
        The training rows need labels only for ``fisher``.
    set_apart : bool
        For a budget that is an accuracy drop, see :func:`budget`.
    allow_untuned : bool
        Go on although the task head has no weights.
    """
    begin = time.perf_counter()
    if validation_file and not set_apart:
        raise InputError(
            "validation_file is read for a budget that is an accuracy drop alone; give set_apart too, or leave it out"
        )
    if task:
        problem, (train, held_out) = glue_task(task), load_glue(task)
    elif train_file and eval_file:
        problem = table_task(source, tuple(text_columns), label_column or None, metric or None, max_length or None)
        train, held_out = read_table(train_file), read_table(eval_file)
    else:
        raise InputError("no data: name a task, or a train_file and an eval_file with their columns")
    tokenizer = checkpoint.load_tokenizer(source)
    dense = checkpoint.load_dense(source, allow_untuned=allow_untuned)
    validation = None
    if set_apart:
        train, apart = (train, read_table(validation_file)) if validation_file else set_rows_apart(train, seed)
        validation = encode(apart, tokenizer, problem, dense.config, for_evaluation=True)
    rows = encode(train, tokenizer, problem, dense.config, labelled=selection == "fisher")
    sample = draw_sample(rows, num_samples, seed)
    held_out = encode(held_out, tokenizer, problem, dense.config, for_evaluation=True)
    with storage.new_folder(calibration) as folder:
        sample.save(folder)
        if validation is not None:
            validation.save(folder / "validation")
    with storage.new_folder(evaluation) as folder:
        held_out.save(folder)
    settings = {
        "source": source,
        "source_sha256": checkpoint.digest(dense),
        "task": problem.name,
        "problem": problem.problem,
        "metric": problem.metric,
        "sample_sha256": sample.digest,
        "evaluation_sha256": held_out.digest,
        "seed": seed,
    }
    metrics = {"sample_size": len(sample), "evaluation_size": len(held_out), "mean_length": sample.mean_length}
    with storage.new_folder(model) as folder:
        dense.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return write_record(folder, "prepare", begin, metrics, settings)


@makes("dense")
def evaluate_dense(
    *,
    model: Path,
    evaluation: Path,
    dense: Path,
    batch_size: int = 32,
    device: str = "auto",
    allow_untuned: bool = False,
) -> dict:
    """Measure the dense model, and refuse one that does no better than the majority class.

    Parameters
    ----------
    model, evaluation : Path
    dense : Path
        Output: only its ``stage.json``.
    """
    begin = time.perf_counter()
    split, tokenizer = Split.load(evaluation), checkpoint.load_tokenizer(model)
    metrics = evaluate(load_model(model, device), split, pad_token_id=tokenizer.pad_token_id, batch_size=batch_size)
    if not allow_untuned:
        refuse_untuned(metrics["metric"], split)
    with storage.new_folder(dense) as folder:
        return write_record(folder, "evaluate_dense", begin, {**metrics, "majority": majority_metric(split)})


@makes("table", reads=("lut",))
def profile(
    *,
    model: Path,
    table: Path,
    lut: str = "",
    lut_store: str = "",
    latency_batch_size: int = 8,
    latency_seq_len: int = 64,
    device: str = "auto",
) -> dict:
    """Get the look-up table of this device for a latency budget: the given one, the store's, or a new one.

    Parameters
    ----------
    model : Path
    table : Path
        Output: ``lut.json``.
    lut : str
        A table that was measured before.
    lut_store : str
        A folder or an ``s3://`` prefix where tables are kept by device and shape, so that a team measures each once.
    latency_batch_size, latency_seq_len : int
        Shape of the batch to measure with, see :func:`fastprune.latency.profiler.profile`.
    """
    begin = time.perf_counter()
    encoder = describe(load_model(model, "cpu"))
    if lut:
        found, origin = LatencyTable.load(storage.local(lut)), lut
    else:
        found, origin = stored_table(
            lut_store, encoder, choose_device(device), batch_size=latency_batch_size, seq_len=latency_seq_len
        )
    found.check_shape(encoder)
    with storage.new_folder(table) as folder:
        found.save(folder / "lut.json")
        return write_record(
            folder,
            "profile",
            begin,
            {"latency_ms_dense": found.dense_ms(encoder.num_layers)},
            {"lut": found.key, "lut_from": origin},
        )


@makes("chosen")
def budget(
    *,
    model: Path,
    calibration: Path,
    fisher: Path,
    chosen: Path,
    constraint: Kind = "macs",
    keep_ratio: float = 0.0,
    latency_ms: float | None = None,
    max_accuracy_drop: float = NO_DROP,
    table: Path | None = None,
    solver: Solver = "exact",
    tuning: Tuning = "weights",
    batch_size: int = 32,
    device: str = "auto",
) -> dict:
    """Settle the keep ratio: the given one, that of a latency in milliseconds, or the smallest within an accuracy drop.

    Parameters
    ----------
    model, calibration, fisher : Path
    chosen : Path
        Output: ``stage.json`` with the constraint, ``keep_ratio`` and, of a search, the curve of what was tried.
    constraint, keep_ratio, latency_ms, solver
        See :func:`fastprune.compress`. Under MACs the table is not read.
    max_accuracy_drop : float
        Absolute, on the rows that :func:`prepare` set apart; ``NO_DROP`` keeps ``keep_ratio``.
    """
    begin = time.perf_counter()
    table = table if constraint == "latency" else None
    cost = Constraint(load_macs(fisher), load_table(table), solver)
    if max_accuracy_drop == NO_DROP:
        check_constraint(constraint, keep_ratio, latency_ms, has_table=table is not None)
        metrics: dict = {"keep_ratio": cost.settle(keep_ratio, latency_ms)}
    else:
        check_max_drop(max_accuracy_drop)
        split, encoder, batches = load_sample(model, calibration, device, batch_size)
        importance, pad = load_importance(fisher), checkpoint.load_tokenizer(model).pad_token_id
        teacher = Teacher(encoder, batches, keep=True) if tuning == "weights" else None
        curve = find_keep_ratio(
            encoder,
            importance,
            load_fisher(fisher),
            cost,
            batches,
            tuning,
            Split.load(calibration / "validation"),
            max_accuracy_drop,
            pad_token_id=pad,
            teacher=teacher,
        )
        metrics = {"keep_ratio": curve.keep_ratio, "curve": asdict(curve)}
    with storage.new_folder(chosen) as folder:
        return write_record(
            folder,
            "budget",
            begin,
            metrics,
            {"constraint": constraint, "solver": solver, "max_accuracy_drop": max_accuracy_drop},
        )


@makes("searched")
def search(*, fisher: Path, chosen: Path, searched: Path, table: Path | None = None) -> dict:
    """Search the masks under the budget.

    Parameters
    ----------
    fisher, chosen : Path
    searched : Path
        Output: ``masks.safetensors``.
    """
    begin = time.perf_counter()
    cost, keep_ratio = load_budget(fisher, table, chosen)
    masks = cost.search(load_importance(fisher), keep_ratio)
    return save_masks(searched, masks, cost, "search", begin, {"keep_ratio": keep_ratio, **cost.record})


@makes("rearranged")
def rearrange(*, fisher: Path, chosen: Path, searched: Path, rearranged: Path, table: Path | None = None) -> dict:
    """Rearrange the masks within each layer, if their importance was the Fisher; else pass them on.

    Parameters
    ----------
    fisher, chosen, searched : Path
    rearranged : Path
        Output: ``masks.safetensors``.
    """
    begin = time.perf_counter()
    masks, information = Masks.load(searched / "masks.safetensors"), load_fisher(fisher)
    if information is not None:
        masks = rearrange_masks(masks, information)
    return save_masks(rearranged, masks, load_budget(fisher, table, chosen)[0], "rearrange", begin)


@makes("pruned", "tuned")
def tune(
    *,
    model: Path,
    calibration: Path,
    evaluation: Path,
    fisher: Path,
    chosen: Path,
    rearranged: Path,
    pruned: Path,
    tuned: Path,
    table: Path | None = None,
    tuning: Tuning = "weights",
    batch_size: int = 32,
    device: str = "auto",
) -> dict:
    """Cut the pruned units out and make up for them.

    Parameters
    ----------
    model, calibration, evaluation, fisher, chosen, rearranged : Path
    pruned : Path
        Output: the smaller model with its manifest, ready to load.
    tuned : Path
        Output: ``masks.safetensors``, with the scales that are folded into the model.
    tuning : {"weights", "mask", "none"}
    """
    begin = time.perf_counter()
    split, encoder, batches = load_sample(model, calibration, device, batch_size)
    cost, keep_ratio = load_budget(fisher, table, chosen)
    result = tune_model(
        encoder,
        Masks.load(rearranged / "masks.safetensors"),
        load_importance(fisher),
        cost,
        keep_ratio,
        batches,
        split.task.problem,
        tuning,
    )
    origin = read_json(model / RECORD)["settings"]
    manifest = make_manifest(
        encoder,
        cost,
        result,
        source=origin["source"],
        source_digest=origin["source_sha256"],
        sample=split,
        evaluation=Split.load(evaluation),
        seed=origin["seed"],
        keep_ratio=keep_ratio,
        **read_json(fisher / RECORD)["settings"],
        tuning=tuning,
    )
    save_masks(tuned, result.masks, cost, "tune", begin)
    record = record_of(
        "tune",
        begin,
        size_metrics(encoder, cost, result, keep_ratio),
        {
            "tuning": tuning,
            "stopped": result.stopped or "",
            "problem": split.task.problem,
            "text_columns": split.task.text_columns,
            "max_length": split.task.max_length,
        },
    )
    checkpoint.save(pruned, result.model, checkpoint.load_tokenizer(model), manifest, stage=record)
    return record


@makes("measured")
def evaluate_pruned(
    *,
    model: Path,
    evaluation: Path,
    chosen: Path,
    searched: Path,
    rearranged: Path,
    pruned: Path,
    measured: Path,
    table: Path | None = None,
    batch_size: int = 32,
    device: str = "auto",
    every_stage: bool = True,
) -> dict:
    """Measure the pruned model as it was saved, side by side with the dense one.

    Parameters
    ----------
    model, evaluation, chosen, searched, rearranged, pruned : Path
    measured : Path
        Output: only its ``stage.json``.
    every_stage : bool
        Also measure the dense model under the masks of the search and of the rearrangement.
    """
    begin = time.perf_counter()
    split, pad = Split.load(evaluation), checkpoint.load_tokenizer(pruned).pad_token_id
    dense, small = load_model(model, device), checkpoint.load(pruned, device=choose_device(device))
    metrics = {"pruned": evaluate(small, split, pad_token_id=pad, batch_size=batch_size)["metric"]}
    if every_stage:
        encoder = describe(dense)
        named = {
            name: Masks.load(folder / "masks.safetensors")
            for name, folder in (("search", searched), ("rearrange", rearranged))
        }
        if named["search"].kept_heads == named["rearrange"].kept_heads and (
            named["search"].kept_filters == named["rearrange"].kept_filters
        ):
            del named["rearrange"]  # nothing was swapped: the same model again
        for name, masks in named.items():
            with masked(encoder, masks.heads.to(encoder.device), masks.filters.to(encoder.device)):
                metrics[name] = evaluate(dense, split, pad_token_id=pad, batch_size=batch_size)["metric"]
    latency = compare_latency(dense, small, split, pad, table_of_budget(table, chosen))
    metrics |= {f"latency_ms_{name}": latency.pop(name) for name in ("dense", "pruned")}
    for name, network, folder in (("dense", dense, model), ("pruned", small, pruned)):
        metrics[f"params_{name}"] = network.num_parameters()
        metrics[f"megabytes_{name}"] = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6
    with storage.new_folder(measured) as folder:
        return write_record(folder, "evaluate_pruned", begin, metrics, {"latency": latency})


@makes("report")
def report(
    *,
    model: Path,
    dense: Path,
    fisher: Path,
    chosen: Path,
    searched: Path,
    rearranged: Path,
    pruned: Path,
    measured: Path,
    report: Path,
    table: Path | None = None,
) -> dict:
    """Sum the compression up.

    Parameters
    ----------
    model, dense, fisher, chosen, searched, rearranged, pruned, measured : Path
    report : Path
        Output: ``metrics.json``, ``report.html`` and the pictures in it.
    """
    from fastprune.reports.report import plots, render  # matplotlib: only this stage draws

    begin = time.perf_counter()
    profiled = [table] if table_of_budget(table, chosen) else []
    folders = (model, dense, *profiled, fisher, chosen, searched, rearranged, pruned, measured)
    records = [read_json(folder / RECORD) for folder in folders]
    found = {record["stage"]: record["metrics"] for record in records}
    figures, latency = found["evaluate_pruned"], records[-1]["settings"]["latency"]

    def pair(name: str) -> dict:
        return {side: figures[f"{name}_{side}"] for side in ("dense", "pruned")}

    metrics = {
        "metric": records[0]["settings"]["metric"],
        "dense": found["evaluate_dense"]["metric"],
        "pruned": figures["pruned"],
        **found["tune"],
        "latency_ms": {**pair("latency_ms"), **latency},
        "params": pair("params"),
        "megabytes": pair("megabytes"),
        "seconds": {record["stage"]: record["seconds"] for record in records},
    }
    if "curve" in found["budget"]:
        metrics["curve"] = found["budget"]["curve"]
    if "search" in figures:
        metrics["stages"] = {name: figures[name] for name in ("search", "rearrange") if name in figures}
        metrics["stages"]["tuning"] = figures["pruned"]
    manifest = read_json(pruned / checkpoint.MANIFEST)
    with storage.new_folder(report) as folder:
        write_json(folder / "metrics.json", metrics)
        (folder / "report.html").write_text(render(metrics, manifest), encoding="utf-8")
        for name, figure in plots(metrics, manifest).items():
            figure.savefig(folder / f"{name}.png", dpi=150)
        return write_record(folder, "report", begin, metrics)
