"""Steps of a local run as forks of one process that has imported what they need.

KFP starts an interpreter for every step, which spends five seconds on importing torch, transformers and MLflow; a sweep
has dozens of steps. Forked, a step is still a process of its own and runs the program that KFP gave
it. None outlives the process that asked for it.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from unittest import mock

from fastprune.signals import interruptible
from fastprune.stages.failures import KILLED

IMPORTS = (
    "kfp.dsl.executor",
    "scipy.stats",
    "sklearn.isotonic",
    "sklearn.metrics",
    *(
        f"fastprune.{name}"
        for name in (
            "stages.importance",
            "releases.registration",
            "releases.promotion",
            "reports.report",
            "reports.summary",
        )
    ),
    *(
        f"mlflow.{name}"
        for name in (
            "pyfunc",
            "store.tracking.sqlalchemy_store",
            "store.model_registry.sqlalchemy_store",
            "system_metrics.system_metrics_monitor",
        )
    ),
    *(
        f"transformers.models.{name}"
        for name in (
            "auto.modeling_auto",
            "auto.tokenization_auto",
            "bert.modeling_bert",
            "distilbert.modeling_distilbert",
            "roberta.modeling_roberta",
        )
    ),
)


PATIENCE = 10
"""Seconds that a step has to clean up when it is stopped."""


@contextmanager
def forked_steps(temporary: str | Path | None = None) -> Iterator[Callable[[], None]]:
    """Within it, the steps that ``kfp.local.SubprocessRunner(use_venv=False)`` runs are forks.

    Parameters
    ----------
    temporary : str or Path, optional
        The temporary folder of the steps; by default that of this process.

    Yields
    ------
    callable
        Stops the step that runs, and lets no other one begin; of any thread.
    """
    from kfp.local import subprocess_task_handler

    servers = _Servers({} if temporary is None else {"TMPDIR": str(temporary)})
    try:
        # Of KFP's local runners this is the one place where a process is started; KFP has no setting for it.
        with mock.patch.object(subprocess_task_handler, "run_local_subprocess", servers.run):
            yield servers.stop
    finally:
        servers.stop()
        servers.close()


class _Servers:
    """The processes that steps are forked from: one for each set of variables that a step is given.

    Some libraries read variables when they are imported. Every step ends when the last of this process does: it reads
    from a pipe that only this process could write to.
    """

    def __init__(self, given: Mapping[str, str]):
        self.given, self.stopped, self.lock = given, False, threading.Lock()
        self.servers: dict[tuple, tuple[socket.socket, subprocess.Popen]] = {}
        self.life, self._held = os.pipe()

    def run(self, full_command: Sequence[str], env_vars: Mapping[str, str] | None = None) -> int:
        """What KFP's function does: print what the step says, line by line; return its exit status.

        A step that was killed cannot say so in its outputs: it is called once more, to do only that.
        """
        given = {**self.given, **(env_vars or {})}
        status = _run(self._server(given), full_command, given)
        if status == -signal.SIGKILL:
            status = _run(self._server(given), full_command, {**given, KILLED: "1"})
        self._check()
        return status

    def _server(self, given: Mapping[str, str]) -> socket.socket:
        with self.lock:
            self._check()
            key = tuple(sorted(given.items()))
            if key not in self.servers:
                self.servers[key] = _start(given, self.life)
            return self.servers[key][0]

    def _check(self) -> None:
        if self.stopped:  # KFP goes on after a step that fails, not after this
            raise RuntimeError("the run was stopped")

    def stop(self) -> None:
        """Let the step that runs end, and no other one begin."""
        with self.lock:
            if not self.stopped:
                os.close(self._held)
            self.stopped = True

    def close(self) -> None:
        """End the servers; the steps have ended, or do so by themselves."""
        for ours, server in self.servers.values():
            ours.close()
            server.kill()
            server.wait()
        os.close(self.life)


def _start(given: Mapping[str, str], life: int) -> tuple[socket.socket, subprocess.Popen]:
    """A server, and the socket that requests go into."""
    ours, theirs = socket.socketpair()
    environment = {
        **os.environ,
        "_KFP_RUNTIME": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        **given,
    }
    # Ctrl-C goes to it too, and until it ignores that, it would be answered with the stack trace of an import.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        server = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno()), str(life)],
            env=environment,
            pass_fds=[theirs.fileno(), life],
            stdin=subprocess.DEVNULL,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return ours, server


def _run(server: socket.socket, full_command: Sequence[str], given: Mapping[str, str]) -> int:
    program, *arguments = full_command[full_command.index("-ec") + 2 :]
    read_output, output = os.pipe()
    read_status, status = os.pipe()
    with tempfile.TemporaryFile("w+") as request:
        json.dump(
            {
                "program": program,
                "arguments": arguments,
                "folder": os.getcwd(),
                "environment": {**os.environ, "_KFP_RUNTIME": "true", **given},
            },
            request,
        )
        request.seek(0)
        with suppress(BrokenPipeError):  # nobody there: as one who is killed, it tells no status
            socket.send_fds(server, [b"."], [request.fileno(), output, status])
    os.close(output)
    os.close(status)
    with open(read_output, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            print(line, end="")
    with open(read_status) as told:
        failed = told.read()
    if not failed:
        print(
            "ChildProcessError: the step, or the process that steps are forked from, was killed; if it was for its "
            "memory, take a smaller batch_size"
        )
    return int(failed or -signal.SIGKILL)


def serve(requests: socket.socket, life: int) -> None:
    """Fork for every request, until there can be no more.

    Parameters
    ----------
    requests : socket
    life : int
        The end of a pipe: what is read from it ends when the steps are to end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks for steps ends it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    for name in IMPORTS:
        import_module(name)
    gc.freeze()  # a collection in a fork would copy every page
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    while given := socket.recv_fds(requests, 1, 3)[1]:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            requests.close()
            threading.Thread(target=_end_with, args=(life,), daemon=True).start()
            with interruptible(again=signal.SIG_IGN):
                _execute(*given)
            os._exit(0)  # taking down all that the server imported would take seconds
        for number in given:
            os.close(number)


def _end_with(life: int) -> None:
    """End this step when the other end of the pipe is closed, which is so when its process has ended in any way."""
    os.read(life, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os.kill(os.getpid(), signal.SIGKILL)


def _execute(request: int, output: int, status: int) -> None:
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with open(request) as file:
        step = json.load(file)
    os.environ.clear()
    os.environ.update(step["environment"])
    os.chdir(step["folder"])
    failed = 1
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "ephemeral_component.py")
        program.write_text(step["program"], encoding="utf-8")
        sys.argv = ["executor_main", "--component_module_path", str(program), *step["arguments"]]
        try:
            runpy.run_module("kfp.dsl.executor_main", run_name="__main__")
            failed = 0
        except BaseException:
            traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(status, str(failed).encode())


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
