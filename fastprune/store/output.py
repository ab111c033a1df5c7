"""Output folders and files: checked before the work, made whole or not at all, and never over another."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastprune.errors import InputError
from fastprune.store.partials import partial_folder

_ELSEWHERE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # s3:// and the like; pathlib leaves one of the two slashes
_LONGEST_BELOW = "x" * 80
"""No file of an output folder has a longer name, and no hidden folder beside it."""


def check_output(output_dir: str | Path, needed: int = 0) -> None:
    """Refuse an output folder that could not be made when the work is done.

    Parameters
    ----------
    output_dir : str or Path
    needed : int
        Bytes that will be written at most.

    Raises
    ------
    InputError
        It exists, it is no place on this machine, its name is too long, a file or a link that leads nowhere is in the
        way, nothing can be written there, or the disk is full.
    """
    _check_name(output_dir)
    check_absent(output_dir)
    check_place(output_dir, needed)


def check_absent(output_dir: str | Path) -> None:
    """Raise InputError when ``output_dir`` exists: nothing is ever overwritten."""
    if os.path.isdir(output_dir):
        raise InputError(f"{output_dir}: the output folder exists; name another or remove it first")
    if os.path.lexists(output_dir):
        raise InputError(
            f"{output_dir}: {_in_the_way(output_dir)} of this name exists; name another folder or remove it first"
        )


def check_place(folder: str | Path, needed: int = 0) -> None:
    """Refuse a folder in which nothing could be written; it may exist, or is still to be made.

    Raises
    ------
    InputError
        As :func:`check_output`, but for a folder that exists.
    """
    _check_name(folder)
    here = Path(folder).absolute()
    nearest = next(path for path in (here, *here.parents) if os.path.lexists(path))
    if not os.path.isdir(nearest):
        raise InputError(f"{folder}: {nearest} is {_in_the_way(nearest)} and no folder; name another place")
    try:
        with partial_folder(nearest / "check"):
            usage = shutil.disk_usage(nearest)
    except OSError as error:
        raise InputError(
            f"{folder}: nothing can be written in {nearest} ({error.strerror}); name a folder that you may write to, "
            "on a disk with room"
        ) from error
    if usage.total and usage.free < needed:  # some network file systems tell nothing
        raise InputError(
            f"{folder}: {usage.free / 1e6:.1f} MB are free there, and {needed / 1e6:.1f} MB may be needed; make room "
            "or name a folder on another disk"
        )


def _check_name(path: str | Path) -> None:
    if _ELSEWHERE.match(str(path)):
        raise InputError(f"{path}: output is written on this machine; name a place here, and copy it from there")
    try:
        os.lstat(Path(path, _LONGEST_BELOW))
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENAMETOOLONG:
            return  # what is there, or not, is told elsewhere
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be a name here ({reason}); name another") from error


def _in_the_way(path: str | Path) -> str:
    return "a file" if os.path.exists(path) else "a link that leads nowhere"


def check_file(output: Path, what: str, read: Callable[[Path], object]) -> None:
    """Refuse a file to write that cannot be written, or that exists and is something else.

    Parameters
    ----------
    output : Path
    what : str
        What is to be written; a file that is one already may be written again.
    read : callable
        Reads one, and raises InputError for anything else.
    """
    _check_name(output)
    if output.is_symlink() or (output.exists() and not output.is_file()):
        raise InputError(f"{output} is a folder, a link or a device; name a file")
    if output.exists():
        try:
            read(output)
        except InputError as error:
            raise InputError(f"{output} exists and is no {what}; name another file") from error
    check_place(output.parent)


@contextmanager
def new_folder(output_dir: str | Path) -> Iterator[Path]:
    """A folder to fill that gets its name ``output_dir`` only when all went well.

    Raises
    ------
    InputError
        As :func:`check_output`, before or after it was filled.
    """
    output_dir = Path(output_dir)
    check_output(output_dir)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with partial_folder(output_dir) as partial:
        yield partial
        _follow_umask(partial)
        check_absent(output_dir)
        try:
            partial.rename(output_dir)
        except OSError:
            check_absent(output_dir)  # made in this very moment
            raise


def _follow_umask(folder: Path) -> None:
    """Give a new folder's files the rights that the umask leaves: some libraries write for the owner alone."""
    left = folder.stat().st_mode & 0o666  # the folder was made with all that the umask leaves
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(left)


def write_or_keep(output: Path, write: Callable[[Path], object]) -> None:
    """Write a result where it belongs; where that fails now, write it elsewhere.

    Parameters
    ----------
    output : Path
        Passed :func:`check_output` or :func:`check_file` before the result was computed.
    write : callable
        Writes the result to a path, whole or not at all.

    Raises
    ------
    InputError
        The output could not be written. The message says why, and where the result is: beside it under the first free
        name (``output-1``) if somebody else has made it meanwhile, else below the temporary folder.
    """
    try:
        write(output)
    except (OSError, InputError) as error:
        told = error if isinstance(error, InputError) else f"{output}: cannot be written ({error.strerror or error})"
        for place in _elsewhere(output):
            try:
                write(place)
            except (OSError, InputError):
                continue
            raise InputError(f"{told}; the result is kept in {place}: move it from there") from error
        raise InputError(f"{told}, and neither can {place}: the result is lost; make room and start again") from error


def _elsewhere(output: Path) -> Iterator[Path]:
    if os.path.lexists(output):
        names = (output.with_name(f"{output.name}-{number}") for number in itertools.count(1))
        yield next(name for name in names if not os.path.lexists(name))
    yield Path(tempfile.gettempdir(), f"{output.name[:100]}-{uuid.uuid4().hex[:8]}")
