"""The rows of a file for a folder that may be dense, pruned or exported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fastprune.data import Split, encode, read_table
from fastprune.data.preparation import judged_task, table_task
from fastprune.data.splits import draw_rows
from fastprune.data.tasks import Task
from fastprune.errors import InputError
from fastprune.export.runtimes import RECORD, read_config
from fastprune.model import checkpoint
from fastprune.problem import problem_for, problem_of


def task_of(
    folder: str | Path,
    text_columns: tuple[str, ...],
    label_column: str | None,
    metric: str | None = None,
    max_length: int | None = None,
    *,
    judged: bool = True,
) -> Task:
    """What a table is for: of a pruned model by its own record, of any other as when it is pruned.

    Rows that are not ``judged`` need no label.
    """
    files = [file for name in (checkpoint.MANIFEST, RECORD) if (file := Path(folder, name)).is_file()]
    known = checkpoint.read_object(files[0]) if files else {}
    if not files or (files[0].name == RECORD and "problem" not in known):  # exported from a dense model
        usual = None if judged else without_labels(problem_for(checkpoint.load_config(str(folder))))
        return table_task(str(folder), text_columns, label_column, metric or usual, max_length)
    try:
        problem, columns, length = known["problem"], tuple(known["text_columns"]), known["max_length"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{files[0]}: names no problem and no text columns; prune the model again") from error
    usual = None if judged else without_labels(problem)
    return judged_task(
        known.get("task", "table"),
        problem,
        text_columns or columns,
        label_column,
        metric or usual,
        max_length or length,
    )


def without_labels(problem: str | None) -> str | None:
    """The metric of a problem that reads no labels, where it has one."""
    return problem_of(problem).unlabelled if problem else None


def texts_of(file: str | Path, task: Task) -> Iterator[str]:
    """Every text of a file, column after column."""
    table = read_table(file)
    if missing := [name for name in task.text_columns if name not in table.column_names]:
        raise InputError(f"{file}: no column {missing[0]!r}; the columns are {table.column_names}")
    for name in task.text_columns:
        yield from (text for text in table[name] if isinstance(text, str))


def read_rows(folder: str | Path, file: str | Path, task: Task, *, labelled: bool = True, count: int = 0) -> Split:
    """The rows of a file as a folder's model reads them; with ``count``, as many of them drawn at random."""
    table, path = read_table(file), Path(folder)
    tokenizer = checkpoint.load_tokenizer(folder)
    rows = draw_rows(len(table), count, 0) if count else None
    return encode(table, tokenizer, task, read_config(path), rows=rows, labelled=labelled, for_evaluation=labelled)
