"""Rows of words with their tags: the tokens that they make, and the first piece of each word."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from fastprune.data.labels import class_names, read_values
from fastprune.data.source import ROWS_AT_ONCE, Source, token_columns
from fastprune.errors import InputError
from fastprune.model import model_inputs
from fastprune.model.losses import IGNORED


def encode_words(source: Source, rows: np.ndarray, *, labelled: bool, for_evaluation: bool) -> pa.Table:
    """Features of these rows, a row each.

    Returns
    -------
    Table
        The model's inputs; ``labels`` at every token [length], ``IGNORED`` but at the first piece of a word; and for
        evaluation ``tags`` [words], ``first_pieces`` [words], -1 of a word that was cut or makes no token, and the
        names of the tags.
    """
    if not source.tokenizer.is_fast:
        raise InputError(
            f"{type(source.tokenizer).__name__} does not tell words from pieces; use the model's fast tokenizer"
        )
    words = _read_words(source)
    tags = _read_tags(source, words) if labelled else None
    tables = []
    for first in range(0, len(rows), ROWS_AT_ONCE):
        some = rows[first : first + ROWS_AT_ONCE]
        try:
            encoded, firsts = model_inputs.tokenize_words(
                source.tokenizer, source.config, [words[row] for row in some], source.task.max_length
            )
        except AssertionError as error:  # of byte-level tokenizers
            raise InputError(
                f"{type(source.tokenizer).__name__} cannot read single words; save it with add_prefix_space=True"
            ) from error
        columns = token_columns(encoded, source.config)
        if tags is not None:
            of_rows = [tags[row] for row in some]
            columns["labels"] = pa.array(
                [_at_tokens(len(ids), *pair) for ids, *pair in zip(encoded["input_ids"], firsts, of_rows, strict=True)],
                pa.list_(pa.int64()),
            )
            if for_evaluation:
                columns["tags"] = pa.array(of_rows, pa.list_(pa.int64()))
                columns["tag_names"] = pa.array([class_names(source.config)] * len(some), pa.list_(pa.string()))
        if for_evaluation:
            columns["first_pieces"] = pa.array(firsts, pa.list_(pa.int64()))
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def _at_tokens(length: int, firsts: list[int], tags: list[int]) -> list[int]:
    labels = [IGNORED] * length
    for piece, tag in zip(firsts, tags, strict=True):
        if piece >= 0:
            labels[piece] = tag
    return labels


def _read_words(source: Source) -> list[list[str]]:
    [name] = source.task.text_columns
    rows = source.table[name][:]
    for number, words in enumerate(rows, start=1):
        if not isinstance(words, list) or not words or not all(isinstance(word, str) and word for word in words):
            raise InputError(
                f"{source.name}: row {number} of column {name!r} is {str(words)[:60]!r}, and not a list of words; give "
                "a .conll file, or lists in a .jsonl or .parquet file"
            )
    return rows


def _read_tags(source: Source, words: list[list[str]]) -> list[list[int]]:
    name = source.task.label_column
    rows = source.table[name][:]
    for number, (tags, of) in enumerate(zip(rows, words, strict=True), start=1):
        if not isinstance(tags, list) or len(tags) != len(of):
            count = len(tags) if isinstance(tags, list) else "no list of"
            raise InputError(
                f"{source.name}: row {number} has {len(of)} words and {count} tags in column {name!r}; give each word "
                "its tag"
            )
    flat = [tag for tags in rows for tag in tags]
    places = [number for number, tags in enumerate(rows, start=1) for _ in tags]
    kind = source.table.features[name]
    numbers = iter(read_values(flat, getattr(kind, "feature", None), places, name, source.config, source.name))
    return [[next(numbers) for _ in tags] for tags in rows]
