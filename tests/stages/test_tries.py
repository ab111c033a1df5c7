"""Pods that are killed: the next one finds that out, and the last one says so in place of the result."""

import os
import signal

import pytest

from fastprune.stages import steps, tries
from fastprune.stages.failures import WAS_KILLED, Failure, failure_in
from fastprune.store.storage import open_store


@pytest.fixture
def pod(tmp_path, monkeypatch):
    """A function that runs a stage in a process of its own, as Argo does in a pod, and returns how that ended."""
    monkeypatch.setenv("FASTPRUNE_ARTIFACT_ROOT", str(tmp_path / "artifacts"))
    monkeypatch.setenv("KFP_POD_NAME", "a-pod")
    names = ("importance", "chosen", "searched")

    def run(work, retries=1, task="task"):
        monkeypatch.setattr("fastprune.stages.search.search", work)
        if (process := os.fork()) == 0:
            try:
                steps.attempt("search", {name: tmp_path / task / name for name in names}, retries=retries)
                os._exit(0)
            finally:
                os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    return run


def killed(number):
    return lambda **given: os.kill(os.getpid(), number)


def done(*, searched, **given):
    searched.mkdir(parents=True)
    return {"stage": "search", "seconds": 0.0, "settings": {}, "metrics": {}}


def notes(tmp_path):
    return open_store(tmp_path / "artifacts").keys("tries/")


def test_the_pod_after_all_that_were_killed_says_so_in_the_outputs(pod, tmp_path):
    assert pod(killed(signal.SIGKILL)) == -signal.SIGKILL
    assert pod(killed(signal.SIGTERM)) != 0  # evicted
    assert len(notes(tmp_path)) == 2 and not (tmp_path / "task").exists()
    assert pod(done) == 0
    assert failure_in(tmp_path / "task" / "searched") == Failure("search", WAS_KILLED)
    assert not notes(tmp_path)


def test_a_retry_that_is_left_does_the_work(pod, tmp_path):
    assert pod(killed(signal.SIGKILL)) == -signal.SIGKILL
    assert pod(killed(signal.SIGKILL), task="another") == -signal.SIGKILL  # is none of this one's
    assert pod(done) == 0
    assert failure_in(tmp_path / "task" / "searched") is None and len(notes(tmp_path)) == 1


@pytest.mark.parametrize("lacks", ["KFP_POD_NAME", "FASTPRUNE_ARTIFACT_ROOT"])
def test_elsewhere_nothing_is_noted(pod, tmp_path, monkeypatch, lacks):
    monkeypatch.delenv(lacks)
    for _ in range(3):
        assert pod(killed(signal.SIGKILL)) == -signal.SIGKILL
    assert not (tmp_path / "artifacts").exists()


def test_a_store_that_is_away_costs_no_task(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FASTPRUNE_ARTIFACT_ROOT", str(tmp_path / "file"))
    monkeypatch.setenv("KFP_POD_NAME", "a-pod")
    with tries.noted(tmp_path / "output") as before:
        assert before == 0
    assert "whether this task was killed before is not known" in caplog.text
