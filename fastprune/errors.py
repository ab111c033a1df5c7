"""Errors that say what is wrong in what was given, and helpers that raise them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input: the message names the file, field or shape at fault and the remedy.

    The command line prints it without a traceback and exits with status 2.
    """


class PipelineError(RuntimeError):
    """A step of a local run failed; the message names it and ends with what it said last."""


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around an import of what an extra installs: a missing package is named with the remedy."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fastprune"):
            raise
        raise InputError(
            f"this needs {error.name}, which is not installed: pip install 'fastprune[{extra}]'"
        ) from error
