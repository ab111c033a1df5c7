"""Reading the files that tables come in."""

import csv
import gc
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetInfo

from fastprune.data.bounds import (
    CELL_BYTES,
    NESTED_BYTES,
    OPENERS,
    RECORD_BYTES,
    JsonValues,
    Lines,
    check_shape,
    read_text,
    too_much,
)
from fastprune.data.images import read_image_folder
from fastprune.data.parquet import read_parquet
from fastprune.errors import InputError
from fastprune.store.bounded import DEPTH, TOO_DEEP, check_depth, check_regular, without_twins
from fastprune.store.copies import local

_CELLS_AT_ONCE = 100_000
"""Rows become columns some at a time: as lists of texts they take many times the memory."""

_DECODER = json.JSONDecoder(object_pairs_hook=without_twins)
"""Made once: a table of five million lines is refused in seconds."""

_ANSWERS = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])


_UNREADABLE = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, OSError, EOFError),
    *(csv.Error, zlib.error, pa.ArrowException),
)
"""What the libraries that read tables raise of a file that is none."""


def read_table(path: str | Path) -> Dataset:
    """Read a table into memory, with nothing guessed about its text.

    CSV and TSV columns are all read as text: an empty field is an empty string, and ``NA``, ``null`` or
    ``nan`` stay the words they are. TSV is read as GLUE ships it: tabs, no quoting, perhaps a byte-order
    mark. In JSONL and Parquet a null is a missing value. CSV, TSV, JSONL and JSON may be compressed
    (``.gz``, ``.bz2``).

    Parameters
    ----------
    path
        A ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file, a ``.json`` file in SQuAD's nested format, or a folder
        with a folder of images for each class; it may lie at ``s3://``.

    Returns
    -------
    Dataset
        One row a record; for SQuAD the columns ``id``, ``question``, ``context`` and ``answers``
        (``text`` and ``answer_start``, lists of equal length).

    Raises
    ------
    InputError
        If the file is missing, of an unknown type, empty, truncated, ragged or not UTF-8, or beyond a bound of
        :mod:`fastprune.data.bounds`.
    """
    path = Path(local(path))
    if path.is_dir():
        return read_image_folder(path)
    try:
        size = check_regular(path)
    except OSError as error:
        raise InputError(f"{path}: no such file ({error.strerror})") from error
    suffix = path.with_suffix("").suffix if path.suffix in OPENERS else path.suffix
    if suffix not in _READERS:
        raise InputError(f"{path}: unknown file type {suffix!r}; use one of {', '.join(_READERS)}")
    if size == 0:
        raise InputError(f"{path}: the file is empty")
    try:
        with _no_collection():
            table = _READERS[suffix](path)
        _check_cells(path, table)
        # The name travels with the table so that errors found later can still say which file is at fault.
        return Dataset(table, info=DatasetInfo(dataset_name=str(path)))
    except InputError:
        raise
    except RecursionError as error:
        raise InputError(f"{path}: its values are nested too deep for a table; make them texts") from error
    except _UNREADABLE as error:
        raise InputError(
            f"{path}: cannot be read as {suffix} ({error}); is the file complete, and its text UTF-8?"
        ) from error


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pause Python's search for cycles: rows by the million have none, and looking takes most of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _check_cells(path: Path, table: pa.Table) -> None:
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            lengths = pc.binary_length(column)
            if (longest := pc.max(lengths).as_py() or 0) > CELL_BYTES:
                row = pc.index(lengths, longest).as_py() + 1
                what = f"row {row} of column {name!r} has {longest:,} bytes"
                raise too_much(path, what, CELL_BYTES, "cut it, or drop the row")


def _read_csv(path: Path) -> pa.Table:
    csv.field_size_limit(RECORD_BYTES)
    lines = Lines(path, newline="")

    def rows() -> Iterator[list[str]]:
        for row in csv.reader(lines, strict=True):
            if row:
                yield row
            lines.record = 0

    return _table_of_strings(path, lines, rows())


def _read_tsv(path: Path) -> pa.Table:
    lines = Lines(path, newline="\n")

    def rows() -> Iterator[list[str]]:
        for line in lines:
            if line := line.rstrip("\r\n"):
                yield line.split("\t")
            lines.record = 0

    return _table_of_strings(path, lines, rows())


def _table_of_strings(path: Path, lines: Lines, rows: Iterator[list[str]]) -> pa.Table:
    """Make columns of rows as they come, some at a time; the first row names the columns."""
    header = next(rows, None)
    if header is None:
        raise InputError(f"{path}: the file is empty")
    if len(set(header)) < len(header):
        raise InputError(f"{path}: two columns have the same name; the header is {header}")
    schema = pa.schema([(name, pa.string()) for name in header])
    parts, some, done, begin = [schema.empty_table()], [], 0, lines.bytes
    for row in rows:
        if len(row) != len(header):
            raise InputError(
                f"{path}: line {lines.number} has {len(row)} fields where the header has {len(header)}: {header}"
            )
        some.append(row)
        if len(some) * len(header) >= _CELLS_AT_ONCE or lines.bytes - begin > RECORD_BYTES:
            check_shape(path, done + len(some), len(header))
            parts.append(_columns(some, schema))
            done, some, begin = done + len(some), [], lines.bytes
    check_shape(path, done + len(some), len(header))
    return pa.concat_tables([*parts, _columns(some, schema)] if some else parts).combine_chunks()


