"""Secrets planted in the addresses of MLflow and of the record of releases are in nothing that is said or written."""

import logging

import pytest

from fastprune.errors import InputError
from fastprune.releases.ledger import PostgresLedger, open_ledger
from fastprune.tracking import mlflow_store, runs

SECRET = "pl4nted"


@pytest.mark.parametrize("uri", [f"http://ann:{SECRET}@127.0.0.1:1", f"http://127.0.0.1:1/?token={SECRET}"])
def test_a_server_that_is_away_is_told_without_its_secrets(monkeypatch, tmp_path, caplog, capfd, uri):
    for name, value in {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_TRACKING_URI": uri}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert runs.start("", "a run", {"source": uri})
    with pytest.raises(InputError) as refused, mlflow_store.explained(uri):
        mlflow_store.connect(uri).get_registered_model("tiny")
    said = [record.getMessage() for record in caplog.records if record.name.startswith("fastprune")]
    assert len(said) == 1 and "without tracking" in said[0] and "cannot be reached" in str(refused.value)
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert SECRET not in "".join([*said, str(refused.value), *capfd.readouterr(), written])


def test_a_record_out_of_reach_is_told_without_its_password(monkeypatch):
    pytest.importorskip("psycopg")
    url = f"postgresql://ann:{SECRET}@127.0.0.1:1/releases?password={SECRET}"
    monkeypatch.setenv("FASTPRUNE_LEDGER", url)
    with pytest.raises(InputError, match="cannot be used") as refused:
        open_ledger("http://127.0.0.1:5000")
    assert SECRET not in str(refused.value) and SECRET not in repr(PostgresLedger(url))
