"""Calls that fail in passing, for good, or never end."""

import logging
import threading
from types import SimpleNamespace

import pytest

from fastprune import deadline
from fastprune.errors import InputError


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only in pauses; gives the pauses."""
    pauses = []
    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=lambda: sum(pauses), sleep=pauses.append))
    return pauses


REFUSED = ConnectionError("refused")


def fails(times, error=REFUSED):
    """A call that raises so many times, and then returns the number of calls."""
    calls = []

    def call():
        calls.append(1)
        if len(calls) <= times:
            raise error
        return len(calls)

    return call


def persist(call, seconds=120.0):
    return deadline.persist(call, seconds=seconds, passing=lambda error: isinstance(error, OSError), name="s3://b/key")


def test_pauses_grow_and_outlast_a_restart(clock, caplog):
    with caplog.at_level(logging.WARNING):
        with pytest.raises(deadline.Overdue, match=r"no whole answer in 1\d\d s and \d+ attempts, the last: refused"):
            persist(fails(1000))
    assert 0.95 * 120 < sum(clock) < 120
    assert all(base / 2 <= pause <= base for base, pause in zip((0.5, 1, 2, 4, 8, 15, 15), clock))
    assert max(clock) <= deadline.LONGEST_PAUSE and len(clock) < 20
    assert caplog.messages == ["s3://b/key: refused; tried again for 120 s at most"]


def test_pauses_are_random(clock):
    for _ in range(2):
        with pytest.raises(deadline.Overdue):
            persist(fails(1000), seconds=sum(clock) + 60)
    half = len(clock) // 2
    assert clock[:half] != clock[half:]


def test_what_comes_back_is_taken(clock):
    assert persist(fails(6)) == 7 and len(clock) == 6


def test_what_does_not_pass_is_raised_at_once(clock):
    with pytest.raises(KeyError):
        persist(fails(1, KeyError("no")))
    assert clock == []


def test_a_call_that_never_ends_is_left_behind_and_tried_again():
    end, calls = threading.Event(), []

    def hangs():
        calls.append(1)
        end.wait()

    with pytest.raises(deadline.Overdue, match=r"no whole answer in [01][.\d]* s and 2 attempts"):
        persist(hangs, seconds=1.0)
    assert len(calls) == 2
    end.set()


def test_a_second_call_may_be_whole_where_the_first_hangs():
    end, calls = threading.Event(), []

    def hangs_once():
        calls.append(1)
        return "whole" if len(calls) > 1 else end.wait()

    assert persist(hangs_once, seconds=2.0) == "whole"
    end.set()


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_a_deadline_that_is_none(monkeypatch, text):
    monkeypatch.setenv("FASTPRUNE_S3_DEADLINE", text)
    with pytest.raises(InputError, match=f"FASTPRUNE_S3_DEADLINE: '{text}' is no number of seconds"):
        deadline.seconds_of("FASTPRUNE_S3_DEADLINE", 120)


def test_a_deadline_from_the_environment(monkeypatch):
    monkeypatch.delenv("FASTPRUNE_S3_DEADLINE", raising=False)
    assert deadline.seconds_of("FASTPRUNE_S3_DEADLINE", 120) == 120
    monkeypatch.setenv("FASTPRUNE_S3_DEADLINE", "2.5")
    assert deadline.seconds_of("FASTPRUNE_S3_DEADLINE", 120) == 2.5
