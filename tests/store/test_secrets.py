"""A name, a password, a token or a signature in a URI or an exception's text is never shown."""

import pytest

from fastprune.store.secrets import shown, tells_secret


@pytest.mark.parametrize(
    "text, masked",
    [
        ("http://ann:s3cr3t@host:5000/x", "http://ann:***@host:5000/x"),
        ("http://s3cr3t@host/x", "http://***@host/x"),
        ("postgresql://ann:s3/c@r3t@host/db?password=s3cr3t&x=1", "postgresql://ann:***@host/db?password=***&x=1"),
        ("https://host/x?sv=1&sig=s3cr3t%2F&y=2", "https://host/x?sv=1&sig=***&y=2"),
        ("connection failed: user=ann password='s3 cr3t' host=h", "connection failed: user=ann password=*** host=h"),
        ("(url: /api?token=s3cr3t) and http://e:s3cr3t@g.", "(url: /api?token=***) and http://e:***@g."),
        ("AWS_SECRET_ACCESS_KEY=s3cr3t", "AWS_SECRET_ACCESS_KEY=***"),
        ("sqlite:////tmp/ann@home.db", "sqlite:////tmp/ann@home.db"),
        ("postgresql://host:5432/db", "postgresql://host:5432/db"),
    ],
)
def test_secrets_are_masked_and_nothing_else(text, masked):
    assert shown(text) == masked
    assert shown(masked) == masked


@pytest.mark.parametrize(
    "setting, secret",
    [
        ("MLFLOW_TRACKING_PASSWORD=s3cr3t", True),
        ("AWS_SECRET_ACCESS_KEY=s3cr3t", True),
        ("HF_TOKEN=s3cr3t", True),
        ("FASTPRUNE_SIGNING_KEY=-----BEGIN PRIVATE KEY-----\nMC4CAQ", True),
        ("FASTPRUNE_SIGNING_KEY=/keys/pipeline.pem", False),
        ("http://ann:s3cr3t@host", True),
        ("https://s3cr3t@host", True),
        ("postgresql://ann:s3cr3t@host/db", True),
        ("FASTPRUNE_LEDGER=postgresql://ann@host/db", False),
        ("TOKENIZERS_PARALLELISM=false", False),
        ("AWS_ENDPOINT_URL=http://s3.storage:9000", False),
        ("s3://team-a/fastprune", False),
        ("", False),
    ],
)
def test_a_setting_that_holds_a_secret(setting, secret):
    assert tells_secret(setting) is secret
