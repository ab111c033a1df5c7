"""The cells of a grid measured, one model after the other; what is measured already stays."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from fastprune.errors import InputError
from fastprune.reproduce.grid import Cell, needs
from fastprune.sweep.config import Model

HUB = "https://huggingface.co"
SECONDS = 5
"""Until the hub is taken for out of reach."""


def run(cells: Sequence[Cell], folder: Path, device: str, tell: Callable[[str], None]) -> dict[str, str]:
    """Measure what is not measured yet, each cell into a file of its own as soon as it is done.

    Parameters
    ----------
    folder : Path
        Of an earlier run, or none.
    tell : callable
        Gets a line for each cell.

    Returns
    -------
    dict
        Of each model that could not be measured, by name, why.
    """
    lacking: dict[str, str] = {}
    for model, group in groupby(cells, lambda cell: cell.model):
        wanted = [cell for cell in group if cell.result(folder) is None]
        if not wanted:
            continue
        try:
            _measure(model, wanted, folder, device, tell)
        except InputError as error:
            missing = needs(model)
            lacking[model.name] = f"needs {missing}, which cannot be had: {error}" if missing else str(error)
    return lacking


def go_offline() -> None:
    """Spare every model the libraries' own attempts, where the hub is out of reach; what they have cached is used."""
    try:
        urllib.request.urlopen(os.environ.get("HF_ENDPOINT", HUB), timeout=SECONDS).close()
    except urllib.error.HTTPError:
        pass  # it answers
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported


def _measure(model: Model, wanted: Sequence[Cell], folder: Path, device: str, tell: Callable[[str], None]) -> None:
    from fastprune.data import glue_task, load_glue, make_batches, read_table
    from fastprune.data.evaluation import evaluate_rows, refuse_untuned
    from fastprune.data.outcomes import standard_error
    from fastprune.data.preparation import prepare_rows, table_task
    from fastprune.environment import choose_device
    from fastprune.method import gather, importance_of, make_teacher, rearrange, search, tune
    from fastprune.model import checkpoint
    from fastprune.model.architectures import describe
    from fastprune.search.cost import Cost

    pooling = model.pooling or None
    dense = checkpoint.load_dense(model.source, device=choose_device(device), pooling=pooling)
    tokenizer = checkpoint.load_tokenizer(model.source)
    if model.task:
        task, (train, held_out) = glue_task(model.task), load_glue(model.task)
    else:
        columns, named = tuple(model.text_columns), (model.label_column, model.metric, model.max_length, model.problem)
        task = table_task(model.source, columns, *named, pooling)
        train, held_out = read_table(model.train_file), read_table(model.eval_file)
    encoder, pad, before = describe(dense), tokenizer.pad_token_id, None
    for (seed, name), group in groupby(wanted, lambda cell: (cell.seed, cell.method)):
        of_method = list(group)
        settings = of_method[0].settings
        rows = prepare_rows(
            train,
            held_out,
            None,
            set_apart=False,
            tokenizer=tokenizer,
            config=dense.config,
            task=task,
            selection=settings.selection,
            num_samples=of_method[0].num_samples,
            seed=seed,
        )
        if before is None:
            before = evaluate_rows(dense, rows.evaluation, pad_token_id=pad, progress=False)
            refuse_untuned(before.metrics["metric"], rows.evaluation, dense.config.num_labels)
        begin = time.perf_counter()
        batches = make_batches(rows.sample, 32, pad)
        information = gather(encoder, batches, task.problem, settings, progress=False)
        importance, cost = importance_of(encoder, information, settings), Cost.of(encoder, rows.sample.mean_length)
        teacher = make_teacher(encoder, batches, settings.tuning, keep=True)
        shared = time.perf_counter() - begin
        for cell in of_method:
            begin = time.perf_counter()
            masks = rearrange(search(cost, importance, cell.keep_ratio), information, settings)
            tuned = tune(
                encoder,
                masks,
                importance,
                cost,
                cell.keep_ratio,
                batches,
                task.problem,
                settings.tuning,
                teacher=teacher,
                progress=False,
            )
            seconds = time.perf_counter() - begin
            after = evaluate_rows(tuned.model, rows.evaluation, pad_token_id=pad, dense=before, progress=False)
            result = {
                "metric": task.metric,
                "dense": before.metrics["metric"],
                "standard_error": standard_error(before.outcomes),
                "pruned": after.metrics["metric"],
                "standard_error_of_the_drop": standard_error(before.outcomes - after.outcomes),
                "rows": len(after.outcomes),
                **cost.kept(masks),
                "stopped": tuned.stopped,
                "seconds_shared": shared,
                "seconds": seconds,
            }
            cell.save(folder, result)
            tell(
                f"{model.name} {name} seed {seed} keep {cell.keep_ratio:g}: {task.metric} {result['pruned']:.4f} "
                f"(dense {result['dense']:.4f})"
            )
