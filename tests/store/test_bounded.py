"""What is read is a regular file of a bounded size, and JSON and YAML of a bounded shape."""

import os
import socket
import time

import pytest

from fastprune.errors import InputError
from fastprune.store.bounded import CONFIG_BYTES, DEPTH, DOCUMENT_BYTES, parse_json, parse_yaml, read_bytes
from fastprune.store.documents import Document


class Note(Document):
    said: str
    by: dict[str, int] = {}


def test_a_regular_file_is_read_as_it_is(tmp_path):
    (tmp_path / "note").write_bytes(b"x" * 10)
    assert read_bytes(tmp_path / "note", 10) == b"x" * 10
    (tmp_path / "link").symlink_to("note")
    assert read_bytes(tmp_path / "link", 10) == b"x" * 10


def test_what_is_no_file_or_too_long_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_bytes(b"x" * 11)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    begin = time.perf_counter()
    for path, fault in (
        (tmp_path / "pipe", "a pipe"),
        (tmp_path / "socket", "a socket"),
        (tmp_path, "a folder"),
        ("/dev/zero", "a device"),
        (tmp_path / "long", "has 11 bytes, and at most 10 are read"),
        ("/proc/self/maps", "more than the 10 bytes"),
    ):
        with pytest.raises(InputError, match=fault) as refused:
            read_bytes(path, 10)
        assert str(path) in str(refused.value)
    assert time.perf_counter() - begin < 5
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "absent")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"[" * 100_000, "nested more than"),
        (b"[" * (DEPTH + 2) + b"]" * (DEPTH + 2), "nested more than"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "has the key 'b' twice"),
        (b"9" * 5000, "a number of 5000 characters"),
        (b'["\\ud800"]', "half of a Unicode character"),
        (b'["\xff"]', "not UTF-8 text (byte 0xff at 2)"),
        (b'["a"', "not JSON"),
        (b"", "not JSON"),
        (b" " * (DOCUMENT_BYTES + 1), "and at most 8,388,608 are read"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_json_beyond_the_bounds_is_refused_by_name(content, fault):
    with pytest.raises(InputError) as refused:
        parse_json(content, "note.json")
    assert str(refused.value).startswith("note.json") and fault in str(refused.value)


def test_json_and_yaml_within_the_bounds():
    deep = "[" * (DEPTH + 1) + "]" * (DEPTH + 1)
    assert parse_json(deep.encode(), "x") == parse_yaml(deep, "x")[0]
    smile = '["\\ud83d\\ude00", 1e3, -1, null, true]'
    assert parse_json(smile.encode(), "x") == ["\U0001f600", 1000.0, -1, None, True]
    assert parse_yaml("a: [1, 0.5, yes, ~, 2001-99-99, 0x_, =]\nb: {<<: 1}", "x")[0] == {
        "a": [1, 0.5, True, None, "2001-99-99", "0x_", "="],
        "b": {"<<": 1},
    }
    assert parse_yaml("# nothing", "x") == (None, None)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[" * 100_000, "x, line 1: nested more than 50 deep"),
        ("- " * 100_000, "x, line 1: nested more than 50 deep"),
        ("a: &a [1]\nb: [*a, *a]", "x, line 2: *a stands for another part"),
        ("a: !!binary aGk=", "x, line 1: the tag tag:yaml.org,2002:binary"),
        ("a:\n  b: 1\n  b: 2", "x, line 3: the key b is here a second time"),
        ("a: 1" + ":59" * 50_000, "x, line 1: a number of"),
        ('a: "\\ud800"', "x, line 1: has the control character"),
        ('a: "\\e[2J"', "x, line 1: has the control character"),
        ("? [a]\n: b", "x, line 1: a key is a word"),
        ("a\0b", "x: not YAML"),
        ("a: b: c", "x, line 1: not YAML"),
        ("---\na\n---\nb", "x, line 3: not YAML"),
        ("#" * (CONFIG_BYTES + 1), "x: has 262,145 characters"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_yaml_beyond_the_bounds_is_refused_with_its_line(text, fault):
    with pytest.raises(InputError) as refused:
        parse_yaml(text, "x")
    assert str(refused.value).startswith(fault)


def test_a_document_is_read_by_the_same_bounds():
    note = Note(said="yes", by={"a": 1})
    assert Note.parse(note.content, "the note", "write it again") == note
    for content, fault in (
        (b'{"said": "yes", "said": "no"}', "the key 'said' twice"),
        (b'{"said": "yes", "by": ' + b'{"a":' * 100_000, "nested more than"),
        (b'{"said": 1}', "does not fit schema version 1 .said: .*; write it again"),
    ):
        with pytest.raises(InputError, match=f"the note: .*{fault}"):
            Note.parse(content, "the note", "write it again")
