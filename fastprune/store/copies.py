"""Copies on this machine of models and tables that are given as ``s3://``."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from fastprune.errors import InputError
from fastprune.store.bounded import read_json
from fastprune.store.output import new_folder
from fastprune.store.paths import inside
from fastprune.store.s3 import REMEDIES, S3Store, is_s3, parse, s3_client
from fastprune.store.secrets import shown
from fastprune.store.storage import sha256_of

_DIGESTS = ".fastprune-sha256.json"
"""Beside a copy of what lies at ``s3://``: the digests of its files, compared at every use."""


def local(location: str | Path) -> str | Path:
    """What a reader can open: an ``s3://`` location's copy on this machine, anything else as it is.

    An object becomes a file, a prefix a folder. The copy is kept below ``FASTPRUNE_CACHE`` (by default
    ``~/.cache/fastprune``) and taken again only when an ETag below the location has changed.

    Raises
    ------
    InputError
        No such bucket or key, no permission, no server; an object that changes while it is read, or is damaged.
    """
    if not is_s3(location):
        return location
    bucket, key = parse(location)
    store, name = S3Store(bucket, "", s3_client()), key.rstrip("/")
    # `models/a` is not `models/ab`: an object of just this name, or else the objects in the folder of this name.
    listed = [entry for entry in store.objects(name) if not entry["Key"].endswith("/")]
    entries = [entry for entry in listed if entry["Key"] == name] or [
        entry for entry in listed if entry["Key"].startswith(f"{name}/" if name else "")
    ]
    if not entries:
        raise InputError(
            REMEDIES["NoSuchKey"].format(uri=f"s3://{bucket}/{key}", endpoint=shown(store.client.meta.endpoint_url))
        )
    versions = sorted((entry["Key"], entry["ETag"], entry["Size"]) for entry in entries)
    cache = Path(os.environ.get("FASTPRUNE_CACHE") or Path.home() / ".cache" / "fastprune")
    copy = cache / "s3" / hashlib.sha256(repr((store.client.meta.endpoint_url, bucket, versions)).encode()).hexdigest()
    base = name.rsplit("/", 1)[-1] or bucket
    if copy.exists() and not _is_whole(copy):
        shutil.rmtree(copy)  # damaged on this machine's disk, or by a version that kept no digests: taken again
    if not copy.exists():
        try:
            with new_folder(copy) as folder:
                for entry in entries:
                    below = entry["Key"].removeprefix(name).removeprefix("/")
                    target = inside(folder, base, *([below] if below else []))
                    target.parent.mkdir(parents=True, exist_ok=True)
                    size, etag = entry["Size"], entry["ETag"]
                    if not store.download(entry["Key"], target, size=size, etag=etag) or target.stat().st_size != size:
                        raise InputError(REMEDIES["PreconditionFailed"].format(uri=store.uri(entry["Key"])))
                (folder / _DIGESTS).write_text(json.dumps(_digests(folder)))
        except (InputError, OSError) as error:
            if not copy.exists():  # else another process has just made the same copy
                if isinstance(error, InputError):
                    raise
                raise InputError(
                    f"{location}: cannot be copied to {cache} ({error.strerror or error}); make room there, or name "
                    "another FASTPRUNE_CACHE"
                ) from error
        if not _is_whole(copy):
            raise InputError(f"{copy}: what is written here reads back otherwise; name another FASTPRUNE_CACHE")
    return copy / base


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / _DIGESTS
    }


def _is_whole(copy: Path) -> bool:
    """Whether a copy's files are those that were downloaded."""
    try:
        return read_json(copy / _DIGESTS) == _digests(copy)
    except (OSError, ValueError):
        return False
