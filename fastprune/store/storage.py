"""Where artifacts lie: a folder or an ``s3://`` prefix."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fastprune.errors import InputError
from fastprune.store import sharing
from fastprune.store.bounded import read_bytes
from fastprune.store.damage import Damaged, twice
from fastprune.store.output import check_place
from fastprune.store.partials import partial_file
from fastprune.store.paths import inside
from fastprune.store.s3 import S3Store, is_s3, parse, s3_client


class Store(Protocol):
    """Files by key. A key is taken whole or not at all."""

    def read(self, key: str) -> bytes | None:
        """The content; None where there is no such key."""

    def create(self, key: str, content: bytes) -> bool:
        """Write a key that nobody has written; False where somebody was first."""

    def upload(self, file: Path, key: str, sha256: str) -> None:
        """Put a file; one of that size and digest that is there already stays."""

    def download(self, key: str, file: Path, *, size: int = 0, sha256: str = "") -> bool:
        """Get a file; False where there is none.

        Raises Damaged where it has, twice, another digest than ``sha256`` or than its store knows. ``size``, its
        number of bytes where it is known, is time that it is given.
        """

    def delete(self, key: str) -> None:
        """Remove a key; one that is not there is no error."""

    def keys(self, prefix: str) -> list[str]:
        """Every key below a prefix that ends with a slash, in order."""

    def read_all(self, prefix: str) -> list[bytes]:
        """The contents of these keys, in their order; one store reads again only what has changed, if it can tell."""

    def check_writable(self, prefix: str) -> None:
        """Raise InputError where no key could be written below a prefix that ends with a slash; nothing is left there.

        It is asked before the work whose result will be put there.
        """

    def uri(self, key: str) -> str:
        """Where a key lies, in what is said."""


def open_store(root: str | Path) -> Store:
    """The store at a folder or an ``s3://bucket/prefix``. Raises InputError where the bucket is out of reach."""
    if not is_s3(root):
        return LocalStore(Path(root))
    bucket, prefix = parse(root)
    store = S3Store(bucket, prefix.rstrip("/"), s3_client())
    store.check()
    return store


def sha256_of(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class LocalStore:
    """Keys as files below a folder."""

    root: Path

    def read(self, key: str) -> bytes | None:
        file = inside(self.root, key)
        try:
            with sharing.told(file, "read"):
                return read_bytes(file)
        except (FileNotFoundError, NotADirectoryError):  # of a root that cannot be, who writes there is told
            return None

    def create(self, key: str, content: bytes) -> bool:
        with self._partial(key) as partial:
            partial.write_bytes(content)
            try:
                os.link(partial, inside(self.root, key))  # fails where the name is taken, in one step
            except FileExistsError:
                return False
        return True

    def upload(self, file: Path, key: str, sha256: str) -> None:
        target = inside(self.root, key)
        with sharing.told(target, "read"):
            if target.is_file() and sha256_of(target) == sha256:
                return
        with self._partial(key) as partial:
            shutil.copyfile(file, partial)
            os.replace(partial, target)

    def download(self, key: str, file: Path, *, size: int = 0, sha256: str = "") -> bool:
        source = inside(self.root, key)
        with sharing.told(source, "read"):
            if not source.is_file():
                return False

        def copy() -> None:
            with sharing.told(source, "read"):
                shutil.copyfile(source, file)
            if sha256 and (digest := sha256_of(file)) != sha256:
                raise Damaged(self.uri(key), f"its sha256 is {digest} where {sha256} belongs")

        twice(copy)
        return True

    def delete(self, key: str) -> None:
        with sharing.told(inside(self.root, key), "removed"):
            inside(self.root, key).unlink(missing_ok=True)

    def keys(self, prefix: str) -> list[str]:
        def refuse(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):  # what may not be looked at is not empty
                raise error

        top = inside(self.root, prefix.removesuffix("/"))
        with sharing.told(top, "read"):
            files = [Path(folder, name) for folder, _, names in os.walk(top, onerror=refuse) for name in names]
            files = [file for file in files if file.is_file() and not file.name.startswith(".")]
        return sorted(str(file.relative_to(self.root)) for file in files)

    def read_all(self, prefix: str) -> list[bytes]:
        return [self.read(key) or b"" for key in self.keys(prefix)]

    def check_writable(self, prefix: str) -> None:
        check_place(inside(self.root, prefix.removesuffix("/")))

    def uri(self, key: str) -> str:
        return str(inside(self.root, key))

    @contextmanager
    def _partial(self, key: str) -> Iterator[Path]:
        target = inside(self.root, key)
        with ExitStack() as held:
            try:
                with sharing.told(target, "written"):
                    sharing.make_folder(target.parent)
                    partial = held.enter_context(partial_file(target))
                    sharing.share(partial)
            except OSError as error:
                raise InputError(
                    f"{target}: cannot be written ({error.strerror}); name a folder that you may write to"
                ) from error
            yield partial
