"""Reading a column of class labels: as a whole, by one rule.

1. The classes are named by ``id2label``, which every prediction is named by; ``LABEL_0`` always names class 0. Case is
   passed over where that leaves one class. Names of ``label2id`` count where ``id2label`` has only ``LABEL_n``. Where
   the two name a class differently, the model is refused.
2. A column of texts holds names if every text is one; else class numbers if every text is one.
3. A column of numbers holds class numbers, or names that are numbers. If both fit and they are not the same classes,
   the column is refused.

No column is read value by value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import transformers
from datasets import ClassLabel, Dataset

from fastprune.errors import InputError

_PLACEHOLDER = re.compile(r"label_\d+", re.IGNORECASE)


def class_names(config: transformers.PretrainedConfig) -> list[str]:
    """The name of every class, by number.

    Raises
    ------
    InputError
        ``label2id`` and ``id2label`` disagree, or two classes have one name.
    """
    given = {int(number): str(name) for number, name in (getattr(config, "id2label", None) or {}).items()}
    names = [given.get(number, f"LABEL_{number}") for number in range(int(config.num_labels or 0))]
    turned = {str(name): int(number) for name, number in (getattr(config, "label2id", None) or {}).items()}
    for name, number in turned.items():
        if _PLACEHOLDER.fullmatch(name) or not 0 <= number < len(names):
            continue
        if _PLACEHOLDER.fullmatch(names[number]):
            names[number] = name
        elif names[number] != name:
            raise InputError(
                f"config.json names class {number} {names[number]!r} in id2label and {name!r} in label2id; correct "
                "label2id, or remove it: predictions are named by id2label"
            )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"config.json gives the name {twice[0]!r} to two classes in id2label; give each its own")
    return names


def read_classes(
    table: Dataset, column: str, config: transformers.PretrainedConfig, source: str = "the table"
) -> pa.Array:
    """Class numbers [rows] of a label column, by the rule above.

    Raises
    ------
    InputError
        A row has no label or one that is not the model's, or the column can be read in two ways.
    """
    values = table[column][:]
    for row, value in enumerate(values, start=1):
        if isinstance(value, list):
            raise InputError(
                f"{source}: row {row} of column {column!r} is a list, and the model gives each row one label; for "
                'several set problem_type "multi_label_classification" in its config.json'
            )
    rows = list(range(1, len(values) + 1))
    return pa.array(read_values(values, table.features[column], rows, column, config, source))


def read_values(
    values: Sequence[Any],
    kind: Any,
    rows: Sequence[int],
    column: str,
    config: transformers.PretrainedConfig,
    source: str = "the table",
) -> np.ndarray:
    """Class numbers [values] of the labels of a whole column, by the rule above.

    Parameters
    ----------
    values : sequence
        Rows may hold any number of them.
    kind : feature of datasets
        What the table says of them.
    rows : sequence of int
        The row that each value is of, counted from 1.

    Raises
    ------
    InputError
        As :func:`read_classes`.
    """
    names = class_names(config)
    exact, folded = _lookup(names)
    if isinstance(kind, ClassLabel) and all(own in exact or own.casefold() in folded for own in kind.names):
        # The numbers are the table's; where the model knows the same names it may number them differently.
        values = [kind.names[value] if value in range(len(kind.names)) else value for value in values]
    for row, value in zip(rows, values, strict=True):
        if value is None or value == "":
            raise InputError(f"{source}: row {row} has no label in column {column!r}; {_classes(names)}")

    by_name = [_by_name(value, exact, folded) for value in values]
    by_number = [_by_number(value, len(names)) for value in values]
    fits_name, fits_number = None not in by_name, None not in by_number
    if fits_name and fits_number and by_name != by_number and not any(isinstance(value, str) for value in values):
        at = next(place for place, pair in enumerate(zip(by_name, by_number, strict=True)) if pair[0] != pair[1])
        raise InputError(
            f"{source}: column {column!r} can be read in two ways: {values[at]!r} of row {rows[at]} is the name of "
            f"class {by_name[at]} and the number of class {by_number[at]}; write the labels as texts for names"
        )
    if not fits_name and not fits_number:
        raise InputError(_unreadable(values, rows, by_name, by_number, column, names, source))
    return np.array(by_name if fits_name else by_number, dtype=np.int64)


def _lookup(names: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
    """From names to numbers: as they are written, and case-folded where that stands for one class alone."""
    exact = {f"LABEL_{number}": number for number in range(len(names))}
    exact |= {name: number for number, name in enumerate(names)}
    folded: dict[str, set[int]] = {}
    for name, number in exact.items():
        folded.setdefault(name.casefold(), set()).add(number)
    return exact, {name: next(iter(numbers)) for name, numbers in folded.items() if len(numbers) == 1}


def _by_name(value: Any, exact: dict[str, int], folded: dict[str, int]) -> int | None:
    whole = None if isinstance(value, str | bool) else _whole(value)
    text = str(value) if whole is None else str(whole)
    return exact.get(text, folded.get(text.casefold()))


def _by_number(value: Any, num_classes: int) -> int | None:
    number = _whole(value)
    return number if number is not None and 0 <= number < num_classes else None


def _whole(value: Any) -> int | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() else None


def _unreadable(
    values: Sequence[Any],
    rows: Sequence[int],
    by_name: Sequence[int | None],
    by_number: Sequence[int | None],
    column: str,
    names: Sequence[str],
    source: str,
) -> str:
    """Which row does not fit the way in which the column's first label is read."""
    reading, what = (by_name, "a name") if by_name[0] is not None else (by_number, "a class number")
    at = next(place for place, number in enumerate(reading) if number is None)
    other = by_number if reading is by_name else by_name
    hint = " (-1 marks GLUE's unlabelled test rows)" if _whole(values[at]) == -1 else ""
    if at > 0 and other[at] is not None:
        hint = f"; row {rows[0]} has {what}, {values[0]!r}, and a column holds names or numbers, not both"
    return f"{source}: row {rows[at]} has the label {values[at]!r} in column {column!r}; {_classes(names)}{hint}"


def _classes(names: Sequence[str]) -> str:
    return f"the model's classes are 0 to {len(names) - 1}, named {list(names)}"
