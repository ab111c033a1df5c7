"""A stand-in of the Kubeflow service, for the tests of this folder."""

import kfp
import pytest
from kfp_server import serve


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(kfp.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    for name in ("ENDPOINT", "TOKEN", "SA_TOKEN_PATH", "COOKIES", "NAMESPACE", "CA_CERT"):
        monkeypatch.delenv(f"KF_PIPELINES_{name}", raising=False)
    with serve() as running:
        yield running
