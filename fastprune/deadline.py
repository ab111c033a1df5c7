"""Calls of servers: tried again while they fail in passing, and never waited for beyond a stated deadline."""

from __future__ import annotations

import itertools
import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

from fastprune.errors import InputError
from fastprune.store.secrets import shown

LONGEST_PAUSE = 15.0
"""Seconds between two tries at most: what a server that has come back waits for the next one."""

_log = logging.getLogger(__name__)
Answer = TypeVar("Answer")
Item = TypeVar("Item")


class Slow(Exception):
    """A try that was given up: no whole answer in its time."""


class Overdue(Exception):
    """No try had a whole answer before the deadline; the last one's error is the cause."""

    def __init__(self, attempts: int, seconds: float, last: Exception) -> None:
        tries = f"{attempts} attempt{'s' * (attempts != 1)}"
        super().__init__(f"no whole answer in {seconds:.3g} s and {tries}, the last: {shown(last)}")
        self.attempts, self.seconds = attempts, seconds


def seconds_of(variable: str, default: float) -> float:
    """The seconds that an environment variable gives. Raises InputError where it holds none."""
    text = os.environ.get(variable) or str(default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InputError(f"{variable}: {text!r} is no number of seconds above 0; correct or unset it")
    return seconds


def persist(
    call: Callable[[], Answer], *, seconds: float, passing: Callable[[Exception], bool], name: str = ""
) -> Answer:
    """What ``call`` returns, tried again with growing, random pauses while it fails in passing.

    Parameters
    ----------
    call : callable
        Must bear to be called twice, also while a former call that was given up still runs.
    seconds : float
        The deadline, from now. One try gets at most half of it, so that a second one is possible.
    passing : callable
        Whether an error may be gone at the next try.
    name : str
        What is asked for, in the warning when it is first tried again.

    Raises
    ------
    Overdue
        The deadline came first.
    Exception
        What ``call`` raised, where that does not pass.
    """
    begin = time.monotonic()
    for attempt in itertools.count(1):
        try:
            return within(call, min(seconds / 2, seconds - (time.monotonic() - begin)))
        except Exception as error:
            if not (isinstance(error, Slow) or passing(error)):
                raise
            left = seconds - (time.monotonic() - begin)
            if left < seconds / 20:
                raise Overdue(attempt, seconds - left, error) from error
            if attempt == 1:
                _log.warning("%s: %s; tried again for %.3g s at most", name, shown(error), left)
        pause = min(2.0 ** (attempt - 2), LONGEST_PAUSE) * random.uniform(0.5, 1)
        time.sleep(min(pause, left / 2))  # the last tries are near the deadline
    raise AssertionError("unreachable")


def within(call: Callable[[], Answer], seconds: float) -> Answer:
    """What ``call`` returns or raises, or Slow after some seconds.

    It runs in a thread of its own, which is left behind then: a server that sends a byte a second keeps any library
    reading. A daemon, since an interpreter that ends would wait for another.
    """
    outcome: Future[Answer] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True, name="fastprune-call").start()
    if not wait([outcome], timeout=seconds).done:
        raise Slow(f"no whole answer within {seconds:.3g} s")
    return outcome.result()


def each(call: Callable[[Item], object], items: Sequence[Item], at_once: int) -> None:
    """Call it for every item, for some of them at the same time; raise the first error, and begin no more after it.

    In daemons, as :func:`within`.
    """
    left, wrong, lock = iter(items), list[BaseException](), threading.Lock()

    def run() -> None:
        try:
            while not wrong:
                with lock:
                    item = next(left)
                call(item)
        except StopIteration:  # nothing is left
            pass
        except BaseException as error:
            wrong.append(error)

    count = min(at_once, len(items))
    threads = [threading.Thread(target=run, daemon=True, name="fastprune-call") for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise wrong[0]
