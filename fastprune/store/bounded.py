"""Reading what others wrote, within bounds: regular files of a stated size, JSON and YAML of a stated shape.

Every reader of a file gets its bytes here, so that a pipe, a device or a file without end is refused by name and does
not hang or fill the memory. `SECURITY.md` lists the bounds.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from fastprune.errors import InputError

DOCUMENT_BYTES = 8 << 20
"""No JSON document is longer: a manifest, a record, config.json, a look-up table."""

CONFIG_BYTES = 256 << 10
"""No configuration and no policy is longer."""

DEPTH = 50
"""Lists and mappings within each other."""

DIGITS = 40
"""Characters of a number."""

TOO_DEEP = f"is nested more than {DEPTH} deep; is it the right file?"

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def check_regular(path: str | Path, most: int | None = None) -> int:
    """The size of a file in bytes, once it has proved to be a regular one of at most ``most`` bytes.

    Raises
    ------
    InputError
        It is a folder, a pipe, a socket or a device, or longer.
    OSError
        It is not there, or may not be looked at.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "of an unknown kind")
        raise InputError(f"{path}: is {kind}, not a file; give a regular file")
    if most is not None and status.st_size > most:
        raise InputError(f"{path}: has {status.st_size:,} bytes, and at most {most:,} are read; is it the right file?")
    return status.st_size


def read_bytes(path: str | Path, most: int = DOCUMENT_BYTES) -> bytes:
    """The content of a regular file of at most ``most`` bytes. Raises as :func:`check_regular`."""
    check_regular(path, most)
    with open(path, "rb", opener=_without_waiting) as file:
        content = file.read(most + 1) or b""
    if len(content) > most:  # files of /proc say that they are empty, and others grow
        raise InputError(f"{path}: has more than the {most:,} bytes that are read; is it the right file?")
    return content


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # some files of /proc never answer


def decode(content: bytes, name: object) -> str:
    """Text of UTF-8 bytes. Raises InputError that names the first byte that is none."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name}: not UTF-8 text (byte {content[error.start]:#04x} at {error.start}); save it as UTF-8"
        ) from error


def parse_json(content: bytes, name: object) -> Any:
    """Read a JSON document of a bounded shape.

    Parameters
    ----------
    content : bytes
    name : object
        What it is, in what is refused.

    Raises
    ------
    InputError
        It is longer than ``DOCUMENT_BYTES``, not UTF-8 or not JSON, has a key twice in one object, is nested more
        than ``DEPTH`` deep, or has a whole number of more than ``DIGITS`` characters or text that is no Unicode.
    """

    if len(content) > DOCUMENT_BYTES:
        raise InputError(f"{name}: has {len(content):,} bytes, and at most {DOCUMENT_BYTES:,} are read")
    text = decode(content, name)
    try:
        document = json.loads(text, object_pairs_hook=without_twins, parse_int=_bounded_integer)
        check_depth(document)
        if _SURROGATE.search(text):  # else no text of the document can be one that no file may hold
            json.dumps(document, ensure_ascii=False).encode()
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except RecursionError as error:
        raise InputError(f"{name}: {TOO_DEEP}") from error
    except UnicodeEncodeError as error:
        raise InputError(f"{name}: has half of a Unicode character (\\ud800 to \\udfff alone); correct it") from error
    except ValueError as error:
        raise InputError(f"{name}: not JSON ({error})") from error
    return document


def read_json(path: str | Path) -> Any:
    """The JSON document in a file. Raises as :func:`read_bytes` and :func:`parse_json`."""
    return parse_json(read_bytes(path), path)


def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, of which no key is there twice. Raises InputError, which does not know the file."""
    document = dict(pairs)
    if len(document) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise InputError(f"has the key {twice[:80]!r} twice in one object; leave one of the two out")
    return document


def check_depth(document: object) -> None:
    """Raise InputError, which does not know the file, for what is nested more than ``DEPTH`` deep."""
    level = [document]
    for _ in range(DEPTH + 1):
        inner = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        level = [child for children in inner for child in children]
    if level:
        raise InputError(TOO_DEEP)


def _bounded_integer(digits: str) -> int:
    if len(digits) > DIGITS:
        raise InputError(f"has a number of {len(digits)} characters; at most {DIGITS} are read")
    return int(digits)


def parse_yaml(text: str, name: object) -> tuple[Any, yaml.Node | None]:
    """Read a YAML document (or JSON) of plain values: mappings, lists, texts, numbers, true, false and null.

    Parameters
    ----------
    text : str
    name : object
        What it is, in what is refused.

    Returns
    -------
    document : object
    node : yaml.Node or None
        The same with its lines; None for an empty text.

    Raises
    ------
    InputError
        It is not YAML, longer than ``CONFIG_BYTES``, or has a key twice, an alias, a tag, a control character, more
        than ``DEPTH`` levels or a number of more than ``DIGITS`` characters. The message names the line.
    """
    if len(text) > CONFIG_BYTES:
        raise InputError(f"{name}: has {len(text):,} characters, and at most {CONFIG_BYTES:,} are read")
    try:
        loader = _Loader(text)
        loader.name = str(name)
        node = loader.get_single_node()
        return (None if node is None else loader.construct_document(node)), node
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}, line {mark.line + 1}" if mark else name
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{where}: not YAML ({problem})") from error


class _Loader(yaml.SafeLoader):
    """A loader of plain values, which looks at the shape before anything is made of it."""

    name: str
    depth = 0

    def refuse(self, node: yaml.Node | yaml.Event, fault: str) -> InputError:
        return InputError(f"{self.name}, line {node.start_mark.line + 1}: {fault}")

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise self.refuse(event, f"*{event.anchor} stands for another part; write that part out")
        if event.tag is not None:
            raise self.refuse(event, f"the tag {event.tag[:80]} is not read; leave it out, and quote what is text")
        if self.depth > DEPTH:
            raise self.refuse(event, f"nested more than {DEPTH} deep; is it the right file?")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if found := _CONTROL.search(node.value):
            raise self.refuse(node, f"has the control character {found[0]!r}; remove it")
        if node.tag.endswith((":int", ":float")) and len(node.value) > DIGITS:
            raise self.refuse(node, f"a number of {len(node.value)} characters; at most {DIGITS} are read")
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self.refuse(key, "a key is a word, not a list or a mapping")
            if key.value in seen:
                raise self.refuse(key, f"the key {key.value[:80]} is here a second time; leave one of the two out")
            seen.add(key.value)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int | str:
        try:
            return super().construct_yaml_int(node)
        except ValueError:  # such as `0x_`, which looks like a number to YAML and is none
            return node.value


_PLAIN = ("null", "bool", "int", "float")
_Loader.yaml_implicit_resolvers = {  # without dates and merged mappings: those are texts
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] in _PLAIN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
