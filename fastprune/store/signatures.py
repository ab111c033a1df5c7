"""Who has measured: an Ed25519 signature over figures, outcomes and the files of the model that they were measured on.

Where there is a key to sign with (:mod:`fastprune.store.keys`), whatever measures signs. Whose signature counts is for
a policy to say (``signed_by``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from fastprune.data.outcomes import OUTCOMES
from fastprune.errors import Refused
from fastprune.store import keys, storage
from fastprune.store.artifacts import MANIFEST, RECORD, File, list_files
from fastprune.store.bounded import read_bytes
from fastprune.store.documents import Document

SIGNATURE = "signature.json"
METRICS = "metrics.json"

EXPORTED = "onnx"
"""The folder of an exported model within that of the model it was made of."""

_BESIDE = {METRICS, OUTCOMES, SIGNATURE, MANIFEST}
"""Files that may lie in a model's folder and are signed by themselves, or are no part of it."""


class Statement(Document):
    """What is signed.

    Attributes
    ----------
    metrics_sha256 : str
        Of the content of ``metrics.json``, keys in order.
    outcomes_sha256 : str
    files : dict
        SHA-256 of every file of the model.
    at : str
        When it was measured, in UTC.
    """

    metrics_sha256: str
    outcomes_sha256: str
    files: dict[str, str]
    at: str


class Signature(Document):
    """The content of ``signature.json``.

    Attributes
    ----------
    statement : Statement
    key : str
        The public key, as :func:`fastprune.store.keys.public_key` has it.
    signature : str
        Of the statement's content, in base64.
    """

    statement: Statement
    key: str
    signature: str

    def check(self, metrics: Mapping, outcomes_sha256: str | None, files: Mapping[str, File], what: str) -> None:
        """Refuse what was not signed with this key: other figures, outcomes or files of the model."""
        told = self.statement
        if not keys.holds(self.signature, self.key, told.content):
            raise Refused(f"{what}: {SIGNATURE} is not signed with the key that it names; measure it again")
        for name, signed, found in (
            (METRICS, told.metrics_sha256, _digest(metrics)),
            (OUTCOMES, told.outcomes_sha256, outcomes_sha256),
            ("the files of the model", told.files, _files(files)),
        ):
            if signed != found:
                raise Refused(f"{what}: {name} are not what {self.key} has signed at {told.at}; measure it again")


def read_signature(file: Path) -> Signature:
    """The content of a ``signature.json``. Raises InputError for a file that is none."""
    return Signature.parse(read_bytes(file), file, "measure the model again")


def sign(folder: Path, metrics: Mapping, model_dir: Path, exported: Path | None = None) -> None:
    """Write ``signature.json`` into the folder of ``outcomes.parquet``, if there is a key to sign with.

    Parameters
    ----------
    metrics : mapping
        The content of ``metrics.json``.
    model_dir : Path
        The model that they were measured on, as it was saved.
    exported : Path, optional
        Its export, where that lies elsewhere.
    """
    key = keys.private_key()
    if key is None:
        return
    statement = Statement(
        metrics_sha256=_digest(metrics),
        outcomes_sha256=storage.sha256_of(folder / OUTCOMES),
        files=_files(with_export(list_files(model_dir), exported)),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    signature = Signature(statement=statement, key=keys.public(key), signature=keys.sign(key, statement.content))
    (folder / SIGNATURE).write_bytes(signature.content)


def with_export(files: Mapping[str, File], exported: Path | None) -> dict[str, File]:
    """The files of a model, and those of its export in :data:`EXPORTED`, where one is given."""
    if exported is None:
        return dict(files)
    own = {name: file for name, file in files.items() if not name.startswith(f"{EXPORTED}/")}
    beside = _BESIDE | {MANIFEST, RECORD}
    return own | {f"{EXPORTED}/{name}": file for name, file in list_files(exported).items() if name not in beside}


def _files(files: Mapping[str, File]) -> dict[str, str]:
    return {name: file.sha256 for name, file in sorted(files.items()) if name not in _BESIDE}


def _digest(metrics: Mapping) -> str:
    return hashlib.sha256(json.dumps(metrics, sort_keys=True).encode()).hexdigest()
