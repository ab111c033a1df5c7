"""SIGTERM and SIGINT end a program by an exception: with-blocks and finally are run."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import fastprune
from fastprune.cli.group import LazyGroup
from fastprune.signals import Terminated, interruptible

SIGNALS = pytest.mark.parametrize("number, raised", [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])


@pytest.fixture(autouse=True)
def heard():
    """As in a terminal: a shell's background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Dropping:
    """What is raised in a __del__ goes nowhere."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        os.kill(os.getpid(), self.number)


@SIGNALS
def test_one_that_comes_where_exceptions_are_dropped_comes_again(number, raised):
    hook = sys.unraisablehook
    with pytest.raises(raised), interruptible():
        Dropping(number)
        time.sleep(30)
    with pytest.raises(raised), interruptible():
        held = {number}
        reference = weakref.ref(held, lambda _: os.kill(os.getpid(), number))
        del held
        time.sleep(30)
    assert reference() is None and sys.unraisablehook is hook


@SIGNALS
def test_the_first_one_raises_and_all_is_as_before_afterwards(number, raised):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(raised), interruptible(), interruptible():
        os.kill(os.getpid(), number)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_what_is_handled_or_ignored_by_others_stays_so():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, ignored)
    assert seen == [signal.SIGTERM]


def test_in_a_thread_nothing_is_set():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with interruptible():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@click.command()
@click.argument("number", type=int)
def killed(number):
    try:
        os.kill(os.getpid(), number)
    finally:
        click.echo("cleaned up")


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_cleans_up_and_says_how_it_ended(number, status):
    group = LazyGroup(lazy={"killed": (__name__, "killed", "")})
    done = CliRunner().invoke(group, ["killed", str(int(number))])
    assert done.exit_code == status and "cleaned up\nAborted\n" in done.output


def test_a_second_one_ends_a_clean_up_that_hangs():
    script = textwrap.dedent("""
        import os, signal, time
        from fastprune.signals import interruptible
        with interruptible():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
        """)
    environment = {**os.environ, "PYTHONPATH": str(Path(fastprune.__file__).parents[1])}
    ended = subprocess.run([sys.executable, "-c", script], timeout=50, check=False, env=environment)
    assert ended.returncode == -signal.SIGTERM
