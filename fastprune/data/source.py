"""A table with what it is read by: its texts, checked, and the tokens that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import transformers
from datasets import Dataset

from fastprune.data.splits import arrow_of
from fastprune.data.tasks import Task
from fastprune.errors import InputError
from fastprune.model import model_inputs

ROWS_AT_ONCE = 1_000


@dataclass(frozen=True)
class Source:
    """A table with what it is read by.

    Attributes
    ----------
    table : Dataset
    tokenizer : PreTrainedTokenizerBase
    config : PretrainedConfig
        The model's.
    task : Task
    """

    table: Dataset
    tokenizer: transformers.PreTrainedTokenizerBase
    config: transformers.PretrainedConfig
    task: Task

    @property
    def name(self) -> str:
        """The file, for messages."""
        return self.table.info.dataset_name or "the table"

    def texts(self, names: Sequence[str] = (), *, each: bool = False) -> list[pa.ChunkedArray]:
        """The text columns, once no row of them has proved to be null, empty or something else than text.

        Parameters
        ----------
        names : sequence of str
            Of the columns; by default those of the task.
        each : bool
            Every text of a row must hold something, and not one of them alone.
        """
        source, table, names, columns = self.name, self.table, names or self.task.text_columns, []
        whole = arrow_of(table.select_columns(list(dict.fromkeys(names))))
        blank = np.full(len(table), not each)
        for name in names:
            column = whole[name]
            if column.null_count:
                row = pc.index(column.is_null(), True).as_py() + 1
                raise InputError(f"{source}: row {row} has no text in column {name!r}; fill or drop it")
            kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
            if kind not in (pa.string(), pa.large_string(), pa.string_view()):
                plain = not (pa.types.is_nested(kind) or pa.types.is_binary(kind))
                remedy = "quote it" if plain else "the model reads texts: name a column of them"
                shown = str(column[0].as_py())[:80]
                raise InputError(f"{source}: row 1 of column {name!r} is {shown}, not text; {remedy}")
            columns.append(column.cast(pa.string()))
            empty = pc.equal(pc.utf8_trim_whitespace(columns[-1]), "").to_numpy()
            blank = blank | empty if each else blank & empty
        if blank.any():
            places = (" or " if each else " and ").join(map(repr, names))
            raise InputError(f"{source}: row {blank.argmax() + 1} is empty in column {places}; fill it or drop the row")
        return columns

    def tokens(self, texts: list[pa.ChunkedArray]) -> pa.Table:
        """The model's inputs of one column of texts, or of two for pairs, without padding."""
        tables = []
        for first in range(0, len(texts[0]), ROWS_AT_ONCE):
            rows = [column.slice(first, ROWS_AT_ONCE).to_pylist() for column in texts]
            encoded = model_inputs.tokenize(self.tokenizer, self.config, rows, self.task.max_length)
            tables.append(pa.table(token_columns(encoded, self.config)))
        return pa.concat_tables(tables)

    def numbers(self) -> pa.Array:
        """The label column as float32, once each of its values has proved to be a finite number."""
        name, numbers = self.task.label_column, np.empty(len(self.table), dtype=np.float32)
        for row, value in enumerate(self.table[name][:]):
            try:
                numbers[row] = float(value)
            except (TypeError, ValueError):
                numbers[row] = np.nan
            if not np.isfinite(numbers[row]):
                raise InputError(f"{self.name}: row {row + 1} of column {name!r} is {value!r}, not a number")
        return pa.array(numbers)

    def check_vocabulary(self, features: pa.Table) -> None:
        """Raise InputError for tokens that the model has not."""
        highest = pc.max(pc.list_flatten(features["input_ids"])).as_py()
        if highest is None or highest >= self.config.vocab_size:
            raise InputError(
                f"{self.name}: the tokenizer gives "
                + ("no tokens" if highest is None else f"token {highest}, beyond the model's {self.config.vocab_size}")
                + "; use the tokenizer that belongs to the model"
            )


def token_columns(encoded: Any, config: transformers.PretrainedConfig) -> dict[str, pa.Array]:
    """Return the model's inputs as columns; type ids only where the model tells one type from another."""
    types = {"input_ids": pa.int32(), "attention_mask": pa.int8(), "token_type_ids": pa.int8()}
    return {
        name: pa.array(rows, pa.list_(types[name])) for name, rows in model_inputs.inputs_of(encoded, config).items()
    }
