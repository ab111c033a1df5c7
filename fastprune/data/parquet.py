"""Parquet within bounds: a file of some kilobytes may stand for any number of gigabytes."""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fastprune.data.bounds import CELLS, TABLE_BYTES, check_shape, too_much
from fastprune.errors import InputError
from fastprune.store.bounded import check_regular


@dataclass(frozen=True)
class Bounds:
    """Values, and bytes of the file, of its columns and of its texts, at most."""

    values: int
    bytes: int


TABLE = Bounds(CELLS, TABLE_BYTES)
TOKENS = Bounds(1 << 30, 8 << 30)
"""Of an encoded split, which has several numbers for each token of a table's texts."""

LOOKS, LOOK_SECONDS = 3, 20
"""How often a file's columns are looked at apart, and for how long each time; milliseconds are the rule."""


def read_parquet(path: Path, most: Bounds = TABLE) -> pa.Table:
    """Read a file whole, once its sizes have proved to be within bounds.

    A text that is there many times is stored once, so that sizes on disk say little. Such columns are first read
    as they are stored, as numbers of a dictionary's texts, which gives the sum of their lengths.

    Raises
    ------
    InputError
        Too large in any way, or in an encoding whose size cannot be known before it is decoded.
    """
    check_regular(path, most.bytes)
    if not _can_be_looked_at(path):
        raise InputError(f"{path}: what it says of its columns contradicts itself; the file is damaged, write it again")
    file = pq.ParquetFile(path)
    metadata = file.metadata
    check_shape(path, metadata.num_rows, len(file.schema_arrow), most.values)
    chunks = [
        metadata.row_group(group).column(column)
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
    ]
    if sum(chunk.num_values for chunk in chunks) > most.values:
        raise too_much(path, f"has more than {most.values:,} values", most.values)
    if sum(chunk.total_uncompressed_size for chunk in chunks) > most.bytes:
        raise too_much(path, f"has more than {most.bytes:,} bytes", most.bytes)
    if metadata.num_rows * sum(map(_fixed_bytes, file.schema_arrow.types)) > most.bytes:
        raise too_much(path, f"has more than {most.bytes:,} bytes in columns of a fixed size", most.bytes)
    for chunk in chunks:
        if "DELTA_BYTE_ARRAY" in chunk.encodings:
            raise InputError(
                f"{path}: column {chunk.path_in_schema} is encoded as DELTA_BYTE_ARRAY, which is not read; write the "
                "file again with pyarrow or as .jsonl"
            )
    texts = sorted({chunk.path_in_schema for chunk in chunks if chunk.physical_type == "BYTE_ARRAY"})
    if texts:
        table = pq.ParquetFile(path, read_dictionary=texts).read(columns=texts)
        if sum(_text_bytes(chunk) for column in table.columns for chunk in column.chunks) > most.bytes:
            raise too_much(path, f"has more than {most.bytes:,} bytes of text", most.bytes)
    return file.read()


def _can_be_looked_at(path: Path) -> bool:
    """Whether looking at a file's columns leaves the process alive: of some that are damaged pyarrow aborts.

    A fork looks first. A fork of a process with threads may wait for one of them for ever, and is then begun again.
    """
    for _ in range(LOOKS):
        if (alive := _look_apart(path)) is not None:
            return alive
    raise InputError(
        f"{path}: its columns cannot be looked at within {LOOK_SECONDS} s; write it again, with fewer row groups"
    )


def _look_apart(path: Path) -> bool | None:
    """Whether a fork that looks at a file's columns stays alive; None where it has not ended in time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, for the threads
        process = os.fork()
    if process == 0:
        with suppress(BaseException):  # what raises is left to the caller, who raises the same
            faulthandler.disable()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            _look(path)
        os._exit(0)
    end = time.monotonic() + LOOK_SECONDS
    while (ended := os.waitpid(process, os.WNOHANG)) == (0, 0):
        if time.monotonic() > end:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return None
        time.sleep(0.001)
    return ended[1] == 0


def _look(path: Path) -> None:
    metadata = pq.ParquetFile(path).metadata
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            metadata.row_group(group).column(column)


def _fixed_bytes(kind: pa.DataType) -> int:
    """Bytes that every row of a type takes, its empty ones too."""
    if pa.types.is_fixed_size_list(kind):
        return kind.list_size * max(_fixed_bytes(kind.value_type), 1)
    if pa.types.is_struct(kind):
        return sum(_fixed_bytes(field.type) for field in kind)
    return kind.byte_width if pa.types.is_fixed_size_binary(kind) else 8


def _text_bytes(values: pa.Array) -> int:
    """Bytes of the texts that the dictionaries in an array stand for."""
    if pa.types.is_dictionary(values.type):
        lengths = pc.binary_length(values.dictionary)
        return pc.sum(pc.cast(lengths, pa.int64()).take(values.indices)).as_py() or 0
    return sum(map(_text_bytes, _inner(values)))


def _inner(values: pa.Array) -> Iterator[pa.Array]:
    if pa.types.is_struct(values.type):
        yield from values.flatten()
    elif pa.types.is_map(values.type):
        yield from (values.keys, values.items)
    elif pa.types.is_nested(values.type):
        yield values.flatten()
