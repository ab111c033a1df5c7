"""Objects in S3, and what its refusals mean.

The only module that imports boto3, and only inside its functions. Endpoint, region, credentials and profile are the
usual AWS settings (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ``~/.aws/config`` ...).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastprune.errors import InputError
from fastprune.store.secrets import shown

ATTEMPTS = 5
"""Tries of one S3 request, with exponential backoff between them, before it counts as failed."""

PART = 16 * 2**20
"""Bytes of a part; a larger file goes up in several, and counts only when all have arrived."""

_S3 = re.compile(r"s3:/+(?P<bucket>[^/]+)/*(?P<key>.*)")  # pathlib leaves one of the two slashes


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
                REMEDIES.get(code, "{uri}: S3 at {endpoint} refused ({error})").format(
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


REMEDIES = {
    "NoSuchBucket": "{uri}: there is no bucket {bucket} at {endpoint}; create it, or correct the name",
    "NoSuchKey": "{uri}: there is nothing at {endpoint} under this name; correct the key",
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
