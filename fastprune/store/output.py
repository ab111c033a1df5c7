"""Output folders: made whole or not at all, and never over another."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastprune.errors import InputError


@contextmanager
def new_folder(output_dir: str | Path) -> Iterator[Path]:
    """A folder to fill that gets its name ``output_dir`` only when all went well."""
    output_dir = Path(output_dir)
    check_absent(output_dir)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = beside(output_dir)
    partial.mkdir()
    try:
        yield partial
        _follow_umask(partial)
        check_absent(output_dir)
        partial.rename(output_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _follow_umask(folder: Path) -> None:
    """Give a new folder's files the rights that the umask leaves: some libraries write for the owner alone."""
    left = folder.stat().st_mode & 0o666  # the folder was made with all that the umask leaves
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(left)


def check_absent(output_dir: str | Path) -> None:
    """Raise InputError when ``output_dir`` exists: nothing is ever overwritten."""
    if Path(output_dir).exists():
        raise InputError(f"{output_dir}: the output folder exists; name another or remove it first")


def beside(target: Path) -> Path:
    """A hidden name beside a target that nobody else has."""
    return target.with_name(f".{target.name[:100]}-{uuid.uuid4().hex}")
