"""Cron expressions as Kubeflow Pipelines' recurring runs take them, checked before the service sees them.

The service reads them with robfig/cron v1: six fields, seconds first. It also takes five, and then reads the first for
seconds, so that ``0 2 * * *`` runs every hour. The usual libraries do not serve for this check: they take what the
service refuses (``7`` for Sunday, ``L``, ``fri-mon``), and put the seconds last or nowhere.
"""

from __future__ import annotations

from typing import NamedTuple

from fastprune.errors import InputError

EXAMPLE = "0 0 2 * * *"

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LONGEST = dict(enumerate((31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), 1))


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()  # of low, low + 1, ...


_FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of the week", 0, 6, _DAYS),
)


def check_cron(cron: str) -> str:
    """Return a cron expression with single spaces; refuse one that the service would refuse, misread, or never run.

    Parameters
    ----------
    cron : str
        Second, minute, hour, day of the month, month, day of the week, separated by spaces. A field is ``*``, ``?``, or
        numbers, ranges (``9-17``), steps (``*/15``, ``9-17/2``, ``5/20``: from 5 to the end) and lists of them
        (``0,30``); months and days also by their first three letters. Sunday is 0.

    Raises
    ------
    InputError
        Names the field at fault, what it may hold, and an example.
    """
    texts = cron.split()
    try:
        if len(texts) != len(_FIELDS):
            raise ValueError(
                f"{len(texts)} fields, not 6"
                + (f"; with seconds in front it is {' '.join(['0', *texts])!r}" if len(texts) == 5 else "")
            )
        *_, days, months, _ = (_values(text, field) for text, field in zip(texts, _FIELDS, strict=True))
        any_weekday = any(item[0] in "*?" for item in texts[5].split(","))  # else a day of either kind is enough
        if any_weekday and min(days) > max(_LONGEST[month] for month in months):
            raise ValueError(f"it never runs: no month of {texts[4]!r} has a day {min(days)}")
    except ValueError as error:
        raise InputError(
            f"cron {cron!r}: {error}. Write six fields: second minute hour day-of-month month "
            f"day-of-week, such as {EXAMPLE!r}, every day at two"
        ) from error
    return " ".join(texts)


def _values(text: str, field: _Field) -> set[int]:
    """The numbers that a field stands for."""
    values: set[int] = set()
    for item in text.split(","):
        span, *steps = item.split("/")
        bounds = span.split("-")
        if len(steps) > 1 or len(bounds) > 2 or (bounds[0] in ("*", "?") and len(bounds) > 1):
            raise _wrong(field, text, f"{item!r} is no range or step")
        if bounds[0] in ("*", "?"):
            low, high = field.low, field.high
        else:
            low = _number(bounds[0], field, text)
            high = _number(bounds[1], field, text) if len(bounds) == 2 else field.high if steps else low
        if low > high:
            raise _wrong(field, text, f"{span!r} runs backwards")
        if steps and not (_is_digits(steps[0]) and 1 <= int(steps[0]) <= field.high):
            raise _wrong(field, text, f"the step {steps[0]!r} is not 1 to {field.high}")
        values.update(range(low, high + 1, *map(int, steps)))
    return values


def _number(text: str, field: _Field, whole: str) -> int:
    if text.lower() in field.names:
        return field.low + field.names.index(text.lower())
    if not _is_digits(text) or not field.low <= int(text) <= field.high:
        raise _wrong(field, whole, f"{text!r} is out of range" if _is_digits(text) else f"{text!r} is no number")
    return int(text)


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _wrong(field: _Field, text: str, why: str) -> ValueError:
    names = f", or {field.names[0]} to {field.names[-1]}" if field.names else ""
    return ValueError(
        f"the {field.name}, {text!r}: {why} (it may be {field.low} to {field.high}{names}, *, ?, "
        "ranges, steps and lists)"
    )
