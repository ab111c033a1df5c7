"""Steps of a local run as forks of one process that has imported what they need.

KFP starts an interpreter for every step, which spends five seconds on importing torch, transformers and MLflow; a sweep
has dozens of steps. Forked, a step is still a process of its own and runs the program that KFP gave it.
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
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from unittest import mock

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


@contextmanager
def forked_steps() -> Iterator[None]:
    """Within it, the steps that ``kfp.local.SubprocessRunner(use_venv=False)`` runs are forks."""
    from kfp.local import subprocess_task_handler

    ours, theirs = socket.socketpair()
    environment = {
        **os.environ,
        "_KFP_RUNTIME": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }
    server = subprocess.Popen(
        [sys.executable, "-m", __name__, str(theirs.fileno())],
        env=environment,
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
    )
    theirs.close()
    plain = subprocess_task_handler.run_local_subprocess

    def run(full_command: Sequence[str], env_vars: Mapping[str, str] | None = None) -> int:
        """What KFP's function does: print what the step says, line by line; return its exit status.

        A step that was killed cannot say so in its outputs: it is called once more, to do only that.
        """
        given = env_vars or {}
        # Some libraries read variables when they are imported.
        start = plain if given else partial(_run, ours)
        status = start(full_command, given)
        return start(full_command, {**given, KILLED: "1"}) if status in _KILLED else status

    try:
        # Of KFP's local runners this is the one place where a process is started; KFP has no setting for it.
        with mock.patch.object(subprocess_task_handler, "run_local_subprocess", run):
            yield
    finally:
        ours.close()  # ends it
        server.wait()


_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
"""Exit statuses of a killed process, and of a shell whose process was killed."""


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


def serve(requests: socket.socket) -> None:
    """Fork for every request, until there can be no more."""
    for name in IMPORTS:
        import_module(name)
    gc.freeze()  # a collection in a fork would copy every page
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks for steps ends it
    while given := socket.recv_fds(requests, 1, 3)[1]:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            requests.close()
            _execute(*given)
            os._exit(0)  # taking down all that the server imported would take seconds
        for number in given:
            os.close(number)


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
    serve(socket.socket(fileno=int(sys.argv[1])))
