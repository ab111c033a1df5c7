"""From a user's tables to the rows that a compression reads: the sample, the evaluation rows, the validation rows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import transformers

from fastprune.data.encoding import encode
from fastprune.data.splits import Split, draw_rows, draw_tokens
from fastprune.data.tables import read_table
from fastprune.data.tasks import Task
from fastprune.errors import InputError
from fastprune.importance.selection import selection_of
from fastprune.model import checkpoint
from fastprune.problem import Problem, fits, problem_for, problem_of
from fastprune.settings import AGREEMENT, SAMPLES, Effort

SHARED = 0.01
"""Evaluation rows that may also be training rows without a word: short texts come twice by chance."""

SERVED_ROWS = 12
"""Evaluation rows whose served answers are compared with the evaluated ones when the model is registered."""

VALIDATION_ROWS = 2000
"""Rows set apart, at most, for choosing a budget by its accuracy."""


@dataclass(frozen=True)
class Rows:
    """The rows of a compression, encoded.

    Attributes
    ----------
    sample : Split
        What is pruned on.
    evaluation : Split
        What the dense and the pruned model are measured on.
    validation : Split, optional
        What an accuracy drop is measured on.
    """

    sample: Split
    evaluation: Split
    validation: Split | None


def prepare_rows(
    dataset: datasets.Dataset,
    evaluation: datasets.Dataset,
    validation: datasets.Dataset | None,
    *,
    set_apart: bool,
    tokenizer: transformers.PreTrainedTokenizerBase,
    config: transformers.PretrainedConfig,
    task: Task,
    selection: str,
    num_samples: int | None,
    seed: int,
    effort: Effort = "default",
) -> Rows:
    """Draw the sample, and encode it and the other tables.

    Parameters
    ----------
    dataset, evaluation, validation : Dataset
        The sample is drawn from ``dataset``.
    set_apart : bool
        There is to be a validation: where none is given, a fifth of ``dataset`` is kept out of the sample for it.
    selection : str
        The sample needs labels where the selection reads them.
    num_samples : int, optional
        By default as many as the ``effort`` takes, and of long texts fewer: see ``sample_tokens`` of
        :class:`fastprune.importance.selection.Selection`. Not below the number of a low effort.
    seed : int
        Of the drawing.
    effort : {"default", "low"}
    """
    apart = None
    if set_apart:
        if validation is None:
            _check_validation(dataset, task)
        dataset, apart = (dataset, validation) if validation is not None else hold_back(dataset, seed)
    problem = problem_of(task.problem)
    labelled = selection_of(selection).reads_labels and problem.loss_reads_labels
    if labelled and task.metric == AGREEMENT:
        raise InputError(
            f"selection {selection} reads labels, and metric {AGREEMENT} is for rows without; name the label column "
            "and another metric, or take a selection that reads none"
        )
    wanted = SAMPLES[effort] if num_samples is None else num_samples
    drawn = draw_rows(problem.examples_in(dataset, task), wanted, seed)  # the rest is checked, and costs no tokens
    sample = encode(dataset, tokenizer, task, config, rows=drawn, labelled=labelled)
    bound = selection_of(selection).sample_tokens
    if num_samples is None and bound is not None:
        sample = draw_tokens(sample, bound, SAMPLES["low"], seed)
    rows = Rows(
        sample,
        encode(evaluation, tokenizer, task, config, for_evaluation=True),
        None if apart is None else encode(apart, tokenizer, task, config, for_evaluation=True),
    )
    _warn_of_overlap(dataset, evaluation, task)
    return rows


def _check_validation(dataset: datasets.Dataset, task: Task) -> None:
    """Raise InputError where rows that a drop is to be measured on, a part of the training rows, have no labels."""
    if task.metric == AGREEMENT or not task.label_column or task.label_column in dataset.column_names:
        return
    raise InputError(
        f"{dataset.info.dataset_name or 'the table'}: no column {task.label_column!r}, and the drop of {task.metric} "
        "is measured on labelled rows: give them apart (validation, --validation-file), or that column"
    )


def _warn_of_overlap(dataset: datasets.Dataset, evaluation: datasets.Dataset, task: Task) -> None:
    """Warn where more than one evaluation row in a hundred has the texts of a training row."""
    problem = problem_of(task.problem)
    train, held_out = (  # hashes, since all texts at once may take gigabytes
        set(map(hash, problem.rows_of(rows, task.text_columns))) for rows in (dataset, evaluation)
    )
    if (shared := len(train & held_out)) > SHARED * len(held_out):
        warnings.warn(
            f"{shared:,} of {len(held_out):,} different evaluation rows are also among the rows that the sample is "
            "drawn from: their metric says little of new rows; evaluate on others",
            stacklevel=4,
        )


def rows_to_serve(table: datasets.Dataset, problem: Problem, text_columns: Sequence[str]) -> list[list[str]]:
    """Texts of ``SERVED_ROWS`` rows, from the shortest to the longest, evenly spaced between them."""
    rows = list(problem.rows_of(table, text_columns))
    order = sorted(range(len(rows)), key=lambda row: (sum(map(len, rows[row])), row))
    places = np.linspace(0, len(rows) - 1, min(SERVED_ROWS, len(rows))).astype(int)
    return [problem.as_text(rows[order[place]]) for place in places]


def parted(
    dataset: datasets.Dataset, evaluation: datasets.Dataset | None, task: Task, seed: int
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """The rows to draw the sample from, and those to evaluate on: where none are given, a part of the others."""
    problem = problem_of(task.problem)
    if evaluation is None and not problem.beside_dense(task.metric):
        other = problem.unlabelled and f", or compare with the dense model: metric {problem.unlabelled}"
        raise InputError(
            f"there is no evaluation, and {task.metric} is measured on labelled rows; give them (evaluation, or an "
            f"evaluation file) beside those that the sample is drawn from{other}"
        )
    return hold_back(dataset, seed) if evaluation is None else (dataset, evaluation)


def hold_back(table: datasets.Dataset, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
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
    problem_name: str | None = None,
    pooling: str | None = None,
) -> Task:
    """What a user's own table is for, from its columns and the model's configuration.

    Where no problem is named, it is the one that the configuration tells. Question answering and token classification
    have columns of their own unless others are named. ``pooling`` makes an embedding model of a plain encoder.
    """
    config = checkpoint.load_config(model, pooling)
    name = problem_name or str(problem_for(config))  # load_config refuses a model that is for none
    problem = problem_of(name)
    if not fits(name, config):
        raise InputError(
            f"{model}: problem {name!r} is for other models than a {(config.architectures or ['model'])[0]} with "
            f"{config.num_labels} outputs and problem_type {config.problem_type!r}; leave --problem out, or name the "
            "one that the model was fine-tuned for"
        )
    columns, length = text_columns or problem.columns, max_length or problem.length(config)
    return judged_task(problem.task_name, name, columns, label_column, metric, length)


def judged_task(
    name: str,
    problem_name: str,
    text_columns: tuple[str, ...],
    label_column: str | None,
    metric: str | None,
    max_length: int,
) -> Task:
    """A task with the problem's own label column and metric where none are named."""
    problem = problem_of(problem_name)
    usual = "" if metric and problem.beside_dense(metric) else problem.label_column
    label_column = label_column or usual
    metric = metric or problem.usual_metric(label_column)
    if not text_columns or (metric in problem.metrics and problem.needs_label(metric) and not label_column):
        other = problem.unlabelled and (
            f"; where there are no labels, --metric {problem.unlabelled} compares with the dense model"
        )
        raise InputError(
            "name the columns of the data: --text-column (twice for pairs: --text-column-b) and --label-column" + other
        )
    return Task(name, problem_name, metric, text_columns, label_column, max_length)


