"""Local copies of what lies at ``s3://``: their bytes are compared at every use."""

from types import SimpleNamespace

import pytest

from fastprune.errors import InputError
from fastprune.store import copies, s3

CONTENT = {"models/a/config.json": b"{}", "models/a/sub/weights": b"0123"}


@pytest.fixture
def fetched(monkeypatch, tmp_path):
    """A bucket that is a dictionary; the keys downloaded from it."""
    keys, content = [], dict(CONTENT)

    def download(_, key, file, *, size, etag):
        assert (size, etag) == (len(content[key]), "1")
        keys.append(key)
        file.write_bytes(content[key])
        return True

    def objects(_, prefix):
        return [{"Key": k, "ETag": "1", "Size": len(v)} for k, v in content.items() if k.startswith(prefix)]

    monkeypatch.setattr(copies, "s3_client", lambda: SimpleNamespace(meta=SimpleNamespace(endpoint_url="http://s3")))
    monkeypatch.setattr(s3.S3Store, "objects", objects)
    monkeypatch.setattr(s3.S3Store, "download", download)
    monkeypatch.setenv("FASTPRUNE_CACHE", str(tmp_path / "cache"))
    return SimpleNamespace(keys=keys, content=content)


@pytest.mark.parametrize("harm", [lambda file: file.write_bytes(b"9999"), lambda file: file.unlink()])
def test_a_damaged_copy_is_taken_again(fetched, harm):
    copy = copies.local("s3://bucket/models/a")
    assert (copy / "sub" / "weights").read_bytes() == b"0123" and len(fetched.keys) == 2
    assert copies.local("s3://bucket/models/a") == copy and len(fetched.keys) == 2
    harm(copy / "sub" / "weights")
    assert (copies.local("s3://bucket/models/a") / "sub" / "weights").read_bytes() == b"0123"
    assert len(fetched.keys) == 4


def test_a_key_that_leads_out_of_the_copy_is_refused(fetched, tmp_path):
    fetched.content["models/a/../../../out"] = b"hostile"
    with pytest.raises(InputError, match="not a name inside"):
        copies.local("s3://bucket/models/a")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
