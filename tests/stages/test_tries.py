"""Pods that are killed: the next one knows that it is another try, and the last one says so in place of the result."""

import os
import signal

import pytest

from fastprune.stages import steps
from fastprune.stages.failures import WAS_KILLED, Failure, failure_in
from fastprune.stages.tries import NODE, pods_before


@pytest.fixture
def pod(tmp_path, monkeypatch):
    """A function that runs a stage in a process of its own, as Argo does in a pod, and returns how that ended."""
    monkeypatch.delenv("FASTPRUNE_ARTIFACT_ROOT", raising=False)
    names = ("importance", "chosen", "searched")

    def run(number, work, retries=1):
        monkeypatch.setenv(NODE, f"reviews-x7k2p.root.for-loop-1.iteration(0:0).search.executor({number})")
        monkeypatch.setattr("fastprune.stages.search.search", work)
        if (process := os.fork()) == 0:
            try:
                steps.attempt("search", {name: tmp_path / name for name in names}, retries=retries)
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


def test_the_pod_after_all_that_were_killed_says_so_in_the_outputs(pod, tmp_path):
    assert pod(0, killed(signal.SIGKILL)) == -signal.SIGKILL
    assert pod(1, killed(signal.SIGTERM)) != 0  # evicted
    assert not (tmp_path / "searched").exists()
    assert pod(2, done) == 0
    assert failure_in(tmp_path / "searched") == Failure("search", WAS_KILLED)


def test_a_retry_that_is_left_does_the_work(pod, tmp_path):
    assert pod(0, killed(signal.SIGKILL)) == -signal.SIGKILL
    assert pod(1, done) == 0
    assert failure_in(tmp_path / "searched") is None


@pytest.mark.parametrize(
    "node, before",
    [
        (None, 0),
        ("", 0),
        ("reviews-x7k2p.root.tune.executor", 0),  # a task that is begun once alone
        ("reviews-x7k2p.root.for-loop-1.iteration(3:3).tune.executor", 0),
        ("reviews-x7k2p.root.for-loop-1.iteration(3:3).tune.executor(12)", 12),
    ],
)
def test_the_number_is_that_at_the_end_of_the_nodes_name(monkeypatch, node, before):
    monkeypatch.delenv(NODE, raising=False)
    if node is not None:
        monkeypatch.setenv(NODE, node)
    assert pods_before() == before
