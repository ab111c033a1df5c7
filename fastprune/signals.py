"""SIGTERM and SIGINT (Ctrl-C) as exceptions, so that what was begun is cleaned up before the process ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

AGAIN = 0.01
"""Seconds after which a signal whose exception was dropped comes again."""


class Terminated(SystemExit):
    """SIGTERM came, from Kubernetes, a service manager or ``kill``. Caught by nobody it is exit status 143."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


@contextmanager
def interruptible(again: signal.Handlers = signal.SIG_DFL) -> Iterator[None]:
    """Within it the first SIGTERM raises Terminated and the first SIGINT KeyboardInterrupt, in the main thread.

    A signal that is handled or ignored by somebody already stays so. Where Python drops the exception, as it does in a
    ``__del__`` or in the callback of a weak reference, the signal comes again a moment later.

    Parameters
    ----------
    again : signal.Handlers
        What a second one does: by default it ends the process at once, whatever is being cleaned up.
    """
    usual: dict[signal.Signals, Any] = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    in_main = threading.current_thread() is threading.main_thread()  # only there handlers can be set
    ours = [number for number in usual if in_main and signal.getsignal(number) == usual[number]]

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in ours:
            signal.signal(each, again)
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    def dropped(unraisable: sys.UnraisableHookArgs) -> None:
        kinds = {Terminated: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}
        number = kinds.get(unraisable.exc_type)
        if number not in ours or threading.current_thread() is not threading.main_thread():
            return told(unraisable)
        for each in ours:
            signal.signal(each, interrupt)
        later = threading.Timer(AGAIN, os.kill, (os.getpid(), number))  # by then whoever drops it has ended
        later.daemon = True
        return later.start()

    told = sys.unraisablehook
    for number in ours:
        signal.signal(number, interrupt)
    if ours:
        sys.unraisablehook = dropped
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, usual[number])
        if ours:
            sys.unraisablehook = told
