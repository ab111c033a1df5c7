"""A stand-in of the Kubeflow service, and Airflow, for the tests of this folder."""

import kfp
import pytest
from airflow_home import Airflow
from kfp_server import serve


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(kfp.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    for name in ("ENDPOINT", "TOKEN", "SA_TOKEN_PATH", "COOKIES", "NAMESPACE", "CA_CERT"):
        monkeypatch.delenv(f"KF_PIPELINES_{name}", raising=False)
    with serve() as running:
        yield running


@pytest.fixture
def described(tmp_path):
    return Airflow(tmp_path / "airflow")


@pytest.fixture(scope="session")
def airflow(tmp_path_factory):
    """With a database, in which DAGs can run."""
    made = Airflow(tmp_path_factory.mktemp("airflow") / "home")
    made.run("-m", "airflow", "db", "migrate")
    return made
