"""Checking a table, and turning its texts and labels into what a model reads."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import transformers
from datasets import Dataset

from fastprune.data.source import Source
from fastprune.data.splits import Split, arrow_of, make_split
from fastprune.data.tasks import Task
from fastprune.deadline import Slow, within
from fastprune.errors import InputError
from fastprune.model.images import ImageReader
from fastprune.problem import problem_of
from fastprune.settings import AGREEMENT

PATIENCE, PACE = 60.0, 50_000
"""Seconds in which any table's texts become tokens, and the bytes of the table for which there is one second more."""

Tokens = TypeVar("Tokens")


def encode(
    table: Dataset,
    tokenizer: transformers.PreTrainedTokenizerBase,
    task: Task,
    model_config: transformers.PretrainedConfig,
    *,
    rows: np.ndarray | None = None,
    labelled: bool = True,
    for_evaluation: bool = False,
) -> Split:
    """Check a table and turn its texts and labels into what the model reads.

    Texts are cut at ``task.max_length`` tokens, or where the tokenizer's or the model's own limit is lower.
    Class labels are read by the rules of :mod:`fastprune.data.labels`.
    A long context of question answering becomes overlapping features (stride 128);
    a feature that does not contain the first answer points to the [CLS] token.

    Parameters
    ----------
    table
        Rows with the task's columns.
    tokenizer
        The model's tokenizer; a fast one for question answering.
    task, model_config
        What the columns mean, and the number of classes, their names, and the sizes of the model.
    rows
        Encode these rows alone, counted from 0, in this order; the whole table is checked all the same.
    labelled
        False leaves the label column unread (it need not exist) and makes features without targets.
    for_evaluation
        Keep, for question answering, what turns token positions back into text.

    Raises
    ------
    InputError
        If a column is missing, a text is null or a row has none, labels are missing or not the model's, or
        the tokenizer is not the model's. Rows are counted from 1, without the header.
    """
    source = Source(table, tokenizer, model_config, task)
    problem, labelled = problem_of(task.problem), labelled and task.metric != AGREEMENT
    wanted = problem.texts_in(table, task.text_columns) + [task.label_column] * (labelled and bool(task.label_column))
    if missing := [name for name in wanted if name not in table.column_names]:
        raise InputError(f"{source.name}: no column {missing[0]!r}; the columns are {table.column_names}")
    if len(table) == 0:
        raise InputError(f"{source.name}: the table has no rows")
    rows = np.arange(len(table)) if rows is None else np.asarray(rows)
    seconds = PATIENCE + arrow_of(table).nbytes / PACE * len(rows) / len(table)
    if isinstance(tokenizer, ImageReader):
        seconds += len(rows)  # whose files may lie elsewhere
    features, examples = _in_time(
        source.name, seconds, lambda: problem.encode(source, rows, labelled=labelled, for_evaluation=for_evaluation)
    )
    if "input_ids" in features.column_names:
        source.check_vocabulary(features)
    return make_split(task, features, examples)


def _in_time(source: str, seconds: float, tokens: Callable[[], Tokens]) -> Tokens:
    """What ``tokens`` makes of a table. A tokenizer brings regular expressions of its own, which may never end."""
    try:
        return within(tokens, seconds)
    except Slow as error:
        raise InputError(
            f"{source}: the tokenizer has not made tokens of its texts within {seconds:.0f} s; a regular expression in "
            "tokenizer.json may be at fault: use the tokenizer that the model was trained with"
        ) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of the tokenizer's part in Rust
            raise
        raise InputError(
            f"{source}: the tokenizer cannot make tokens of its texts ({error}); use the tokenizer that the model was "
            "trained with"
        ) from error
