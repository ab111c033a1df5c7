"""Where artifacts lie: a folder or an ``s3://`` prefix; and local copies of models and tables given as ``s3://``.

The only module that imports boto3, and only inside its functions. Endpoint, region, credentials and profile are the
usual AWS settings (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ``~/.aws/config`` ...).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fastprune.errors import InputError
from fastprune.store.paths import inside
from fastprune.store.secrets import shown

ATTEMPTS = 5
"""Tries of one S3 request, with exponential backoff between them, before it counts as failed."""

PART = 16 * 2**20
"""Bytes of a part; a larger file goes up in several, and counts only when all have arrived."""

_DIGESTS = ".fastprune-sha256.json"
"""Beside a copy of what lies at ``s3://``: the digests of its files, compared at every use."""

_S3 = re.compile(r"s3:/+(?P<bucket>[^/]+)/*(?P<key>.*)")  # pathlib leaves one of the two slashes


class Store(Protocol):
    """Files by key. A key is taken whole or not at all."""

    def read(self, key: str) -> bytes | None:
        """The content; None where there is no such key."""

    def create(self, key: str, content: bytes) -> bool:
        """Write a key that nobody has written; False where somebody was first."""

    def upload(self, file: Path, key: str, sha256: str) -> None:
        """Put a file; one of that size and digest that is there already stays."""

    def download(self, key: str, file: Path) -> bool:
        """Get a file; False where there is none."""

    def delete(self, key: str) -> None:
        """Remove a key; one that is not there is no error."""

    def keys(self, prefix: str) -> list[str]:
        """Every key below a prefix that ends with a slash, in order."""


def is_s3(location: str | Path) -> bool:
    return _S3.fullmatch(str(location)) is not None


