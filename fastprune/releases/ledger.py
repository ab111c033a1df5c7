"""The record of releases: who made which version the champion, when, from which, and why, and who was refused.

MLflow's aliases have no compare-and-set, so that two promotions that read the same champion would both win. Here a
champion is made by writing the next number of this record, which only one of them can; the aliases then follow the
record. It outlives aliases, versions and runs, and each event carries the digest of the one before.

It lies in a PostgreSQL table, or as a file or S3 object an event: see :func:`open_ledger`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import quote

from fastprune.errors import InputError, Refused, Unreachable
from fastprune.releases.words import line
from fastprune.store import keys, s3, sharing, storage
from fastprune.store.documents import Document
from fastprune.store.secrets import shown

WAIT = 120
"""Seconds to wait, at most, for another promotion of the same model."""


class Event(Document):
    """One entry of a model's record: a change of champion (``promote``, ``rollback``), or what bears on the next.

    Attributes
    ----------
    from_version : str
        The champion when it was written.
    to_version : str
        The champion from now on; for ``refused`` the version that was not promoted, for ``approve`` the approved one.
    verdict_sha256 : str
        Of the verdict in the version's run.
    after : str
        The digest of the event before.
    failed : str
        For ``refused``: the checks that failed, in words.
    weights_sha256 : str
        For ``promote``: of the version's weights.
    reinstates : bool
        For ``promote``: the version was rolled back before, and is the champion again on purpose.
    overrides : bool
        For ``promote``: it was judged by another policy than the model's, which the verdict holds.
    policy, policy_sha256 : str
        For ``policy``, and a promotion that made its policy the model's: the whole text, and its SHA-256.
    evidence_sha256 : str
        For ``approve``: of the evidence that the version had.
    authenticated : bool
        ``by`` is who MLflow's server says that it is; else it is a note.
    model_created : int
        In the first event: when MLflow made the registered model, in its milliseconds.
    signed_by, signature : str
        The public key of who wrote it, where there was a key to sign with, and the signature of all the rest: of the
        events before it too, since ``after`` is among it.
    """

    later = frozenset(("failed", "weights_sha256", "reinstates", "overrides", "policy", "policy_sha256")) | {
        "evidence_sha256",
        "authenticated",
        "model_created",
        "signed_by",
        "signature",
    }

    model: str
    number: int
    action: Literal["promote", "rollback", "refused", "freeze", "unfreeze", "policy", "approve"]
    by: str
    at: str
    from_version: str | None
    to_version: str | None
    why: str
    verdict_sha256: str | None = None
    after: str = ""
    failed: str | None = None
    weights_sha256: str | None = None
    reinstates: bool | None = None
    overrides: bool | None = None
    policy: str | None = None
    policy_sha256: str | None = None
    evidence_sha256: str | None = None
    authenticated: bool | None = None
    model_created: int | None = None
    signed_by: str | None = None
    signature: str | None = None

    @property
    def moves(self) -> bool:
        """Whether it made a version the champion."""
        return self.action in ("promote", "rollback")

    def signed(self) -> Event:
        """The event with a signature, where there is a key to sign with."""
        if (key := keys.private_key()) is None:
            return self
        named = self.model_copy(update={"signed_by": keys.public(key)})
        return named.model_copy(update={"signature": keys.sign(key, named.content)})

    @property
    def as_signed(self) -> bool:
        """Whether it is what its key has signed, or is not signed at all."""
        if self.signature is None and self.signed_by is None:
            return True
        content = self.model_copy(update={"signature": None}).content
        return keys.holds(self.signature or "", self.signed_by or "", content)

    def __str__(self) -> str:
        """Who, when and why, in one line."""
        return f"by {line(self.by)} at {self.at}: {line(self.why)}"


class Ledger(Protocol):
    def lock(self, model: str) -> AbstractContextManager:
        """Hold off other promotions of the model; not needed for the record, but aliases then move one at a time."""

    def contents(self, model: str) -> list[bytes]:
        """Every event as it was written, in order."""

    def append(self, event: Event) -> bool:
        """Write an event; False where its number is taken."""


def open_ledger(tracking_uri: str) -> Ledger:
    """The record that belongs to an MLflow store.

    ``FASTPRUNE_LEDGER`` names it: a ``postgresql://`` URL, an ``s3://`` prefix or a folder. Without that it lies in
    ``releases`` beside a SQLite store, or in the database of a PostgreSQL store; everybody else must name one.
    """
    location = os.environ.get("FASTPRUNE_LEDGER", "")
    if not location and tracking_uri.startswith("sqlite:///"):
        location = str(Path(tracking_uri.removeprefix("sqlite:///")).parent / "releases")
    location = location or tracking_uri
    if location.startswith("postgresql"):
        ledger = PostgresLedger(re.sub(r"^postgresql\+\w+:", "postgresql:", location))
        ledger.prepare()
        return ledger
    if s3.is_s3(location):
        return StoreLedger(storage.open_store(location), None)
    if "://" in location:
        raise InputError(
            f"{location.partition('://')[0]}:// cannot hold the record of releases; set FASTPRUNE_LEDGER "
            "to the postgresql:// URL, s3:// prefix or shared folder that your team uses"
        )
    return StoreLedger(storage.open_store(location), Path(location))


def events(ledger: Ledger, model: str) -> list[Event]:
    """The record of a model, oldest first.

    Raises
    ------
    InputError
        An event is missing, out of place or not as it was written.
    """
    told: list[Event] = []
    before = ""
    for content in ledger.contents(model):
        event, digest = _proved(content, model, len(told) + 1)
        if (event.model, event.number, event.after) != (model, len(told) + 1, before):
            raise InputError(
                f"the record of {model}: event {event.number} does not follow the one before it: an "
                "event was changed or removed; restore the record from a backup"
            )
        told.append(event)
        before = digest
    return told


@lru_cache(maxsize=10_000)
def _proved(content: bytes, model: str, number: int) -> tuple[Event, str]:
    """An event that is what its key has signed, and its digest.

    A promotion reads the whole record several times: by its bytes an event is known that was proved before.
    """
    event = Event.parse(content, f"the record of {model}, event {number}", "restore it from a backup")
    if not event.as_signed:
        raise InputError(
            f"the record of {model}: event {event.number} is not what {event.signed_by} has signed: it was "
            "rewritten; restore the record from a backup"
        )
    return event, event.digest


@dataclass(frozen=True)
class StoreLedger:
    """An event a key; of two writers of one number the store lets one win."""

    store: storage.Store
    folder: Path | None

    def lock(self, model: str) -> AbstractContextManager:
        return self._file_lock(self.folder, model) if self.folder else nullcontext()

    @contextmanager
    def _file_lock(self, folder: Path, model: str) -> Iterator[None]:
        from filelock import FileLock, Timeout

        file = folder / f".{_folder(model)}.lock"
        lock = FileLock(file, timeout=WAIT)  # freed when its holder dies
        try:
            sharing.make_folder(folder)
            if not file.exists():
                file.touch()
                sharing.share(file, write=True)
            lock.acquire()
        except Timeout as error:
            raise Unreachable(f"{model}: another promotion has been under way for {WAIT} s; try again") from error
        except OSError as error:
            raise InputError(
                f"{folder}: releases cannot be recorded here ({error.strerror}); ask for the right "
                "to write there, or correct FASTPRUNE_LEDGER"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def contents(self, model: str) -> list[bytes]:
        return self.store.read_all(f"{_folder(model)}/")

    def append(self, event: Event) -> bool:
        return self.store.create(f"{_folder(event.model)}/{event.number:08d}.json", event.content)


def _folder(model: str) -> str:
    """The folder of a model's events. Raises InputError for a name that is none."""
    name = quote(model, safe="")
    if name in ("", ".", ".."):
        raise InputError(f"{model!r} is no name of a registered model; correct it")
    return name


