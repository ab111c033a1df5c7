"""Steps as forks of a process that has torch imported."""

import json
import os
import signal
import time

import pytest
from kfp import local

from fastprune.components import component
from fastprune.pipelines import fork_server
from fastprune.pipelines.fork_server import forked_steps

pytestmark = pytest.mark.filterwarnings("ignore:You may be attemping to run a task")


@component
def tell(path: str, fate: str):
    """Say where it runs, and then end in some way."""
    import json
    import os
    import signal
    import sys

    with open(path, "w", encoding="utf-8") as file:
        json.dump(
            {
                "process": os.getpid(),
                "torch": "torch" in sys.modules,
                "folder": os.getcwd(),
                "given": os.environ.get("FASTPRUNE_GIVEN"),
            },
            file,
        )
    print("a line of its own", file=sys.stderr)
    if fate == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fate == "kills the server":
        os.kill(os.getppid(), signal.SIGKILL)
    if fate == "raises":
        raise ValueError("what went wrong")


@pytest.fixture(scope="module", autouse=True)
def forking(tmp_path_factory):
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path_factory.mktemp("root")))
    with forked_steps():
        yield


def test_a_step_is_a_process_of_its_own_that_imports_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FASTPRUNE_GIVEN", "since the server started")
    monkeypatch.chdir(tmp_path)
    seen = []
    for name in ("one", "two"):
        tell(path=str(tmp_path / name), fate="ends")
        seen.append(json.loads((tmp_path / name).read_text()))
    assert len({os.getpid(), *(one["process"] for one in seen)}) == 3
    for one in seen:
        assert one["torch"] and one["folder"] == str(tmp_path) and one["given"] == "since the server started"
    assert capsys.readouterr().out.count("a line of its own") == 2


@pytest.mark.parametrize("fate", ["killed", "raises"])
def test_a_step_that_fails_fails_alone(fate, tmp_path, capsys):
    with pytest.raises(RuntimeError, match="tell"):
        tell(path=str(tmp_path / "told"), fate=fate)
    said = capsys.readouterr().out
    assert ("ValueError: what went wrong" in said) == (fate == "raises")
    assert ("ChildProcessError: the step, or" in said) == (fate == "killed")
    tell(path=str(tmp_path / "again"), fate="ends")
    assert (tmp_path / "again").exists()


def test_without_the_process_to_fork_from_a_step_says_so(tmp_path, capsys):
    with forked_steps():
        tell(path=str(tmp_path / "last"), fate="kills the server")
        with pytest.raises(RuntimeError, match="tell"):
            tell(path=str(tmp_path / "never"), fate="ends")
    assert "the process that steps are forked from, was killed" in capsys.readouterr().out
    assert (tmp_path / "last").exists() and not (tmp_path / "never").exists()


def test_ctrl_c_while_it_imports_is_not_answered_with_a_stack_trace(capfd):
    life, held = os.pipe()
    requests, server = fork_server._start({}, life)
    for _ in range(40):
        server.send_signal(signal.SIGINT)
        time.sleep(0.01)
    assert server.poll() is None
    server.kill()
    server.wait()
    requests.close()
    os.close(life)
    os.close(held)
    assert not capfd.readouterr().err
