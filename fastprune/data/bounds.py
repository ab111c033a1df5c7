"""How much of a table is read: the bounds of every format, and the lines of a text file within them."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TextIO

from fastprune.errors import InputError
from fastprune.store.bounded import check_regular

TABLE_BYTES = 512 << 20
"""Of the text of a table, decompressed, and of the file."""

NESTED_BYTES = 128 << 20
"""Of a file in SQuAD's nested format, which is read at once."""

RECORD_BYTES = 16 << 20
"""Of one row."""

CELL_BYTES = 1 << 20
ROWS, COLUMNS, CELLS = 5_000_000, 1_000, 25_000_000
LINES = 2 * ROWS
"""Of a text file, empty ones and those within quotes included."""

CONTAINERS = 3_000_000
"""Lists and objects of a file in JSON or JSON lines: they take the most time of all that a table may hold."""

OPENERS: dict[str, Callable[..., TextIO]] = {".gz": gzip.open, ".bz2": bz2.open}


def too_much(path: object, what: str, most: int, remedy: str = "take a part of its rows") -> InputError:
    return InputError(f"{path}: {what}, and at most {most:,} are read; {remedy}")


def check_shape(path: object, rows: int, columns: int, cells: int | None = None) -> None:
    """Raise InputError for a table of too many rows, columns or cells."""
    if columns > COLUMNS:
        raise too_much(path, f"has {columns:,} columns", COLUMNS, "leave out those that are not needed")
    if rows > ROWS:
        raise too_much(path, f"has more than {ROWS:,} rows", ROWS)
    if rows * columns > (cells := cells or CELLS):
        raise too_much(path, f"has more than {cells:,} cells (rows times columns)", cells)


class JsonValues:
    """Counts what JSON texts may hold at most, before anything is made of it; marks within texts count too."""

    def __init__(self, path: object):
        self.path = path
        self.containers = self.values = self.cells = 0

    def add(self, text: str) -> None:
        """Raise InputError where there may now be more values than a table has cells, or too many lists."""
        self.containers += text.count("[") + text.count("{")
        self.values += text.count(",")
        if self.containers > CONTAINERS:
            raise too_much(self.path, f"has more than {CONTAINERS:,} lists and objects", CONTAINERS)
        if self.containers + self.values > CELLS:
            raise too_much(self.path, f"has more than {CELLS:,} values", CELLS)

    def add_column(self, values: list) -> None:
        """Raise InputError where the columns so far have too many cells: each key of their objects is a column too.

        Twenty thousand objects of one key each are four hundred million cells if no two have the same.
        """
        self.cells += len(values)
        if self.cells > CELLS:
            raise too_much(self.path, f"has more than {CELLS:,} cells, with a column for each key of an object", CELLS)
        keys = dict.fromkeys(chain.from_iterable(value for value in values if isinstance(value, dict)))
        if len(keys) > COLUMNS:
            what = f"has objects with {len(keys):,} different keys in one column"
            raise too_much(self.path, what, COLUMNS, "make them texts, or leave out what is not needed")
        for key in keys:
            self.add_column([value.get(key) if isinstance(value, dict) else None for value in values])
        if lists := [value for value in values if isinstance(value, list)]:
            self.add_column([*chain.from_iterable(lists)])


class Lines:
    """The lines of a text file, which may be compressed, with their numbers.

    ``record`` is the number of the line that a row begins in: whoever joins lines to rows sets it back to 0 behind
    each, so that no row is without end.
    """

    def __init__(self, path: Path, newline: str):
        check_regular(path, TABLE_BYTES)
        self.path, self.newline = path, newline
        self.number = self.bytes = self.record = 0

    def __iter__(self) -> Iterator[str]:
        with OPENERS.get(self.path.suffix, open)(self.path, "rt", encoding="utf-8-sig", newline=self.newline) as file:
            while line := file.readline(RECORD_BYTES + 1):
                size = len(line) if line.isascii() else len(line.encode())
                self.number += 1
                self.bytes += size
                self.record += size
                if self.record > RECORD_BYTES:
                    where = f"line {self.number} belongs to a row of more than {RECORD_BYTES:,} bytes"
                    raise too_much(self.path, where, RECORD_BYTES, "is a quote left open?")
                if self.bytes > TABLE_BYTES:
                    raise too_much(self.path, f"has more than {TABLE_BYTES:,} bytes of text", TABLE_BYTES)
                if self.number > LINES:
                    raise too_much(self.path, f"has more than {LINES:,} lines", LINES)
                yield line


def read_text(path: Path, most: int) -> str:
    """The whole of a text file, decompressed, of at most ``most`` bytes."""
    check_regular(path, most)
    with OPENERS.get(path.suffix, open)(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise too_much(path, f"has more than {most:,} bytes", most, "make it a .jsonl file, or take a part of it")
    return content.decode("utf-8-sig")
