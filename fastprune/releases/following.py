"""A server that follows the champion: a command that is started again when the alias moves."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

from fastprune.errors import InputError
from fastprune.releases.record import CHAMPION
from fastprune.tracking import mlflow_store

GRACE = 30
"""Seconds that a server has to end its requests, before it is killed."""

_log = logging.getLogger(__name__)


def follow(uri: str, name: str, command: Sequence[str], every: float) -> int:
    """Run a command for the champion, and again for the next one; give its exit status when it ends by itself.

    Parameters
    ----------
    command : sequence of str
        ``{version}`` in it becomes the version's number.
    every : float
        Seconds between two looks at the alias. Where MLflow names no champion, because it is away or somebody has
        deleted the alias, the version that runs goes on.

    Raises
    ------
    InputError
        At the start: no such model, no champion, no MLflow.
    """
    version = _champion(uri, name)
    while True:
        _log.warning("%s version %s: %s begins", name, version, command[0])
        running = subprocess.Popen(
            [part.replace("{version}", version) for part in command], start_new_session=True, env=os.environ
        )
        try:
            following = _wait(uri, name, version, running, every)
        finally:
            _stop(running)
        if following is None:
            return running.returncode
        version = following


def _wait(uri: str, name: str, version: str, running: subprocess.Popen, every: float) -> str | None:
    """The next champion, once there is one; None where the command has ended by itself."""
    while True:
        with suppress(subprocess.TimeoutExpired):
            running.wait(every)
            return None
        try:
            now = _champion(uri, name)
        except InputError as error:
            _log.warning("version %s goes on: %s", version, error)
            continue
        if now != version:
            _log.warning("%s: the champion moved from version %s to version %s", name, version, now)
            return now


def _champion(uri: str, name: str) -> str:
    with mlflow_store.explained(uri):
        return str(mlflow_store.connect(uri).get_model_version_by_alias(name, CHAMPION).version)


def _stop(running: subprocess.Popen) -> None:
    """End a command with all that it has started."""
    deadline = time.monotonic() + GRACE
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(running.pid, number)
        while time.monotonic() < deadline and _alive(running):
            time.sleep(0.1)
    running.wait()


def _alive(running: subprocess.Popen) -> bool:
    running.poll()
    try:
        os.killpg(running.pid, 0)
    except ProcessLookupError:
        return False
    return True