def open_store(root: str | Path) -> Store:
    """The store at a folder or an ``s3://bucket/prefix``. Raises InputError where the bucket is out of reach."""
    if not is_s3(root):
        return LocalStore(Path(root))
    bucket, prefix = _parse(root)
    store = S3Store(bucket, prefix.rstrip("/"), _s3_client())
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
        try:
            return inside(self.root, key).read_bytes()
        except FileNotFoundError:
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
        if target.is_file() and sha256_of(target) == sha256:
            return
        with self._partial(key) as partial:
            shutil.copyfile(file, partial)
            os.replace(partial, target)

    def download(self, key: str, file: Path) -> bool:
        source = inside(self.root, key)
        if not source.is_file():
            return False
        shutil.copyfile(source, file)
        return True

    def delete(self, key: str) -> None:
        inside(self.root, key).unlink(missing_ok=True)

    def keys(self, prefix: str) -> list[str]:
        found = (path for path in inside(self.root, prefix.removesuffix("/")).rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self.root)) for path in found if not path.name.startswith("."))

    @contextmanager
    def _partial(self, key: str) -> Iterator[Path]:
        target = inside(self.root, key)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = _beside(target)
            partial.touch(exist_ok=False)  # with the rights that the umask leaves; tempfile's are the owner's alone
        except OSError as error:
            raise InputError(
                f"{target}: cannot be written ({error.strerror}); name a folder that you may write to"
            ) from error
        try:
            yield partial
        finally:
            partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class S3Store:
    """Keys as objects below a prefix of a bucket."""

    bucket: str
    prefix: str
    client: Any

    def check(self) -> None:
        """Some servers make a bucket for whoever writes to it: a name mistyped is found before that."""
        with self._explained("", needed=True):
            self.client.head_bucket(Bucket=self.bucket)

    def read(self, key: str) -> bytes | None:
        with self._explained(key):
            return self.client.get_object(Bucket=self.bucket, Key=self._key(key))["Body"].read()
        return None

    def create(self, key: str, content: bytes) -> bool:
        from botocore.exceptions import ClientError

        with self._explained(key, needed=True):
            try:
                self.client.put_object(
                    Bucket=self.bucket, Key=self._key(key), Body=content, IfNoneMatch="*", ChecksumAlgorithm="SHA256"
                )
            except ClientError as error:
                # A retry after a lost answer meets its own object.
                if _code(error) in ("PreconditionFailed", "412", "ConditionalRequestConflict", "409"):
                    return self.read(key) == content
                raise
        return True

    def upload(self, file: Path, key: str, sha256: str) -> None:
        name = self._key(key)
        with self._explained(key):
            found = self.client.head_object(Bucket=self.bucket, Key=name)
            if found["ContentLength"] == file.stat().st_size and found["Metadata"].get("sha256") == sha256:
                return
        with self._explained(key, needed=True):
            self.client.upload_file(
                str(file),
                self.bucket,
                name,
                Config=_transfer(),
                ExtraArgs={"ChecksumAlgorithm": "SHA256", "Metadata": {"sha256": sha256}},
            )

    def download(self, key: str, file: Path) -> bool:
        with self._explained(key):
            self.client.download_file(self.bucket, self._key(key), str(file), Config=_transfer())
            return True
        return False

    def delete(self, key: str) -> None:
        with self._explained(key):
            self.client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def keys(self, prefix: str) -> list[str]:
        cut = len(self._key(""))
        return sorted(found["Key"][cut:] for found in self.objects(prefix))

    def objects(self, prefix: str) -> list[dict]:
        """Key, size and ETag of every object below a prefix."""
        with self._explained(prefix, needed=True):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._key(prefix))
            return [found for page in pages for found in page.get("Contents", [])]

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{self._key(key)}"

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    @contextmanager
    def _explained(self, key: str, *, needed: bool = False) -> Iterator[None]:
        """Turn what S3 refuses into an InputError; without ``needed`` a missing key ends the block quietly."""
        from boto3.exceptions import RetriesExceededError, S3UploadFailedError
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        uri, endpoint = self.uri(key), shown(self.client.meta.endpoint_url)
        try:
            yield
        except (ClientError, S3UploadFailedError) as error:
            cause = error if isinstance(error, ClientError) else error.__context__
            code = _code(cause) if isinstance(cause, ClientError) else str(error)
            if code in ("404", "403", "400"):  # an answer to HEAD, which has no body to tell more
                code = self._code_of_listing() or {"404": "NoSuchKey", "403": "AccessDenied"}.get(code, code)
            if code == "NoSuchKey" and not needed:
                return
            raise InputError(
                _REMEDIES.get(code, "{uri}: S3 at {endpoint} refused ({error})").format(
                    uri=uri, endpoint=endpoint, bucket=self.bucket, error=shown(error)
                )
            ) from error
        except NoCredentialsError as error:
            raise InputError(
                f"{uri}: no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            ) from error
        except (BotoCoreError, RetriesExceededError) as error:
            raise InputError(
                f"{uri}: S3 at {endpoint} cannot be used, after {ATTEMPTS} attempts ({shown(error)}); check "
                "AWS_ENDPOINT_URL and that the server is up"
            ) from error

    def _code_of_listing(self) -> str:
        from botocore.exceptions import ClientError

        try:
            self.client.list_objects_v2(Bucket=self.bucket, MaxKeys=1, Prefix=self._key(""))
        except ClientError as error:
            return _code(error)
        return ""


_REMEDIES = {
    "NoSuchBucket": "{uri}: there is no bucket {bucket} at {endpoint}; create it, or correct the name",
    "NoSuchKey": "{uri}: there is nothing at {endpoint} under this name; correct the key",
    "AccessDenied": "{uri}: these credentials have no permission for it at {endpoint}; ask for read (and, to publish, "
    "write) access to the bucket",
    "SignatureDoesNotMatch": "{uri}: {endpoint} refused the secret; set AWS_SECRET_ACCESS_KEY to the access key's own",
    "InvalidAccessKeyId": "{uri}: {endpoint} does not know the access key; set AWS_ACCESS_KEY_ID",
}


def local(location: str | Path) -> str | Path:
    """What a reader can open: an ``s3://`` location's copy on this machine, anything else as it is.

    An object becomes a file, a prefix a folder. The copy is kept below ``FASTPRUNE_CACHE`` (by default
    ``~/.cache/fastprune``) and taken again only when an ETag below the location has changed.

    Raises
    ------
    InputError
        No such bucket or key, no permission, no server.
    """
    if not is_s3(location):
        return location
    bucket, key = _parse(location)
    store, name = S3Store(bucket, "", _s3_client()), key.rstrip("/")
    # `models/a` is not `models/ab`: an object of just this name, or else the objects in the folder of this name.
    listed = [entry for entry in store.objects(name) if not entry["Key"].endswith("/")]
    found = [entry for entry in listed if entry["Key"] == name] or [
        entry for entry in listed if entry["Key"].startswith(f"{name}/" if name else "")
    ]
    if not found:
        raise InputError(
            _REMEDIES["NoSuchKey"].format(uri=f"s3://{bucket}/{key}", endpoint=shown(store.client.meta.endpoint_url))
        )
    versions = sorted((entry["Key"], entry["ETag"], entry["Size"]) for entry in found)
    cache = Path(os.environ.get("FASTPRUNE_CACHE") or Path.home() / ".cache" / "fastprune")
    copy = cache / "s3" / hashlib.sha256(repr((store.client.meta.endpoint_url, bucket, versions)).encode()).hexdigest()
    base = name.rsplit("/", 1)[-1] or bucket
    if copy.exists() and not _is_whole(copy):
        shutil.rmtree(copy)  # damaged on this machine's disk, or by a version that kept no digests: taken again
    if not copy.exists():
        try:
            with new_folder(copy) as folder:
                for entry in found:
                    below = entry["Key"].removeprefix(name).removeprefix("/")
                    target = inside(folder, base, *([below] if below else []))
                    target.parent.mkdir(parents=True, exist_ok=True)
                    if not store.download(entry["Key"], target) or target.stat().st_size != entry["Size"]:
                        raise InputError(f"{store.uri(entry['Key'])}: changed while it was read; try again")
                (folder / _DIGESTS).write_text(json.dumps(_digests(folder)))
        except (InputError, OSError):
            if not copy.exists():  # else another process has just made the same copy
                raise
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
        return json.loads((copy / _DIGESTS).read_text()) == _digests(copy)
    except (OSError, ValueError):
        return False


@contextmanager
def new_folder(output_dir: str | Path) -> Iterator[Path]:
    """A folder to fill that gets its name ``output_dir`` only when all went well."""
    output_dir = Path(output_dir)
    check_absent(output_dir)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(output_dir)
    partial.mkdir()
    try:
        yield partial
        _follow_umask(partial)
        check_absent(output_dir)
        partial.rename(output_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _beside(target: Path) -> Path:
    """A hidden name beside a target that nobody else has."""
    return target.with_name(f".{target.name[:100]}-{uuid.uuid4().hex}")


def _follow_umask(folder: Path) -> None:
    """Give a new folder's files the rights that the umask leaves: some libraries write for the owner alone."""
    left = folder.stat().st_mode & 0o666  # the folder was made with all that the umask leaves
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(left)


def check_absent(output_dir: str | Path) -> None:
    """Raise InputError when ``output_dir`` exists: nothing is ever overwritten."""
    if Path(output_dir).exists():
        raise InputError(f"{output_dir}: the output folder exists; name another or remove it first")


def _parse(location: str | Path) -> tuple[str, str]:
    parts = _S3.fullmatch(str(location))
    if parts is None:
        raise InputError(f"{location}: an S3 location is written s3://bucket/key")
    return parts["bucket"], parts["key"]


def _s3_client():
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    own_endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config = Config(
        retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
        connect_timeout=5,
        read_timeout=60,
        # Buckets as host names need DNS that most self-hosted servers do not have.
        s3={"addressing_style": "path"} if own_endpoint else None,
    )
    try:
        session = boto3.Session()
        region = session.region_name or os.environ.get("AWS_REGION") or "us-east-1"
        return session.client("s3", config=config, region_name=region)
    except (BotoCoreError, ValueError) as error:  # before any request
        raise InputError(
            f"the settings for S3 cannot be used ({shown(error)}); correct AWS_PROFILE, AWS_ENDPOINT_URL and "
            "AWS_DEFAULT_REGION"
        ) from error


def _transfer():
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, num_download_attempts=ATTEMPTS)


def _code(error) -> str:
    return str(error.response["Error"].get("Code", ""))
