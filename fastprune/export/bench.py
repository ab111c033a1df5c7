"""Folders held against each other: how good, how fast, how large, measured in turn in one session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from fastprune.environment import code_version, device_name
from fastprune.errors import InputError
from fastprune.export import measure, rows
from fastprune.export.runtimes import load_candidate
from fastprune.model import checkpoint
from fastprune.problem import fits


def bench(
    folders: Sequence[str | Path],
    eval_file: str | Path,
    *,
    text_columns: tuple[str, ...] = (),
    label_column: str | None = None,
    metric: str | None = None,
    max_length: int | None = None,
    batch_sizes: Sequence[int] = (1, 8),
    batches: int = 20,
    rounds: int = 3,
    threads: int = 1,
    cpu_time: bool = False,
) -> dict:
    """Measure dense, pruned and exported folders side by side.

    Parameters
    ----------
    folders : sequence of str or Path
        The first is what the others are compared with.
    eval_file : str or Path
        Rows to judge on. Batches are drawn from them at random, so that lengths are those of real requests.
    text_columns, label_column, metric, max_length
        As of :func:`fastprune.export.rows.task_of`; of a pruned model at most the label's column is needed.
    batch_sizes : sequence of int
    batches, rounds : int
        Batches of each size, and how often each is timed.
    threads : int
        Of every runtime.
    cpu_time : bool
        Count the processor's time; see :func:`fastprune.export.measure.time_in_turn`. With one thread only.

    Returns
    -------
    dict
        ``candidates``: of each ``name``, ``what``, ``megabytes``, ``metric``, ``agreement`` with the first, and by
        batch size ``p50_ms``, ``p95_ms``, ``rows_per_second`` and ``speedup`` (of the medians).

    Raises
    ------
    InputError
        A folder of no model, or of one for another problem, the same one twice, or rows that do not fit.
    """
    names = [str(folder) for folder in folders]
    if not names or len({Path(name).resolve() for name in names}) < len(names):
        raise InputError(f"{', '.join(names) or 'no folder'}: name folders to measure, each once")
    if cpu_time and threads > 1:
        raise InputError(f"the processor's time counts all threads, and there are {threads}: use one")
    candidates = {name: load_candidate(name, threads=threads) for name in names}
    known = next((name for name in names if (Path(name) / checkpoint.MANIFEST).is_file()), names[0])
    task = rows.task_of(known, text_columns, label_column, metric, max_length)
    for name, one in candidates.items():
        if not fits(task.problem, one.config):
            raise InputError(f"{name}: is no model for {task.problem}, as {known} is; measure models of one problem")
    # Each by its own tokenizer: a vocabulary may have been trimmed.
    splits = {name: rows.read_rows(name, eval_file, task) for name in names}
    pads = {name: checkpoint.load_tokenizer(name).pad_token_id for name in names}
    models = {name: one.model for name, one in candidates.items()}
    judged = measure.judge(models, splits, pads)
    told: list[dict] = [
        {"name": name, "what": one.what, "megabytes": one.megabytes, **judged[name], "batch": {}}
        for name, one in candidates.items()
    ]
    for size in batch_sizes:
        speeds = measure.time_in_turn(
            models,
            {name: measure.real_batches(splits[name], size, batches, pads[name]) for name in names},
            rounds=rounds,
            threads=threads,
            cpu_time=cpu_time,
        )
        for row in told:
            speed = speeds[row["name"]]
            row["batch"][str(size)] = asdict(speed) | {"speedup": speeds[names[0]].p50_ms / speed.p50_ms}
    return {
        "schema_version": 1,
        "eval_file": str(eval_file),
        "threads": threads,
        "cpu_time": cpu_time,
        "device": device_name(torch.device("cpu")),
        "batches": batches,
        "rounds": rounds,
        "candidates": told,
        "versions": code_version(),
    }


def words(record: dict) -> str:
    """A table for the terminal."""
    sizes = list(record["candidates"][0]["batch"])
    metric = record["candidates"][0]["metric"]["name"]
    heads = ["", "", metric, "agreement", "MB"]
    heads += [f"{what}, batch {size}" for size in sizes for what in ("p50 / p95 ms", "rows/s", "faster")]
    table = [heads]
    for one in record["candidates"]:
        judged = one["metric"]
        error = f" ± {judged['standard_error']:.4f}" if "standard_error" in judged else ""
        agreement = "-" if one["agreement"] is None else f"{one['agreement']:.4f}"
        row = [Path(one["name"]).name, one["what"], f"{judged['value']:.4f}{error}", agreement]
        row.append(f"{one['megabytes']:.1f}")
        for speed in one["batch"].values():
            row += [f"{speed['p50_ms']:.2f} / {speed['p95_ms']:.2f}", f"{speed['rows_per_second']:.0f}"]
            row.append(f"{speed['speedup']:.2f}x")
        table.append(row)
    widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    clock = "processor time" if record["cpu_time"] else "wall time"
    return "\n".join([*lines, f"{clock}, {record['threads']} thread(s) on {record['device']}, in turn, real lengths"])
