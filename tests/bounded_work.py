"""Work on hostile input that may take only so much time and memory."""

import os
import resource
import signal
from contextlib import contextmanager
from pathlib import Path

LONG = os.environ.get("FASTPRUNE_FAULTS") == "long"
SECONDS, BYTES = 30, 4 << 30


@contextmanager
def bounded(seconds=SECONDS):
    """No more than that many seconds and ``BYTES`` more."""

    def stop(*_):
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
