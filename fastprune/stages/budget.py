"""What a budget comes to: the keep ratio."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from fastprune.data import Split
from fastprune.errors import InputError
from fastprune.export.served import as_served
from fastprune.method import make_teacher, settle
from fastprune.model import checkpoint
from fastprune.search.cost import Cost
from fastprune.settings import Budget, Constraint, Layout, Method, Solver
from fastprune.stages.folders import (
    load_importance,
    load_information,
    load_macs,
    load_method,
    load_sample,
    load_table,
    write_record,
)
from fastprune.store.artifacts import makes
from fastprune.store.output import new_folder


@makes("chosen")
def budget(
    *,
    model: Path,
    sample: Path,
    importance: Path,
    chosen: Path,
    constraint: Constraint | None = None,
    keep_ratio: float | None = None,
    latency_ms: float | None = None,
    max_accuracy_drop: float | None = None,
    confidence: float | None = None,
    table: Path | None = None,
    solver: Solver = "exact",
    tuning: str = "weights",
    layout: Layout = "free",
    processes: int = 1,
    batch_size: int = 32,
    device: str = "auto",
    format: str = "",
    quantize: str = "",
) -> dict:
    """Settle the keep ratio: the given one, that of a latency in milliseconds, or the smallest within an accuracy drop.

    Parameters
    ----------
    model, sample, importance : Path
    chosen : Path
        Output: ``stage.json`` with the constraint, ``keep_ratio`` and, of a search, the curve of what was tried.
    constraint, keep_ratio, latency_ms, max_accuracy_drop, confidence
        See :class:`fastprune.settings.Budget`. Under MACs the table is not read; an accuracy drop is measured on the
        rows that the prepare stage set apart.
    solver, tuning, layout : str
        See :class:`fastprune.settings.Method`.
    processes : int
        That share each tuning that an accuracy drop tries.
    format, quantize : str
        Of the export that follows, if one does: an accuracy drop is that of the model as it will be served.
    """
    begin = time.perf_counter()
    wanted = Budget(keep_ratio, constraint, latency_ms, max_accuracy_drop, confidence)
    Method(tuning=tuning, solver=solver, layout=layout)  # what does not go together is refused before the work
    table = table if wanted.constraint == "latency" else None
    wanted.check_table(table is not None)
    cost = Cost(load_macs(importance), load_table(table), solver, layout)
    if wanted.max_accuracy_drop is None:
        metrics: dict = {"keep_ratio": cost.settle(wanted)}
    else:
        if not (sample / "validation").is_dir():
            raise InputError(f"{sample}: holds no validation rows; run the prepare stage with set_apart")
        method = load_method(importance, tuning, solver)
        rows, encoder, batches = load_sample(model, sample, device, batch_size)
        pad = checkpoint.load_tokenizer(model).pad_token_id
        ratio, curve, _ = settle(
            wanted,
            cost,
            encoder,
            load_importance(importance),
            load_information(importance, method),
            batches,
            method,
            Split.load(sample / "validation"),
            pad_token_id=pad,
            batch_size=batch_size,
            processes=processes,
            teacher=make_teacher(encoder, batches, tuning, keep=True),
            served=as_served(format, quantize, rows, pad, encoder.model),
        )
        metrics = {"keep_ratio": ratio} | ({"curve": asdict(curve)} if curve else {})
    settings: dict = {"constraint": wanted.constraint, "solver": solver, "layout": layout}
    if wanted.max_accuracy_drop is not None:
        settings["max_accuracy_drop"] = wanted.max_accuracy_drop
    if wanted.confidence is not None:
        settings["confidence"] = wanted.confidence
    with new_folder(chosen) as folder:
        return write_record(folder, "budget", begin, metrics, settings)
