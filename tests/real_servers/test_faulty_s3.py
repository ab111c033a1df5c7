"""S3 that fails, object by object and as a whole: a proxy before the real server makes the faults."""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from faults import LONG, Clock, after, flipped, lost, passed, proxy, silent, status, trickle, truncated

from fastprune.errors import InputError
from fastprune.store import copies, s3, storage
from tests.servers import BUCKET

pytestmark = pytest.mark.faults

CONTENT, OTHER = bytes(range(250)) * 20, bytes(range(250, 0, -1)) * 20
FILE = f"{BUCKET}/faults/file"


@pytest.fixture
def faulty(s3, monkeypatch):
    """The S3 server behind a proxy that the environment names, with a file and a client that goes past the proxy."""
    with proxy(s3.meta.endpoint_url) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.address)
        monkeypatch.setattr("fastprune.store.s3._lost", [])  # of a process of its own
        for found in s3.list_objects_v2(Bucket=BUCKET, Prefix="faults/").get("Contents", []):
            s3.delete_object(Bucket=BUCKET, Key=found["Key"])
        put(s3, CONTENT)
        yield SimpleNamespace(proxy=made, direct=s3)


def put(client, content):
    client.put_object(Bucket=BUCKET, Key="faults/file", Body=content)


def read(_):
    """As a table or a model is read."""
    return copies.local(f"s3://{FILE}").read_bytes()


def create(_):
    return storage.open_store(f"s3://{BUCKET}/faults").create("made", b"content")


def upload(folder):
    (folder / "file").write_bytes(CONTENT)
    store = storage.open_store(f"s3://{BUCKET}/faults")
    store.upload(folder / "file", "up", storage.sha256_of(folder / "file"))
    return store.read("up")


def harm(fault, **where) -> Callable:
    return lambda faulty: faulty.proxy.harm(fault, **where)


def away(faulty):
    faulty.proxy.stop()


def restarts(faulty):
    faulty.proxy.stop()
    threading.Timer(60 if LONG else 3, faulty.proxy.start).start()


def replaced(faulty):
    faulty.proxy.harm(after(lambda: put(faulty.direct, OTHER)), path=FILE, times=1)


@dataclass(frozen=True)
class Case:
    """What fails, what is promised, and what is looked at: a value, or the message of a refusal."""

    fault: str
    promise: str
    harm: Callable
    result: object
    act: Callable = read
    ends: str = "soon"


DOWN = "one message by the deadline"
PASSES = "the whole file"
OVERDUE = r"gave no whole answer in [.\d]+ s and \d+ attempts, the last: .*; check AWS_ENDPOINT_URL"
OBJECT = {"method": "GET", "path": FILE}

CASES = [
    Case("no connection, always", DOWN, away, OVERDUE, ends="deadline"),
    Case("no connection during a restart", PASSES, restarts, CONTENT, ends="later"),
    Case("500, always", DOWN, harm(status(500)), OVERDUE, ends="deadline"),
    Case("503, four times", PASSES, harm(status(503), times=4), CONTENT, ends="later"),
    Case("500 to four uploads", PASSES, harm(status(500), method="PUT", times=4), CONTENT, upload, ends="later"),
    Case("403", "refused at once", harm(status(403), **OBJECT), "have no permission"),
    Case("no answer, ever", DOWN, harm(silent), OVERDUE, ends="deadline"),
    Case("no answer, once", PASSES, harm(silent, times=1), CONTENT, ends="later"),
    Case("ten bytes a second", DOWN, harm(trickle(10), **OBJECT), OVERDUE, ends="deadline"),
    Case("ten bytes a second, head too", DOWN, harm(trickle(10, head=True)), OVERDUE, ends="deadline"),
    Case("ten bytes a second, once", PASSES, harm(trickle(10), times=1, **OBJECT), CONTENT, ends="later"),
    Case("half a body, always", DOWN, harm(truncated, **OBJECT), OVERDUE, ends="deadline"),
    Case("half a body, once", PASSES, harm(truncated, times=1, **OBJECT), CONTENT, ends="later"),
    Case("a flipped bit, once", PASSES, harm(flipped(), times=1, **OBJECT), CONTENT),
    Case("a flipped bit, always", "fetched twice, then refused by name", harm(flipped(), **OBJECT), "its md5 is"),
    Case("another object of its size after the listing", "refused, not kept", replaced, "changed after it was listed"),
    Case("the answer to a put is lost", "it counts as written", harm(lost, method="PUT", times=1), True, create),
    Case("a connection without faults", PASSES, harm(passed), CONTENT),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.fault)
def test_what_a_fault_costs(case, faulty, told, monkeypatch, tmp_path):
    seconds = s3.DEADLINE if LONG else 3.0 if case.ends == "deadline" else 12.0
    monkeypatch.setenv("FASTPRUNE_S3_DEADLINE", str(seconds))
    case.harm(faulty)
    clock = Clock()
    try:
        found = case.act(tmp_path)
    except InputError as error:
        found = str(error)
    taken, said = clock.seconds, re.sub(r"\S+://\S+", "...", found) if isinstance(found, str) else "as promised"
    told("S3", case.fault, case.promise, taken, said)
    if not isinstance(case.result, str):
        assert found == case.result
        assert taken < seconds
        return
    assert re.search(case.result, str(found)) and f"s3://{BUCKET}/" in found
    assert taken < (seconds if case.ends == "deadline" else 0) + 10  # a busy machine is slow between two calls too
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_fault_leaves_nothing_that_hinders_the_next_try(faulty, monkeypatch, tmp_path):
    for fault, seconds in ((trickle(10), 3), (truncated, 3), (flipped(), 20), (flipped(checksum=True), 20)):
        monkeypatch.setenv("FASTPRUNE_S3_DEADLINE", str(seconds))
        faulty.proxy.harm(fault, **OBJECT)
        with pytest.raises(InputError):
            read(tmp_path)
    replaced(faulty)
    with pytest.raises(InputError):
        read(tmp_path)
    assert read(tmp_path) == OTHER
    [copy] = (tmp_path / "cache").rglob("file")
    copy.write_bytes(CONTENT)
    assert read(tmp_path) == OTHER


def test_refusals_are_not_tried_again(faulty, tmp_path):
    faulty.proxy.harm(status(403), **OBJECT)
    with pytest.raises(InputError, match="no permission"):
        read(tmp_path)
    assert [path for method, path in faulty.proxy.asked if FILE in path and method == "GET"] == [f"/{FILE}"]
