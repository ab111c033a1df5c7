"""Servers for the tests of this folder, started once; without them its tests are skipped."""

import secrets
from pathlib import Path

import pytest

from tests import servers


def pytest_collection_modifyitems(items):
    own = [item for item in items if Path(__file__).parent in item.path.parents]
    if own:
        mark = servers.skip_without(servers.missing())
        for item in own:
            item.add_marker(mark)


@pytest.fixture(scope="session")
def s3_settings(tmp_path_factory):
    with servers.s3(tmp_path_factory.mktemp("s3") / "server") as settings:
        yield settings


@pytest.fixture
def s3(s3_settings, monkeypatch, tmp_path):
    """The environment of one who may do everything on the S3 server; gives a boto3 client."""
    import boto3

    for name, value in s3_settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FASTPRUNE_CACHE", str(tmp_path / "cache"))
    return boto3.client("s3")


@pytest.fixture(scope="session")
def database():
    """The URL of the MLflow server's PostgreSQL database."""
    with servers.postgres() as url:
        yield url


@pytest.fixture
def own_database(database):
    """The URL of an empty PostgreSQL database of the test's own.

    Whoever uses a database first says where the artifacts of its experiments lie: the server's is the server's alone.
    """
    import psycopg

    name = f"own_{secrets.token_hex(4)}"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return database.rpartition("/")[0] + f"/{name}"


@pytest.fixture(scope="session")
def server_settings(tmp_path_factory, s3_settings, database):
    """The environment of the administrator of an MLflow server on PostgreSQL and S3."""
    folder = tmp_path_factory.mktemp("mlflow") / "server"
    with servers.mlflow_server(folder, database, f"s3://{servers.BUCKET}/mlflow", s3_settings) as address:
        yield {**servers.MLFLOW_ADMIN, "MLFLOW_TRACKING_URI": address, "FASTPRUNE_LEDGER": database}


@pytest.fixture
def server(server_settings, s3, monkeypatch):
    """The administrator's environment; gives the server's address."""
    for name, value in server_settings.items():
        monkeypatch.setenv(name, value)
    return server_settings["MLFLOW_TRACKING_URI"]
