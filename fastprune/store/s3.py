"""Objects in S3, and what its refusals mean.

The only module that imports boto3, and only inside its functions. Endpoint, region, credentials and profile are the
usual AWS settings (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ``~/.aws/config`` ...).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from fastprune.deadline import Overdue, each, persist, seconds_of
from fastprune.errors import InputError, Unreachable
from fastprune.store.damage import Damaged, twice
from fastprune.store.secrets import shown

DEADLINE = 120.0
"""Seconds for one operation, its tries and the pauses between them; ``FASTPRUNE_S3_DEADLINE`` gives another number.

It outlasts the restart of a server.
"""

ALL = 5
"""Deadlines that the operations of an hour may lose together; from then on each gets ``PROBE`` seconds."""

PROBE, SOON = 5.0, 1.0
"""Seconds: of an operation when too much was lost, and up to which one has lost nothing."""

RATE = 1e6
"""Bytes a second that a large file must move at least: a try gets that time on top of its half of the deadline."""

AT_ONCE = 16
"""Small objects that are read at the same time."""

PART = 16 * 2**20
"""Bytes of a part; a larger file goes up in several, and counts only when all have arrived."""

_S3 = re.compile(r"s3:/+(?P<bucket>[^/]+)/*(?P<key>.*)")  # pathlib leaves one of the two slashes
_MD5 = re.compile(r"[0-9a-f]{32}")
Answer = TypeVar("Answer")


def is_s3(location: str | Path) -> bool:
    return _S3.fullmatch(str(location)) is not None


def parse(location: str | Path) -> tuple[str, str]:
    parts = _S3.fullmatch(str(location))
    if parts is None:
        raise InputError(f"{location}: an S3 location is written s3://bucket/key")
    return parts["bucket"], parts["key"]


@dataclass(frozen=True)
class S3Store:
    """Keys as objects below a prefix of a bucket."""

    bucket: str
    prefix: str
    client: Any
    _known: dict[str, tuple[str, bytes]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """By key what :meth:`read_all` has read: the ETag, which another content would change, and the content."""

    def check(self) -> None:
        """Some servers make a bucket for whoever writes to it: a name mistyped is found before that."""
        self._ask("", lambda: self.client.head_bucket(Bucket=self.bucket), needed=True)

    def read(self, key: str) -> bytes | None:
        return self._ask(key, lambda: self._content(key))

    def _content(self, key: str) -> bytes:
        def fetch() -> bytes:
            sink = io.BytesIO()
            self._fetch(key, sink)
            return sink.getvalue()

        return twice(fetch)

    def create(self, key: str, content: bytes) -> bool:
        from botocore.exceptions import ClientError

        def put() -> bool:
            try:
                self.client.put_object(
                    Bucket=self.bucket,
                    Key=self._key(key),
                    Body=content,
                    IfNoneMatch="*",
                    ChecksumAlgorithm="SHA256",
                    Metadata={"sha256": hashlib.sha256(content).hexdigest()},
                )
            except ClientError as error:
                if _code(error) in ("PreconditionFailed", "412", "ConditionalRequestConflict", "409"):
                    return False
                raise
            return True

        # A try after a lost answer meets its own object.
        return bool(self._ask(key, put, needed=True)) or self.read(key) == content

    def upload(self, file: Path, key: str, sha256: str) -> None:
        name, size = self._key(key), file.stat().st_size
        head = self._ask(key, lambda: self.client.head_object(Bucket=self.bucket, Key=name))
        if head and (head["ContentLength"], head["Metadata"].get("sha256")) == (size, sha256):
            return
        extra = {"ChecksumAlgorithm": "SHA256", "Metadata": {"sha256": sha256}}
        self._ask(
            key,
            lambda: self.client.upload_file(str(file), self.bucket, name, Config=_transfer(), ExtraArgs=extra),
            needed=True,
            size=size,
        )

    def download(self, key: str, file: Path, *, size: int = 0, sha256: str = "", etag: str = "") -> bool:
        # In a folder that goes at the end: a try that was given up may still write.
        with tempfile.TemporaryDirectory(prefix=".s3-", dir=file.parent) as work:

            def fetch() -> Path:
                partial = Path(work, uuid.uuid4().hex)
                with open(partial, "wb") as sink:
                    self._fetch(key, sink, sha256=sha256, etag=etag)
                return partial

            partial = self._ask(key, lambda: twice(fetch), size=size)
            if partial is None:
                return False
            partial.replace(file)
        return True

    def delete(self, key: str) -> None:
        self._ask(key, lambda: self.client.delete_object(Bucket=self.bucket, Key=self._key(key)))

    def keys(self, prefix: str) -> list[str]:
        cut = len(self._key(""))
        return sorted(entry["Key"][cut:] for entry in self.objects(prefix))

    def read_all(self, prefix: str) -> list[bytes]:
        listed = {entry["Key"][len(self._key("")) :]: entry for entry in self.objects(prefix)}

        def fetch(key: str) -> None:
            self._known[key] = (listed[key]["ETag"], self._content(key))

        def fetch_new() -> list[bytes]:  # a second try goes on where the first one failed
            new = [key for key, entry in listed.items() if self._known.get(key, ("",))[0] != entry["ETag"]]
            each(fetch, new, AT_ONCE)
            return [self._known[key][1] for key in sorted(listed)]

        return self._ask(prefix, fetch_new, needed=True, size=sum(entry["Size"] for entry in listed.values())) or []

    def objects(self, prefix: str) -> list[dict]:
        """Key, size and ETag of every object below a prefix."""

        def list_all() -> list[dict]:
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._key(prefix))
            return [entry for page in pages for entry in page.get("Contents", [])]

        return self._ask(prefix, list_all, needed=True) or []

    def check_writable(self, prefix: str) -> None:
        from botocore.exceptions import ClientError

        key = f"{prefix}check"

        def put() -> None:
            try:  # no object has this ETag: who may write is told so, and anybody else is refused before that
                self.client.put_object(Bucket=self.bucket, Key=self._key(key), Body=b"", IfMatch=f'"{"0" * 32}"')
            except ClientError as error:
                if _code(error) not in ("NoSuchKey", "404", "PreconditionFailed", "412"):
                    raise
            else:  # not every server knows IfMatch
                self.client.delete_object(Bucket=self.bucket, Key=self._key(key))

        self._ask(key, put, needed=True)

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{self._key(key)}"

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _fetch(self, key: str, sink: IO[bytes], *, sha256: str = "", etag: str = "") -> None:
        """Write an object into a file.

        Raises
        ------
        InputError
            It is not the one of this ETag.
        Damaged
            Its SHA-256 is not the one given or that of its metadata; where there is neither, its MD5 is not its ETag;
            or its checksum is not what S3 says.
        """
        from botocore.exceptions import FlexibleChecksumError

        condition = {"IfMatch": etag} if etag else {}
        answer = self.client.get_object(Bucket=self.bucket, Key=self._key(key), ChecksumMode="ENABLED", **condition)
        if etag and answer["ETag"].strip('"') != etag.strip('"'):  # not every server knows IfMatch
            raise InputError(REMEDIES["PreconditionFailed"].format(uri=self.uri(key)))
        algorithm, wanted = _digest(answer, sha256)
        digest = hashlib.new(algorithm, usedforsecurity=False)
        try:
            for chunk in answer["Body"].iter_chunks(2**20):
                digest.update(chunk)
                sink.write(chunk)
        except FlexibleChecksumError as error:
            raise Damaged(self.uri(key), f"its checksum is another ({error})") from error
        if wanted and digest.hexdigest() != wanted:
            raise Damaged(self.uri(key), f"its {algorithm} is {digest.hexdigest()} where {wanted} belongs")

    def _ask(self, key: str, call: Callable[[], Answer], *, needed: bool = False, size: int = 0) -> Answer | None:
        """What ``call`` returns, tried until the deadline; without ``needed`` None for a missing key.

        ``size`` is the number of bytes that it moves. Raises InputError for all that S3 refuses.
        """
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
        from botocore.parsers import ResponseParserError

        uri, endpoint = self.uri(key), shown(self.client.meta.endpoint_url)
        try:
            with _waiting(size) as seconds:
                return persist(call, seconds=seconds, passing=_passes, name=uri)
        except Overdue as error:
            before = f", after {lost():.0f} s that it was waited for in all" if seconds < deadline(size) else ""
            raise Unreachable(
                f"{uri}: S3 at {endpoint} gave {error}{before}; check AWS_ENDPOINT_URL, the network and that the "
                f"server is up, or give it longer: FASTPRUNE_S3_DEADLINE is {deadline():g} (s)"
            ) from error
        except NoCredentialsError as error:
            raise InputError(
                f"{uri}: no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            ) from error
        except (ClientError, Boto3Error, BotoCoreError, ResponseParserError) as error:
            cause = _cause(error)
            code = _code(cause) if isinstance(cause, ClientError) else ""
            if code in ("404", "403", "400"):  # an answer to HEAD, which has no body to tell more
                code = self._code_of_listing() or {"404": "NoSuchKey", "403": "AccessDenied"}.get(code, code)
            if code == "NoSuchKey" and not needed:
                return None
            refused = "refused" if code else "cannot be used"
            text = REMEDIES.get(code, f"{{uri}}: S3 at {{endpoint}} {refused} ({{error}}); check AWS_ENDPOINT_URL")
            raise InputError(text.format(uri=uri, endpoint=endpoint, bucket=self.bucket, error=shown(error))) from error

    def _code_of_listing(self) -> str:
        from botocore.exceptions import BotoCoreError, ClientError

        def listed():
            return self.client.list_objects_v2(Bucket=self.bucket, MaxKeys=1, Prefix=self._key(""))

        try:
            persist(listed, seconds=deadline(), passing=_passes)
        except ClientError as error:
            return _code(error)
        except (Overdue, BotoCoreError):
            pass
        return ""


REMEDIES = {
    "NoSuchBucket": "{uri}: there is no bucket {bucket} at {endpoint}; create it, or correct the name",
    "NoSuchKey": "{uri}: there is nothing at {endpoint} under this name; correct the key",
    "PreconditionFailed": "{uri}: changed after it was listed; run it again when nobody writes there",
    "AccessDenied": "{uri}: these credentials have no permission for it at {endpoint}; ask for read (and, to publish, "
    "write) access to the bucket",
    "SignatureDoesNotMatch": "{uri}: {endpoint} refused the secret; set AWS_SECRET_ACCESS_KEY to the access key's own",
    "InvalidAccessKeyId": "{uri}: {endpoint} does not know the access key; set AWS_ACCESS_KEY_ID",
}


def s3_client():
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    own_endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    seconds = deadline()
    config = Config(
        # One request is repeated at once, so that a large file does not start again for it; for the rest see `_ask`.
        retries={"total_max_attempts": 2, "mode": "standard"},
        connect_timeout=min(5, seconds / 8),
        read_timeout=min(30, seconds / 4),
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


def deadline(size: int = 0) -> float:
    """Seconds that an operation may take which moves ``size`` bytes."""
    return seconds_of("FASTPRUNE_S3_DEADLINE", DEADLINE) + 2 * size / RATE  # of which a try gets half


_lost: list[tuple[float, float]] = []
"""When an operation ended, and the seconds that it took beyond what it should."""


def lost() -> float:
    """Seconds that S3 has made this process wait within the last hour, beyond what files of that size take."""
    _lost[:] = [(when, seconds) for when, seconds in _lost if time.monotonic() - when < 3600]
    return sum(seconds for _, seconds in _lost)


@contextmanager
def _waiting(size: int) -> Iterator[float]:
    """The seconds of one operation. A server that is slow each time costs a run of many files a stated time as well."""
    left = max(ALL * deadline() - lost(), PROBE)
    begin = time.monotonic()
    try:
        yield min(deadline(size), left + 2 * size / RATE)
    finally:
        if (more := time.monotonic() - begin - size / RATE) > SOON:
            _lost.append((time.monotonic(), more))


def _transfer():
    from boto3.s3.transfer import TransferConfig

    # Threads of its own would be waited for when the interpreter ends, also those that hang.
    return TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, use_threads=False)


def _digest(answer: dict, sha256: str) -> tuple[str, str]:
    """Algorithm and digest that prove an object's bytes; the digest is empty where nothing does."""
    if known := sha256 or answer["Metadata"].get("sha256", ""):
        return "sha256", known
    etag = answer["ETag"].strip('"')
    # With a key of the server's own or the client's, an ETag looks like an MD5 and is none.
    encrypted = answer.get("ServerSideEncryption", "").startswith("aws:kms") or "SSECustomerAlgorithm" in answer
    return "md5", etag if _MD5.fullmatch(etag) and not encrypted else ""


def _passes(error: Exception) -> bool:
    """Whether an error may be gone at the next try: no connection, no whole answer, or a 5xx."""
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError, IncompleteReadError, SSLError

    cause = _cause(error)
    if isinstance(cause, ClientError):
        return cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500
    return isinstance(cause, ConnectionError | HTTPClientError | IncompleteReadError) and not isinstance(
        cause, SSLError
    )


def _cause(error: BaseException) -> BaseException:
    """What lies beneath an upload's error, which boto3 wraps."""
    from boto3.exceptions import S3UploadFailedError

    return error.__context__ or error if isinstance(error, S3UploadFailedError) else error


def _code(error) -> str:
    return str(error.response["Error"].get("Code", ""))