@dataclass(frozen=True)
class PostgresLedger:
    """The table ``fastprune_releases``; promoters need INSERT and SELECT on it, nobody UPDATE or DELETE."""

    url: str = field(repr=False)

    def prepare(self) -> None:
        with self._connection() as connection:
            if connection.execute("SELECT to_regclass('fastprune_releases')").fetchone()[0] is None:
                connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('fastprune_releases', 0))")
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS fastprune_releases (model text, number integer, "
                    "event text NOT NULL, PRIMARY KEY (model, number))"
                )

    @contextmanager
    def lock(self, model: str) -> Iterator[None]:
        with self._connection() as connection:  # the lock ends with the transaction, or with its holder
            connection.execute(f"SET LOCAL lock_timeout = '{WAIT}s'")
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 1))", [model])
            yield

    def contents(self, model: str) -> list[bytes]:
        with self._connection() as connection:
            rows = connection.execute("SELECT event FROM fastprune_releases WHERE model = %s ORDER BY number", [model])
            return [event.encode() for (event,) in rows]

    def append(self, event: Event) -> bool:
        with self._connection() as connection:
            written = connection.execute(
                "INSERT INTO fastprune_releases VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                [event.model, event.number, event.content.decode()],
            )
            return written.rowcount == 1

    @contextmanager
    def _connection(self) -> Iterator:
        try:
            import psycopg
        except ImportError as error:
            raise InputError(
                "a record of releases in PostgreSQL needs psycopg: pip install 'fastprune[postgresql]'"
            ) from error
        try:
            with psycopg.connect(self.url, connect_timeout=10) as connection:
                yield connection
        except psycopg.errors.InsufficientPrivilege as error:
            raise Refused(
                "the database user has no right to the table fastprune_releases; ask for SELECT, and to "
                "promote for INSERT"
            ) from error
        except psycopg.errors.LockNotAvailable as error:
            raise Unreachable(f"another promotion has been under way for {WAIT} s; try again") from error
        except psycopg.Error as error:
            raise Unreachable(
                f"the record of releases in PostgreSQL cannot be used ({shown(error).strip()}); check FASTPRUNE_LEDGER"
            ) from error
