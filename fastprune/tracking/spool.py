"""What could not be tracked, kept until it can be: one JSON document for each operation, and the files it logs.

It lies below ``FASTPRUNE_SPOOL`` (a folder or an ``s3://`` prefix), else in ``tracking/`` below the root of
``fastprune stage``, else in ``tracking/`` of ``FASTPRUNE_CACHE``: whatever is there for the model's run, its later
steps find, in whichever process. Its folders have the names of those runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from fastprune.errors import InputError
from fastprune.store import storage
from fastprune.store.bounded import parse_json
from fastprune.store.s3 import is_s3
from fastprune.store.storage import Store
from fastprune.tracking import deadlines

FOLDER = "tracking"
CLAIM = "claimed.json"
CLAIMED = 900.0
"""Seconds after which whoever claimed a spool in S3 is taken for dead."""

_root: ContextVar[str] = ContextVar("root", default="")


@contextmanager
def below(root: str | Path) -> Iterator[None]:
    """Within it, the spool lies below the root of a run of a sweep."""
    token = _root.set(str(root))
    try:
        yield
    finally:
        _root.reset(token)


def place(root: str | Path = "") -> str:
    """The folder or prefix of the spool."""
    if given := os.environ.get("FASTPRUNE_SPOOL"):
        return given
    cache = os.environ.get("FASTPRUNE_CACHE") or Path.home() / ".cache" / "fastprune"
    return f"{str(root) or _root.get() or cache}/{FOLDER}"


@dataclass(frozen=True)
class Spool:
    """The documents at a place."""

    place: str
    store: Store

    @staticmethod
    def open(at: str = "") -> Spool:
        return Spool(at or place(), storage.open_store(at or place()))

    def write(self, family: str, operation: dict) -> None:
        """Keep an operation; its files become copies of the spool's own."""
        name, files = f"{operation['at']:013d}-{uuid.uuid4().hex}", []
        for number, (file, folder) in enumerate(operation.get("files", [])):
            key = f"{family}/files/{name}/{number}/{Path(file).name}"
            self.store.upload(Path(file), f"operations/{key}", storage.sha256_of(Path(file)))
            files.append([key, folder])
        self._create(f"{family}/{name}.json", operation | ({"files": files} if files else {}))

    def families(self) -> dict[str, list[str]]:
        """The keys of every model's run, in the order of time."""
        families: dict[str, list[str]] = {}
        for key in self.store.keys("operations/"):
            families.setdefault(key.split("/")[1], []).append(key.removeprefix("operations/"))
        return families

    def keys(self, family: str) -> list[str]:
        """The operations of a model's run, in the order of time."""
        return [key for key in self._keys(family) if key.count("/") == 1 and "/slow-" not in key]

    def read(self, key: str) -> dict | None:
        """None for a key that is gone."""
        content = self.store.read(f"operations/{key}")
        if content is None:
            return None
        operation = parse_json(content, f"{self.place}/operations/{key}")
        if not isinstance(operation, dict):
            raise InputError(f"{self.place}/operations/{key}: is no operation; remove it")
        return operation

    def download(self, key: str, file: Path) -> bool:
        return self.store.download(f"operations/{key}", file)

    def delete(self, key: str) -> None:
        self.store.delete(f"operations/{key}")

    def refuse(self, key: str, operation: dict, reason: str) -> None:
        """Put an operation by that its store refuses; the caller deletes it."""
        self.store.create(f"refused/{key}", (json.dumps(operation | {"refused": reason}) + "\n").encode())

    def spent(self, family: str) -> float:
        """Seconds that a model's run has waited for its store, in all its steps."""
        slow = [key for key in self._keys(family) if "/slow-" in key]
        return sum((self.read(key) or {"seconds": 0})["seconds"] for key in slow)

    def spend(self, family: str, seconds: float) -> None:
        self._create(f"{family}/slow-{uuid.uuid4().hex}.json", {"seconds": seconds})

    def clear(self, family: str) -> None:
        """Forget a model's run of which no operation is left."""
        if not self.keys(family):
            for key in self._keys(family):
                self.delete(key)

    def is_suspect(self, store: str) -> bool:
        """Whether a store failed a moment ago."""
        content = self.store.read(_suspect(store))
        return content is not None and time.time() - _at(content) < deadlines.RECENT

    def suspect(self, store: str, failed: bool) -> None:
        """Note that a store has failed, or that it answers again."""
        self.store.delete(_suspect(store))
        if failed:
            self.store.create(_suspect(store), json.dumps({"store": store, "at": time.time()}).encode())

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Give whether this process alone sends what is kept here."""
        if not is_s3(self.place):
            from filelock import FileLock, Timeout

            Path(self.place).mkdir(parents=True, exist_ok=True)
            try:
                with FileLock(Path(self.place, ".lock"), timeout=0):
                    yield True
            except Timeout:
                yield False
            return
        known = self.store.read(CLAIM)
        if known is not None and time.time() - _at(known) > CLAIMED:
            self.store.delete(CLAIM)
        mine = json.dumps({"at": time.time(), "by": uuid.uuid4().hex}).encode()
        claimed = self.store.create(CLAIM, mine)
        try:
            yield claimed
        finally:
            if claimed:
                self.store.delete(CLAIM)

    def _keys(self, family: str) -> list[str]:
        return [key.removeprefix("operations/") for key in self.store.keys(f"operations/{family}/")]

    def _create(self, key: str, document: dict) -> None:
        self.store.create(f"operations/{key}", (json.dumps(document, sort_keys=True) + "\n").encode())


def _at(content: bytes) -> float:
    """When a note was made; long ago where it does not say."""
    note = parse_json(content, "a note of the spool")
    at = note.get("at") if isinstance(note, dict) else None
    return float(at) if isinstance(at, int | float) else 0.0


def _suspect(store: str) -> str:
    return f"suspects/{hashlib.sha256(store.encode()).hexdigest()[:16]}.json"
