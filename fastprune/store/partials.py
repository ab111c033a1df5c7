"""Hidden files and folders that are not whole yet: held while their process lives, removed by the next one after it.

Each is locked (``flock``) by the process that fills it, and the lock goes with the process, however that ends. Whoever
makes another one in the same folder first removes those that nobody holds. Another machine's may be held without the
lock being seen from here, on file systems that keep locks to themselves: they stay for a day.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

DAY = 24 * 60 * 60
"""Seconds after which what another machine left is removed."""

_NAME = re.compile(r"\..*-(?P<machine>[0-9a-f]{8})[0-9a-f]{24}\.partial", re.DOTALL)


def partial_folder(target: Path) -> AbstractContextManager[Path]:
    """A hidden folder beside ``target``, removed when the ``with`` block ends unless it was renamed in it."""
    return _held(target, Path.mkdir)


def partial_file(target: Path) -> AbstractContextManager[Path]:
    """The same as an empty file, with the rights that the umask leaves (tempfile's are the owner's alone)."""
    return _held(target, functools.partial(Path.touch, exist_ok=False))


@contextmanager
def _held(target: Path, make: Callable[[Path], object]) -> Iterator[Path]:
    remove_left(target.parent)
    partial, handle = _make(target, make)
    try:
        yield partial
    finally:
        _remove(partial)
        os.close(handle)


def remove_left(folder: Path) -> None:
    """Remove from a folder what a process that was killed has left unfinished there."""
    with suppress(OSError):
        for name in os.listdir(folder):
            if match := _NAME.fullmatch(name):
                with suppress(OSError):  # somebody else's, or just gone
                    _remove_if_left(folder / name, match["machine"] == _machine())


def _remove_if_left(partial: Path, of_this_machine: bool) -> None:
    handle = os.open(partial, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        old = time.time() - os.fstat(handle).st_mtime > DAY
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:  # a file system without locks
            of_this_machine = False
        if of_this_machine or old:
            _remove(partial)
    finally:
        os.close(handle)


def _make(target: Path, make: Callable[[Path], object]) -> tuple[Path, int]:
    while True:
        partial = _hidden(target)
        make(partial)
        try:
            handle = os.open(partial, os.O_RDONLY)
        except FileNotFoundError:  # another process took it for left, and has removed it by now
            continue
        try:
            # Shared: of a folder, which cannot be opened for writing, some file systems give no other.
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if partial.exists():
                return partial, handle
        except BlockingIOError:  # another process took it for left, before it was locked
            pass
        except OSError:  # a file system without locks
            return partial, handle
        os.close(handle)


def _hidden(target: Path) -> Path:
    start = os.fsencode(target.name)[:100].decode(errors="ignore")
    return target.with_name(f".{start}-{_machine()}{uuid.uuid4().hex[:24]}.partial")


@functools.cache
def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
