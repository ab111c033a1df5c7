"""Commands that are killed at random moments, and what must hold afterwards.

A command runs in a fork of a process that has imported what it needs, so that the moments lie in its work.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

from fastprune.cli.main import main

LONG = os.environ.get("FASTPRUNE_FAULTS") == "long"
COUNTS = dict(zip((signal.SIGKILL, signal.SIGTERM, signal.SIGINT), (100, 30, 30) if LONG else (2, 1, 1)))
"""How many of each signal are sent at random moments."""

STATUS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
"""How a command ends by each."""

PATIENCE = 60
"""Seconds in which every process of a killed command must be gone."""


@dataclass
class Command:
    """A command of ``fastprune`` in a folder of its own.

    Attributes
    ----------
    arguments : list of str
    folder : Path
        Where it runs, with its temporary folder in it.
    variables : dict of str, optional
        Of its environment, beside those of the test.
    """

    arguments: list[str]
    folder: Path
    variables: dict[str, str] = field(default_factory=dict)
    said: Path = field(init=False)

    def __post_init__(self) -> None:
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        self.said = self.folder.parent / f"{self.folder.name}.txt"

    def start(self) -> BaseProcess:
        """Start it as the leader of a group of processes; it is that when this returns."""
        process = _CLEAN.Process(target=_lead, args=(self, own := _CLEAN.Event()))
        process.start()
        assert own.wait(PATIENCE), "the command did not begin"
        return process

    def run(self) -> float:
        """Run it to its end; return the seconds."""
        begin = time.perf_counter()
        process = self.start()
        process.join()
        assert process.exitcode == 0, self.said.read_text()
        return time.perf_counter() - begin

    def kill(
        self, number: signal.Signals, moment: float, *, all_of_it: bool, when: Callable[[], bool] = lambda: True
    ) -> bool:
        """Send a signal at a moment; return whether it came before the end.

        Parameters
        ----------
        moment : float
            Seconds after the start, or after ``when`` is so.
        all_of_it : bool
            To the whole group of processes, as a terminal does; else to the first one alone.
        when : callable
        """
        self.said.write_text("")
        process = self.start()
        while not when() and process.is_alive():
            time.sleep(0.0005)
        time.sleep(moment)
        with suppress(ProcessLookupError):  # it has ended
            (os.killpg if all_of_it else os.kill)(process.pid, number)
        process.join()
        status = process.exitcode
        assert status in (0, STATUS[number], -number), f"{number}: {status}\n{self.said.read_text()}"
        deadline = time.monotonic() + PATIENCE
        while _group_lives(process.pid):
            assert time.monotonic() < deadline, "a process stays"
            time.sleep(0.05)
        return status != 0


def moments(number: signal.Signals) -> list[tuple[float, bool]]:
    """Random moments for each kill, as parts of a run's seconds, and whether it goes to the whole group."""
    draw = random.Random(int(number))
    return [(draw.random(), draw.random() < 0.5) for _ in range(COUNTS[number])]


_CLEAN = multiprocessing.get_context("forkserver")
"""Its processes are forks of one that has no threads: a fork of the test's own may wait for a thread for ever."""

_CLEAN.set_forkserver_preload(
    [
        "fastprune.compression",
        "fastprune.cli.compress",
        "fastprune.model.modeling_fastprune",
        "fastprune.pipelines.demo",
    ]
)


def _lead(command: Command, own: Event) -> None:
    """Run a command as a process of its own would; it ends with its exit status."""
    status = 70
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
        output = os.open(command.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(output, number)
        os.chdir(command.folder)
        tempfile.tempdir = str(command.folder / "tmp")
        os.environ.update(command.variables, TMPDIR=tempfile.tempdir)
        own.set()
        main(command.arguments, standalone_mode=True)
    except KeyboardInterrupt:  # before the command could hear it
        status = STATUS[signal.SIGINT]
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