def _columns(rows: list[list[str]], schema: pa.Schema) -> pa.Table:
    return pa.table([pa.array(column, pa.string()) for column in zip(*rows, strict=True)], schema=schema)


def _read_jsonl(path: Path) -> pa.Table:
    columns: dict[str, list] = {}  # an object for each row would take twice the memory
    values, lines, rows = JsonValues(path), Lines(path, newline="\n"), 0
    for line in lines:
        lines.record = 0
        if not line.strip():
            continue
        values.add(line)
        record = _json(path, line, f"line {lines.number} is not JSON")
        if not isinstance(record, dict):
            raise InputError(f"{path}: line {lines.number} is not a JSON object")
        names = [name for name in record if name not in columns]
        check_shape(path, rows + 1, len(columns) + len(names))
        columns |= {name: [None] * rows for name in names}
        for name, column in columns.items():
            column.append(record.get(name))
        rows += 1
    if values.containers > rows:
        for column in columns.values():
            values.add_column(column)
    return _table_of_values(path, columns)


def _table_of_values(path: Path, columns: dict[str, list]) -> pa.Table:
    """Make a table of the columns, which are taken away one by one: both at once take half as much memory again."""
    names, made = list(columns), []
    for name in names:
        try:
            made.append(pa.array(columns.pop(name)))
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(f"{path}: column {name!r} mixes kinds of values ({error})") from error
    return pa.table(made, names=names)


def _json(path: Path, text: str, fault: str) -> Any:
    """Of a line or a whole file; a shape that is too deep or has a key twice is refused."""
    try:
        document = _DECODER.decode(text)
        if text.count("[") + text.count("{") > DEPTH:
            check_depth(document)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: {fault} ({error})") from error
    except (InputError, RecursionError) as error:
        told = error if isinstance(error, InputError) else TOO_DEEP
        raise InputError(f"{path}: {fault.removesuffix(' is not JSON')} {told}") from error
    return document


def _read_conll(path: Path) -> pa.Table:
    """A line for each word, its columns parted by tabs or blanks; an empty line ends a row.

    The first column is the word and the last its tag. ``-DOCSTART-`` lines, and lines at the begin of a row that start
    with ``#`` and have another number of columns, are passed over.
    """
    lines, width = Lines(path, newline="\n"), 0
    words: list[list[str]] = []
    tags: list[list[str]] = []
    inside = False
    for line in lines:
        fields = line.split("\t") if "\t" in line else line.split()
        fields = [field.strip() for field in fields]
        if not any(fields) or fields[0] == "-DOCSTART-":
            inside, lines.record = False, 0
            continue
        if not inside and fields[0].startswith("#") and len(fields) != (width or 2):
            continue
        width = width or len(fields)
        if len(fields) != width or width < 2 or not fields[0] or not fields[-1]:
            raise InputError(
                f"{path}: line {lines.number} has {len(fields)} columns where the first has {width}; give a line for "
                "each word, with the word first and its tag last"
            )
        if not inside:
            words.append([])
            tags.append([])
            inside = True
        words[-1].append(fields[0])
        tags[-1].append(fields[-1])
    check_shape(path, len(words), 2)
    kind = pa.list_(pa.string())
    return pa.table({"tokens": pa.array(words, kind), "tags": pa.array(tags, kind)})


def _read_squad(path: Path) -> pa.Table:
    text = read_text(path, NESTED_BYTES)
    JsonValues(path).add(text)
    document = _json(path, text, "the file is not JSON")
    try:
        rows = [
            {
                "id": question["id"],
                "question": question["question"],
                "context": paragraph["context"],
                "answers": {
                    key: [answer[key] for answer in question.get("answers", [])] for key in ("text", "answer_start")
                },
            }
            for article in document["data"]
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
        return pa.Table.from_pylist(rows, example_schema(labelled=True))
    except (KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise InputError(
            f"{path}: not in SQuAD's format of data, paragraphs, qas and answers ({error!r}); "
            f"one record a line belongs in a .jsonl file"
        ) from error


def example_schema(labelled: bool) -> pa.Schema:
    fields = [(name, pa.string()) for name in ("id", "question", "context")]
    return pa.schema([*fields, ("answers", _ANSWERS)] if labelled else fields)


_READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".parquet": read_parquet,
    ".json": _read_squad,
    ".conll": _read_conll,
}
