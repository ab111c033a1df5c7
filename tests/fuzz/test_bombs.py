"""Files that stand for far more than they are, and names that lead out of a folder."""

import bz2
import gzip
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
from bounded_work import LONG, bounded

from fastprune.data import read_table
from fastprune.errors import InputError
from fastprune.store import copies
from fastprune.store.s3 import S3Store

pytestmark = pytest.mark.faults

BOMBS = {
    "empty lines.tsv.gz": lambda: b"a\n" + b"\n" * 10_000_001,
    "rows.tsv.gz": lambda: b"a\tb\tc\td\te\n" + b"\t\t\t\t\n" * 5_000_001,
    "columns.csv.gz": lambda: (
        b",".join(b"%d" % number for number in range(1000)) + b"\n" + (b"," * 999 + b"\n") * 26_000
    ),
    "one line.csv.gz": lambda: b"a\n" + b"x" * (64 << 20),
    "rows.jsonl.gz": lambda: b'{"a":1e5,"b":1e5,"c":1e5,"d":1e5}\n' * 3_000_001,
    "lists.jsonl.gz": lambda: (b'{"a":[' + b"[]," * 1_000_000 + b"[]]}\n") * 4,
    "values.jsonl.bz2": lambda: (b'{"a":[' + b"1," * 1_000_000 + b"1]}\n") * 26,
    "lists.json.gz": lambda: b"[" + b"[]," * 3_000_001 + b"[]]",
    "keys.jsonl.gz": lambda: b"".join(b'{"a":{"%d":1}}\n' % number for number in range(20_000)),
    "keys of keys.jsonl.gz": lambda: b"".join(b'{"a":{"%d":{"%d":1}}}\n' % (n % 1000, n % 997) for n in range(26_000)),
}
"""Tables of some kilobytes that stand for as much as may be read, and a little more."""


@pytest.mark.parametrize("name", BOMBS if LONG else ["one line.csv.gz", "lists.jsonl.gz", "keys.jsonl.gz"])
def test_a_bomb_costs_seconds(tmp_path, name):
    path = tmp_path / name
    path.write_bytes((gzip if name.endswith("gz") else bz2).compress(BOMBS[name](), 1))
    begin = time.process_time()
    with bounded(), pytest.raises(InputError, match=f"{name}: "):
        read_table(path)
    assert time.process_time() - begin < 10


WORST = {
    "rows": lambda: b'{"a":1e5,"b":1e5,"c":1e5,"d":1e5,"e":1e5,"f":1e5,"g":1e5}\n' * 3_000_000,
    "wide texts": lambda: (
        b"{%s}\n" % b",".join(b'"%c":"\xf0\x9f\x98\x80abcdefghijk"' % k for k in b"abcdefgh") * 2_990_000
    ),
    "objects": lambda: b'{"a":{"b":1}}\n' * 1_500_000,
    "objects in lists": lambda: (b'{"a":[' + b'{"b":1},' * 299_000 + b"{}]}\n") * 10,
    "keys": lambda: b"".join(b'{"a":{"%d":1}}\n' % (number % 1000) for number in range(24_000)),
}
"""JSON lines that are nearly as much as is read."""


@pytest.mark.parametrize("name", WORST if LONG else ["objects in lists"])
def test_the_worst_that_is_read_costs_half_a_minute(tmp_path, name):
    path = tmp_path / "worst.jsonl"
    path.write_bytes(WORST[name]())
    begin = time.process_time()
    with bounded(seconds=600):
        assert len(read_table(path))
    assert time.process_time() - begin < 30


KEYS = ("../out", "/out", "a/../../out", "a//b", ".", "..", "a/..", "C:/x", "a\\..\\b", "a\0b", "", "x" * 5000)


@pytest.mark.parametrize("name", KEYS)
def test_a_name_from_a_listing_stays_inside(tmp_path, monkeypatch, name):
    """S3 gives names of any kind: they become files of the cache, or are refused."""
    monkeypatch.setenv("FASTPRUNE_CACHE", str(tmp_path / "cache"))

    def download(self, key, file, **_):
        file.write_bytes(b"1")
        return True

    entry = {"Key": f"models/{name}", "ETag": '"1"', "Size": 1}
    monkeypatch.setattr(S3Store, "objects", lambda self, prefix: [entry])
    monkeypatch.setattr(S3Store, "download", download)
    monkeypatch.setattr(copies, "s3_client", lambda: SimpleNamespace(meta=SimpleNamespace(endpoint_url="http://s3")))
    with suppress(InputError):
        copies.local("s3://bucket/models")
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}