def as_table(data: Any, argument: str) -> datasets.Dataset:
    """A table in memory, from whatever people have.

    Parameters
    ----------
    data : path, Dataset, DataFrame, list of dict or dict of columns
    argument : str
        What it was given as, for the message of a refusal.

    Raises
    ------
    InputError
        It is no table, or several, or its rows cannot be put into columns.
    """
    if isinstance(data, str | Path):
        return read_table(data)
    if isinstance(data, datasets.Dataset):
        return data.with_format(None)
    if isinstance(data, datasets.DatasetDict):
        raise InputError(
            f"{argument} is a DatasetDict of {', '.join(map(repr, data))}; choose one, such as data['train']"
        )
    try:
        if isinstance(data, list | tuple) and data and all(isinstance(row, dict) for row in data):
            return datasets.Dataset.from_list(list(data))
        if isinstance(data, dict):
            return datasets.Dataset.from_dict(data)
        if hasattr(data, "to_dict") and hasattr(data, "columns"):  # a DataFrame, by its look: pandas is not imported
            return datasets.Dataset.from_pandas(data, preserve_index=False)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise InputError(
            f"{argument}: its rows cannot be put into columns ({error}); give a datasets.Dataset"
        ) from error
    raise InputError(
        f"{argument} is a {type(data).__name__}; give a file, a datasets.Dataset, a pandas.DataFrame, a list of "
        "dicts or a dict of columns"
    )
