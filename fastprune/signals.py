"""SIGTERM and SIGINT (Ctrl-C) as exceptions, so that what was begun is cleaned up before the process ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Terminated(SystemExit):
    """SIGTERM came, from Kubernetes, a service manager or ``kill``. Caught by nobody it is exit status 143."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


@contextmanager
def interruptible(again: signal.Handlers = signal.SIG_DFL) -> Iterator[None]:
    """Within it the first SIGTERM raises Terminated and the first SIGINT KeyboardInterrupt, in the main thread.

    A signal that is handled or ignored by somebody already stays so.

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

    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, usual[number])
