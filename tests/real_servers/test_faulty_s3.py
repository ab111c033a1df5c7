"""S3 that fails: a proxy before the real server makes the faults."""

import pytest
from faults import proxy, status

from fastprune.store import storage
from tests.servers import BUCKET

pytestmark = pytest.mark.faults


@pytest.fixture
def faulty(s3, monkeypatch):
    """A proxy before the S3 server, which the environment names."""
    with proxy(s3.meta.endpoint_url) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.address)
        yield made


def test_what_fails_for_a_while_is_asked_again(faulty, s3):
    s3.put_object(Bucket=BUCKET, Key="faults/key", Body=b"content")
    store = storage.open_store(f"s3://{BUCKET}/faults")
    faulty.harm(status(503), method="GET", path="faults/key", times=2)
    assert store.read("key") == b"content"
    assert [asked for asked in faulty.asked if asked[0] == "GET"] == [("GET", f"/{BUCKET}/faults/key")] * 3
