"""Regular expressions that a policy holds: whoever writes one must not be able to keep a promotion from ending."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from fastprune.errors import InputError

LONGEST = 500
"""Characters of an expression."""

SECONDS = 5
"""A match takes no longer. A sound one takes less than a thousandth of that; backtracking may take years."""

_MATCH = "import json, re, sys; print(re.fullmatch(*json.load(sys.stdin)) is not None)"


def check(pattern: str) -> None:
    """Raise ValueError unless this is a regular expression that can be tried."""
    if len(pattern) > LONGEST:
        raise ValueError(f"a regular expression of {len(pattern)} characters; at most {LONGEST} are read")
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{pattern!r} is not a regular expression ({error})") from error


def matches(pattern: str, value: str) -> bool:
    """Whether the whole of a value matches, tried in a process of its own that is ended when it takes too long.

    Raises
    ------
    InputError
        It took longer than ``SECONDS``.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _MATCH],
            input=json.dumps([pattern, value]),
            capture_output=True,
            text=True,
            check=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"the policy's regular expression {pattern!r} takes longer than {SECONDS} s on {value[:80]!r}; write it "
            "without a repetition inside a repetition"
        ) from error
    return done.stdout.strip() == "True"
