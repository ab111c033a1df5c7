"""Folders that a team shares: with the set-group-id bit, what is put there is the group's, whatever the umask.

``chmod g+rwxs`` makes such a folder: the system gives what is made in it the folder's group, and here it gets the
folder's rights for the group too. Elsewhere the umask alone decides.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastprune.errors import InputError


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each shared as the one that it is in."""
    for path in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        path.mkdir(exist_ok=True)
        share(path)


def share(path: Path, *, write: bool = False) -> None:
    """Give a folder or file just made the rights of the group that the folder around it has.

    Parameters
    ----------
    path : Path
    write : bool
        The group may write the file too; else it may replace it alone.
    """
    around, mode = path.parent.stat().st_mode, path.stat().st_mode
    if not around & stat.S_ISGID:
        return
    given = around & (stat.S_IRWXG | stat.S_ISGID)
    if not stat.S_ISDIR(mode):
        given &= stat.S_IRGRP | (stat.S_IWGRP if write else 0)
    if mode | given != mode:
        path.chmod(stat.S_IMODE(mode | given))


@contextmanager
def told(path: Path, what: str) -> Iterator[None]:
    """Within it a missing right is an InputError: ``path`` cannot be ``what``."""
    try:
        yield
    except PermissionError as error:
        raise InputError(
            f"{path}: cannot be {what} ({error.strerror}); name a folder that you may write to, or ask its owner: in "
            "one that a team shares (chmod g+rwxs) the group may use what any of it has made"
        ) from error
