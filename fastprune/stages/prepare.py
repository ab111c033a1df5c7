"""Everything that a compression reads is frozen: model, tokenizer, sample, evaluation rows, validation rows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from fastprune.data import glue_task, load_glue, read_table
from fastprune.data.preparation import parted, prepare_rows, rows_to_serve, table_task
from fastprune.errors import InputError
from fastprune.model import checkpoint
from fastprune.model.card import write_card
from fastprune.problem import problem_of
from fastprune.settings import Effort
from fastprune.stages.folders import SERVED, write_json, write_record
from fastprune.store.artifacts import makes
from fastprune.store.copies import local
from fastprune.store.output import new_folder


@makes(
    model=("source_sha256",),
    sample=("source_sha256", "sample_sha256", "seed"),
    evaluation=("source_sha256", "evaluation_sha256"),
    reads=("source", "train_file", "eval_file", "validation_file"),
)
def prepare(
    *,
    model: Path,
    sample: Path,
    evaluation: Path,
    source: str,
    task: str = "",
    train_file: str = "",
    eval_file: str = "",
    validation_file: str = "",
    text_columns: Sequence[str] = (),
    label_column: str = "",
    problem: str = "",
    metric: str = "",
    pooling: str = "",
    max_length: int = 0,
    num_samples: int = 0,
    seed: int = 0,
    selection: str = "surgeon",
    effort: Effort = "default",
    set_apart: bool = False,
    allow_untuned: bool = False,
) -> dict:
    """Freeze the model and the rows.

    Parameters
    ----------
    model, sample, evaluation : Path
        Outputs. With ``set_apart``, ``sample/validation`` holds the rows that the budget stage measures on.
    source : str
        The fine-tuned model: a local folder or a hub name.
    task : str
        A GLUE task or ``squad``; otherwise the two files, the columns and perhaps a problem and a metric.
    pooling : str
        Makes an embedding model of an encoder without a task head.
    validation_file : str
        The rows for an accuracy drop; by default a part of the training rows, kept out of the sample.
    num_samples, seed : int
        Of the sample, drawn from the training rows. 0: as many as :func:`fastprune.compress` takes by default.
    selection : str
        The training rows need labels only where the selection reads them.
    effort : str
        See :class:`fastprune.settings.Method`.
    set_apart : bool
        For a budget that is an accuracy drop.
    allow_untuned : bool
        Go on although the task head has no weights.
    """
    begin = time.perf_counter()
    if validation_file and not set_apart:
        raise InputError(
            "validation_file is read for a budget that is an accuracy drop alone; give set_apart too, or leave it out"
        )
    if task:
        asked, (train, held_out) = glue_task(task), load_glue(task)
    elif train_file and (eval_file or not label_column):
        asked = table_task(source, tuple(text_columns), label_column, metric, max_length, problem, pooling)
        train = read_table(train_file)
        train, held_out = parted(train, read_table(eval_file) if eval_file else None, asked, seed)
    else:
        raise InputError("no data: name a task, or a train_file and an eval_file with their columns")
    tokenizer = checkpoint.load_tokenizer(source)
    dense = checkpoint.load_dense(source, allow_untuned=allow_untuned, pooling=pooling or None)
    rows = prepare_rows(
        train,
        held_out,
        read_table(validation_file) if validation_file else None,
        set_apart=set_apart,
        tokenizer=tokenizer,
        config=dense.config,
        task=asked,
        selection=selection,
        num_samples=num_samples or None,
        seed=seed,
        effort=effort,
    )
    with new_folder(sample) as folder:
        rows.sample.save(folder)
        if rows.validation is not None:
            rows.validation.save(folder / "validation")
    with new_folder(evaluation) as folder:
        rows.evaluation.save(folder)
        problem_asked = problem_of(asked.problem)
        served = rows_to_serve(held_out, problem_asked, asked.text_columns) if problem_asked.answers else []
        write_json(folder / SERVED, {"texts": served})
    settings = {
        "source": source,
        "source_sha256": checkpoint.digest(dense),
        "task": asked.name,
        "problem": asked.problem,
        "metric": asked.metric,
        "sample_sha256": rows.sample.digest,
        "evaluation_sha256": rows.evaluation.digest,
        "seed": seed,
    }
    metrics = {
        "sample_size": len(rows.sample),
        "evaluation_size": len(rows.evaluation),
        "mean_length": rows.sample.mean_length,
    }
    with new_folder(model) as folder:
        checkpoint.write_model(folder, dense, tokenizer)
        write_card(folder, local(source))
        return write_record(folder, "prepare", begin, metrics, settings)
