"""Reading the files that tables come in."""

import bz2
import csv
import gzip
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo

from fastprune.errors import InputError
from fastprune.store.copies import local

_ANSWERS = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])


def read_table(path: str | Path) -> Dataset:
    """Read a table into memory, with nothing guessed about its text.

    CSV and TSV columns are all read as text: an empty field is an empty string, and ``NA``, ``null`` or
    ``nan`` stay the words they are. TSV is read as GLUE ships it: tabs, no quoting, perhaps a byte-order
    mark. In JSONL and Parquet a null is a missing value. CSV, TSV, JSONL and JSON may be compressed
    (``.gz``, ``.bz2``).

    Parameters
    ----------
    path
        A ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file, or a ``.json`` file in SQuAD's nested format; it may
        lie at ``s3://``.

    Returns
    -------
    Dataset
        One row a record; for SQuAD the columns ``id``, ``question``, ``context`` and ``answers``
        (``text`` and ``answer_start``, lists of equal length).

    Raises
    ------
    InputError
        If the file is missing, of an unknown type, empty, truncated, ragged or not UTF-8.
    """
    path = Path(local(path))
    if not path.is_file():
        raise InputError(f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
    suffix = path.with_suffix("").suffix if path.suffix in _OPENERS else path.suffix
    if suffix not in _READERS:
        raise InputError(f"{path}: unknown file type {suffix!r}; use one of {', '.join(_READERS)}")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    try:
        table = _READERS[suffix](path)
    except InputError:
        raise
    except (ValueError, OSError, EOFError, csv.Error, zlib.error) as error:
        raise InputError(
            f"{path}: cannot be read as {suffix} ({error}); is the file complete, and its text UTF-8?"
        ) from error
    # The name travels with the table so that errors found later can still say which file is at fault.
    return Dataset(table, info=DatasetInfo(dataset_name=str(path)))


def _open_text(path: Path, newline: str) -> TextIO:
    return _OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8-sig", newline=newline)


def _read_csv(path: Path) -> pa.Table:
    csv.field_size_limit(sys.maxsize)
    with _open_text(path, newline="") as file:
        reader = csv.reader(file, strict=True)
        return _table_of_strings(path, [(reader.line_num, row) for row in reader if row])


def _read_tsv(path: Path) -> pa.Table:
    with _open_text(path, newline="\n") as file:
        lines = ((number, line.rstrip("\r\n")) for number, line in enumerate(file, start=1))
        return _table_of_strings(path, [(number, line.split("\t")) for number, line in lines if line])


def _table_of_strings(path: Path, numbered: list[tuple[int, list[str]]]) -> pa.Table:
    """Make columns of rows that come with the number of their line; the first row names the columns."""
    if not numbered:
        raise InputError(f"{path}: the file is empty")
    (_, header), *body = numbered
    if len(set(header)) < len(header):
        raise InputError(f"{path}: two columns have the same name; the header is {header}")
    for line_number, row in body:
        if len(row) != len(header):
            raise InputError(
                f"{path}: line {line_number} has {len(row)} fields where the header has {len(header)}: {header}"
            )
    columns = zip(*(row for _, row in body), strict=True) if body else [()] * len(header)
    return pa.table([pa.array(column, pa.string()) for column in columns], names=header)


def _read_jsonl(path: Path) -> pa.Table:
    records = []
    with _open_text(path, newline="\n") as file:
        for line_number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    raise InputError(f"{path}: line {line_number} is not JSON ({error})") from error
                if not isinstance(record, dict):
                    raise InputError(f"{path}: line {line_number} is not a JSON object")
                records.append(record)
    names = list(dict.fromkeys(name for record in records for name in record))
    columns = []
    for name in names:
        try:
            columns.append(pa.array([record.get(name) for record in records]))
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(f"{path}: column {name!r} mixes kinds of values ({error})") from error
    return pa.table(columns, names=names)


def _read_parquet(path: Path) -> pa.Table:
    return pq.read_table(path)


def _read_squad(path: Path) -> pa.Table:
    with _open_text(path, newline="\n") as file:
        document = json.load(file)
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


_OPENERS: dict[str, Callable[..., TextIO]] = {".gz": gzip.open, ".bz2": bz2.open}
_READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".json": _read_squad,
}
