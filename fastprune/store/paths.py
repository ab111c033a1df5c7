"""Names from outside, joined to a path of ours."""

from __future__ import annotations

import re
from pathlib import Path

from fastprune.errors import InputError

_DRIVE = re.compile(r"[A-Za-z]:")


def inside(root: str | Path, *names: str) -> Path:
    """The path below ``root`` that names from outside make; a name may have several parts, parted by ``/``.

    Raises
    ------
    InputError
        A name is empty, absolute, has a part that is empty, ``.`` or ``..``, or holds NUL, a backslash or a drive
        letter: it may lead out of the folder, on this system or on another that reads the same names.
    """
    for name in names:
        parts = name.split("/")
        if "\0" in name or "\\" in name or _DRIVE.match(name) or any(part in ("", ".", "..") for part in parts):
            raise InputError(f"{name!r}: not a name inside {root}; whatever names it may be damaged or hostile")
    return Path(root, *names)
