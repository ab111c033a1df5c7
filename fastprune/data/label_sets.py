"""Reading a column of any number of labels a row: lists, texts of names parted by commas, or rows of 0 and 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import transformers
from datasets import Dataset

from fastprune.data.labels import class_names, read_values
from fastprune.errors import InputError


def read_label_sets(
    table: Dataset, column: str, config: transformers.PretrainedConfig, source: str = "the table"
) -> pa.Array:
    """Which of the model's labels each row has, float32 lists [rows][labels] of 0 and 1.

    A column of lists as long as the model has labels, of nothing but 0 and 1, tells of each label whether the row has
    it. Other lists, and texts parted by commas, hold names or numbers, by the rules of :mod:`fastprune.data.labels`, a
    number once a row: lists of 0 and 1 that are too short or too long are none of these.

    Raises
    ------
    InputError
        A row has no list, the same number twice, or a label that is not the model's; or the lists can be read in both
        ways.
    """
    names, kind = class_names(config), table.features[column]
    rows = [
        _row(value, names, f"{source}: row {number} of column {column!r}")
        for number, value in enumerate(table[column][:], start=1)
    ]
    count = len(names)
    if all(len(row) == count and all(value in (0, 1) and not isinstance(value, str) for value in row) for row in rows):
        if count == 2 and all(sorted(row) == [0, 1] and not isinstance(row[0], float | bool) for row in rows):
            raise InputError(
                f"{source}: column {column!r} can be read in two ways, as numbers of labels and as 0 or 1 for each; "
                "write the names of the labels"
            )
        return pa.array([[float(value) for value in row] for row in rows], pa.list_(pa.float32()))
    for number, row in enumerate(rows, start=1):
        if not any(isinstance(value, str) for value in row) and len(set(map(str, row))) < len(row):
            raise InputError(
                f"{source}: row {number} of column {column!r} has a number twice, {str(row)[:60]}; lists of 0 and 1 "
                f"hold one for each of the model's {count} labels, other lists each label once"
            )
    flat = [value for row in rows for value in row]
    places = [number for number, row in enumerate(rows, start=1) for _ in row]
    numbers = read_values(flat, getattr(kind, "feature", None), places, column, config, source)
    has = np.zeros((len(rows), count), dtype=np.float32)
    has[np.array(places, dtype=int) - 1, numbers] = 1
    return pa.array(list(has), pa.list_(pa.float32()))


def _row(value: Any, names: list[str], where: str) -> list:
    if isinstance(value, str):
        if any("," in name for name in names):
            raise InputError(
                f"{where} is a text, and a label has a comma in its name; give lists, in .jsonl or .parquet"
            )
        return [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list):
        raise InputError(
            f"{where} is {str(value)[:60]!r}, and the model gives any number of labels; give a list, or names "
            "parted by commas"
        )
    return value
