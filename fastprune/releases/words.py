"""What people give to a release (names, version numbers, reasons, tags), checked in one place before it is recorded."""

from __future__ import annotations

import re

from fastprune.errors import InputError

LONGEST = 1000
"""Characters of a reason, a tag or a name, at most."""


def sentence(text: str, what: str) -> str:
    """A text that fits into one line of the history; ``what`` names it in what is refused.

    Line breaks and other characters that cannot be seen would forge a line of the history.

    Raises
    ------
    InputError
        Nothing but blanks, more than ``LONGEST`` characters, or a character that cannot be printed.
    """
    if not text.strip():
        raise InputError(f"{what}: is empty; give some words")
    if len(text) > LONGEST:
        raise InputError(f"{what}: has {len(text)} characters, at most {LONGEST} are kept; shorten it")
    if wrong := [letter for letter in text if not letter.isprintable()]:
        raise InputError(
            f"{what}: holds the character U+{ord(wrong[0]):04X}, which cannot be printed; write it in one line of "
            "plain text"
        )
    return text


def line(text: str) -> str:
    """A text of a record in one line; what :func:`sentence` refuses, and older records may hold, is escaped."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def version_number(version: str) -> str:
    """A version as MLflow writes it: ``01`` is 1. Raises InputError for what is no number."""
    if not re.fullmatch("0*[1-9][0-9]{0,8}", version):
        raise InputError(f"{line(version)!r} is no version of a registered model; give its number, such as 3")
    return version.lstrip("0")


def model_name(name: str) -> str:
    """The name of a registered model. Raises InputError for one that MLflow or the record does not take."""
    sentence(name, "the name of a registered model")
    # A quotation mark would end the name in what MLflow is asked for.
    if name != name.strip() or set(name) & set("/:'\"`") or name in (".", ".."):
        raise InputError(
            f"{name!r} is no name of a registered model: it may hold no '/', no ':' and no quotation mark, and not "
            "begin or end with a blank; correct it"
        )
    return name
