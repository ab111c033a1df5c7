"""What is made of S3's answers; tests/real_servers has the same against a real server."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    IncompleteReadError,
    NoCredentialsError,
    ReadTimeoutError,
    SSLError,
)

from fastprune import deadline
from fastprune.errors import InputError, Unreachable
from fastprune.store import s3, storage

WHOLE, OTHER = b"whole", b"other"
MD5, SHA256 = hashlib.md5(WHOLE).hexdigest(), hashlib.sha256(WHOLE).hexdigest()


def store(bodies, **headers):
    """A store whose server gives these contents in turn, with these headers; and what it was asked for."""
    asked, left = [], list(bodies)

    def get_object(**given):
        asked.append(given)
        body = SimpleNamespace(iter_chunks=lambda _: iter([left.pop(0)]))
        return {"ETag": f'"{MD5}"', "Metadata": {}, "Body": body} | headers

    client = SimpleNamespace(get_object=get_object, meta=SimpleNamespace(endpoint_url="http://s3"))
    return s3.S3Store("bucket", "", client), asked


@pytest.mark.parametrize(
    "headers, given",
    [
        ({}, {}),
        ({"ServerSideEncryption": "AES256"}, {}),
        ({"ETag": '"' + 32 * "0" + '-2"', "Metadata": {"sha256": SHA256}}, {}),
        ({"ETag": '"anything"'}, {"sha256": SHA256}),
    ],
)
def test_bad_bytes_are_fetched_again_once_and_then_refused(tmp_path, headers, given):
    found, asked = store([OTHER, WHOLE], **headers)
    assert found.download("key", tmp_path / "file", **given)
    assert (tmp_path / "file").read_bytes() == WHOLE and len(asked) == 2
    found, asked = store([OTHER, OTHER], **headers)
    with pytest.raises(InputError, match="s3://bucket/key: fetched twice, and its (md5|sha256) is .*: .* again"):
        found.download("key", tmp_path / "second", **given)
    assert len(asked) == 2 and [path.name for path in tmp_path.iterdir()] == ["file"]
    found, asked = store([OTHER, WHOLE])
    assert found.read("key") == WHOLE and len(asked) == 2


@pytest.mark.parametrize(
    "headers",
    [
        {"ServerSideEncryption": "aws:kms"},
        {"ServerSideEncryption": "aws:kms:dsse"},
        {"SSECustomerAlgorithm": "AES256"},
        {"ETag": '"' + 32 * "0" + '-2"'},
        {"ETag": '"of its own kind"'},
    ],
)
def test_an_etag_that_is_no_md5_is_not_taken_for_one(headers):
    assert store([OTHER], **headers)[0].read("key") == OTHER


def test_the_listed_object_is_asked_for_and_no_other(tmp_path):
    found, asked = store([WHOLE])
    assert found.download("key", tmp_path / "file", etag=f'"{MD5}"') and asked[0]["IfMatch"] == f'"{MD5}"'
    with pytest.raises(InputError, match="s3://bucket/key: changed after it was listed"):
        store([WHOLE])[0].download("key", tmp_path / "file", etag='"listed"')


def answered(status, code="x"):
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


@pytest.mark.parametrize(
    "error, passes",
    [
        (answered(500), True),
        (answered(503, "SlowDown"), True),
        (answered(400, "BadDigest"), False),
        (answered(403, "AccessDenied"), False),
        (answered(404, "NoSuchKey"), False),
        (answered(412, "PreconditionFailed"), False),
        (EndpointConnectionError(endpoint_url="http://s3"), True),
        (ReadTimeoutError(endpoint_url="http://s3"), True),
        (IncompleteReadError(actual_bytes=1, expected_bytes=2), True),
        (SSLError(endpoint_url="http://s3", error="certificate"), False),
        (NoCredentialsError(), False),
        (ValueError(), False),
    ],
)
def test_what_may_be_gone_at_the_next_try(error, passes):
    assert s3._passes(error) is passes


def test_a_large_file_has_its_time(monkeypatch):
    monkeypatch.setenv("FASTPRUNE_S3_DEADLINE", "60")
    assert s3.deadline() == 60
    assert s3.deadline(10**9) / 2 == 30 + 1000  # one try


@pytest.fixture
def pauses(monkeypatch):
    """The pauses between tries; time passes in them alone."""
    made = []
    clock = SimpleNamespace(monotonic=lambda: sum(made), sleep=made.append)
    monkeypatch.setattr(deadline, "time", clock)
    monkeypatch.setattr(s3, "time", clock)
    monkeypatch.delenv("FASTPRUNE_S3_DEADLINE", raising=False)
    return made


@pytest.fixture
def busy(monkeypatch, pauses):
    """A server that answers 503 to everything; gives requests and pauses."""
    asked = []

    class Busy(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)
    settings = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    for name, value in (settings | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}).items():
        monkeypatch.setenv(name, value)
    yield SimpleNamespace(asked=asked, pauses=pauses)
    server.shutdown()


def test_a_server_that_is_down_is_asked_until_the_deadline(busy):
    with pytest.raises(InputError, match=r"s3://bucket/: S3 at .* gave no whole answer in \d+ s and \d+ attempts"):
        storage.open_store("s3://bucket")
    assert 0.95 * s3.DEADLINE < sum(busy.pauses) < s3.DEADLINE
    assert busy.asked == ["/bucket"] * 2 * (len(busy.pauses) + 1)  # botocore repeats each once


def away(**_):
    raise ConnectTimeoutError(endpoint_url="http://s3")


def test_many_slow_operations_cost_a_stated_time_together(monkeypatch, pauses):
    """Each operation fails at once, and is tried again until its deadline."""
    monkeypatch.setattr(s3, "_lost", [])
    store = s3.S3Store("bucket", "", SimpleNamespace(meta=SimpleNamespace(endpoint_url="http://s3"), get_object=away))
    told = []
    for _ in range(20):
        with pytest.raises(Unreachable) as refused:
            store.read("key")
        told.append(str(refused.value))
    assert refused.value.exit_code == 4
    assert 0.95 * s3.ALL * s3.DEADLINE < sum(pauses) < s3.ALL * s3.DEADLINE + 16 * s3.PROBE
    assert "waited for in all" not in told[0] and "waited for in all" in told[-1]


def record(*etags):
    """A store of objects with these ETags, and the keys that are read of it."""
    asked, lock = [], threading.Lock()

    def get_object(Key, **_):
        with lock:
            asked.append(Key)
        body = SimpleNamespace(iter_chunks=lambda _: iter([Key.encode()]))
        return {"ETag": "x", "Metadata": {}, "Body": body}

    listed = [{"Key": f"top/r/{number}", "ETag": etag, "Size": 7} for number, etag in enumerate(etags)]
    pages = SimpleNamespace(paginate=lambda **_: iter([{"Contents": listed}]))
    meta = SimpleNamespace(endpoint_url="http://s3")
    client = SimpleNamespace(get_object=get_object, get_paginator=lambda _: pages, meta=meta)
    return s3.S3Store("bucket", "top", client), listed, asked


def test_what_was_read_is_read_again_only_where_it_has_changed():
    store, listed, asked = record(*"abcde")
    whole = [f"top/r/{number}".encode() for number in range(5)]
    assert store.read_all("r/") == whole and sorted(asked) == sorted(entry["Key"] for entry in listed)
    listed[1]["ETag"] = "rewritten"
    listed.append({"Key": "top/r/5", "ETag": "f", "Size": 7})
    asked.clear()
    assert store.read_all("r/") == [*whole, b"top/r/5"] and sorted(asked) == ["top/r/1", "top/r/5"]
    del listed[0]
    assert store.read_all("r/") == [*whole[1:], b"top/r/5"]


def test_what_fails_of_many_is_raised_and_what_was_read_stays(monkeypatch):
    monkeypatch.setattr(s3, "_lost", [])
    store, _, asked = record(*("x" * 40))
    whole = store.client.get_object

    def refuse_one(Key, **given):
        if Key == "top/r/7":
            raise ClientError({"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "GET")
        return whole(Key, **given)

    store.client.get_object = refuse_one
    with pytest.raises(InputError, match="no permission"):
        store.read_all("r/")
    store.client.get_object, first = whole, set(asked)
    asked.clear()
    assert len(store.read_all("r/")) == 40 and first.isdisjoint(asked) and len(first) + len(asked) == 40
