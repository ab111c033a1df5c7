"""Cron lines as the Kubeflow service reads them: six fields, seconds first, in UTC."""

from __future__ import annotations

import re

from fastprune.errors import InputError

_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_DAYS = "sun mon tue wed thu fri sat".split()
_FIELDS = {"second": (0, 59, []), "minute": (0, 59, []), "hour": (0, 23, []), "day of month": (1, 31, []),
           "month": (1, 12, _MONTHS), "day of week": (0, 6, _DAYS)}
_PART = re.compile(r"(?P<all>[*?])|(?P<first>\w+)(-(?P<last>\w+))?")


def check_cron(cron: str) -> str:
    """Return a cron line with single spaces, or raise InputError.

    The service's client passes anything on, and the service takes a line of five fields, which begin with the minute
    everywhere else, for one that lacks the day of the week.
    """
    fields = cron.split()
    if len(fields) != len(_FIELDS):
        raise InputError(f"cron {cron!r} has {len(fields)} fields and needs six: {', '.join(_FIELDS)}; "
                         "'0 0 2 * * *' is every day at 02:00 UTC")
    for text, (name, (least, greatest, names)) in zip(fields, _FIELDS.items()):
        for part in text.split(","):
            _check_part(part, f"cron {cron!r}: {name} {text!r}", least, greatest, names)
    return " ".join(fields)


def _check_part(part: str, where: str, least: int, greatest: int, names: list[str]) -> None:
    spread, slash, step = part.partition("/")
    found = _PART.fullmatch(spread)
    if found is None or (slash and not (step.isdigit() and int(step))):
        raise InputError(f"{where}: {part!r} is none of *, a number, a range a-b, or one of these with a step /n")
    ends = []
    for text in filter(None, (found["first"], found["last"])):
        number = names.index(text.lower()) + least if text.lower() in names else int(text) if text.isdigit() else -1
        if not least <= number <= greatest:
            raise InputError(f"{where}: {text!r} is not in {least} to {greatest}"
                             + (f" or {names[0]} to {names[-1]}" if names else ""))
        ends.append(number)
    if ends != sorted(ends):
        raise InputError(f"{where}: the range {spread} runs backwards")
