"""How long tracking may wait: for one operation, for a whole run, and for a store that failed a moment ago.

MLflow bounds one try of one request. What bounds an operation of many requests, however a server hangs, is here.
"""

from __future__ import annotations

import contextvars
import os
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from fastprune.errors import InputError

OPERATION, RUN, PROBE = 75.0, 150.0, 10.0
"""Seconds: of one operation, of all tracking of a model's run that a store made wait, of a look whether it is back."""
SLOW = 5.0
"""Seconds from which on an operation counts towards those of its run."""
RECENT = 600.0
"""Seconds for which a store that failed is only looked at by other runs."""
INTERRUPTED = 5.0
"""Seconds for closing the runs of a step that is told to stop: whoever stops it does not wait long."""

Answer = TypeVar("Answer")
_late: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("late", default=None)


class DeadlinePassed(TimeoutError):
    """An operation took longer than it may."""


def operation() -> float:
    return _seconds("FASTPRUNE_TRACKING_SECONDS", OPERATION)


def run() -> float:
    return max(_seconds("FASTPRUNE_TRACKING_RUN_SECONDS", RUN), operation())


def probe() -> float:
    return min(PROBE, operation())


def within(seconds: float, function: Callable[..., Answer], *args) -> Answer:
    """What a function returns or raises; DeadlinePassed if it has done neither in time.

    It then goes on in its thread, unheard (:func:`is_late`), and ends with the process: call only what may be done
    twice.
    """
    answers: queue.SimpleQueue = queue.SimpleQueue()
    late, context = threading.Event(), contextvars.copy_context()
    context.run(_late.set, late)

    def call() -> None:
        try:
            answers.put((context.run(function, *args), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=call, daemon=True).start()
    try:
        answer, error = answers.get(timeout=seconds)
    except queue.Empty:
        late.set()
        raise DeadlinePassed(f"no answer within {seconds:.0f} s") from None
    if error is not None:
        raise error
    return answer


def is_late() -> bool:
    """Whether whoever waited for the function that runs here has given it up."""
    late = _late.get()
    return late is not None and late.is_set()


def _seconds(name: str, default: float) -> float:
    given = os.environ.get(name, "")
    try:
        seconds = float(given) if given else default
    except ValueError:
        seconds = -1
    if not 0 < seconds < 1e6:
        raise InputError(f"{name}={given}: write the seconds as a number above 0, such as {default:.0f}")
    return seconds
