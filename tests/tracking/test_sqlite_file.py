"""The SQLite store of MLflow is whole, or made again, or refused by name."""

import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fastprune.errors import InputError
from fastprune.tracking import mlflow_store, runs, sqlite_file

MAKE = "import sys, pathlib; from fastprune.tracking.sqlite_file import prepare; prepare(pathlib.Path(sys.argv[1]))"


@pytest.fixture(autouse=True)
def _no_other_store(monkeypatch):
    """MLflow's set_tracking_uri, which earlier tests have called, leaves this behind."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    file = tmp_path_factory.mktemp("whole") / "mlflow.db"
    sqlite_file.prepare(file)
    return file


def half_made(file, migrations=20):
    """What MLflow leaves that is killed: its first tables and some of the migrations."""
    from alembic import command
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine_with_retry(f"sqlite:///{file}")
    utils.InitialBase.metadata.create_all(engine)
    config = utils._get_alembic_config(str(engine.url))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, f"+{migrations}")
    engine.dispose()


@pytest.mark.parametrize("left", ["half made", "empty"])
def test_a_store_whose_making_was_cut_off_is_made_again(tmp_path, caplog, left):
    file = tmp_path / "mlflow.db"
    if left == "empty":
        file.touch()
    else:
        half_made(file)
    uri = mlflow_store.tracking_uri(tmp_path)
    run = runs.start(uri, "a run", {"seed": 0})
    assert mlflow_store.connect(uri).get_run(run).data.params == {"seed": "0"}
    assert "cut off" in caplog.text and (tmp_path / "mlflow.db.cut-off-1").exists()


def test_one_that_holds_runs_is_refused_by_name_and_left_alone(tmp_path):
    file = tmp_path / "mlflow.db"
    half_made(file)
    with sqlite3.connect(file) as database:
        database.execute("INSERT INTO runs (run_uuid, name) VALUES ('1', 'precious')")
    before = file.read_bytes()
    with pytest.raises(InputError, match=r"mlflow\.db: .*holds runs.*mlflow db upgrade sqlite:///"):
        runs.start(mlflow_store.tracking_uri(tmp_path), "a run", {})
    assert file.read_bytes() == before


def test_one_of_another_version_that_holds_runs_is_refused(tmp_path, whole):
    file = tmp_path / "mlflow.db"
    file.write_bytes(whole.read_bytes())
    with sqlite3.connect(file) as database:
        database.execute("UPDATE alembic_version SET version_num = 'older'")
        database.execute("INSERT INTO runs (run_uuid, name) VALUES ('1', 'precious')")
    sqlite_file.prepare(file)  # the steps after the first ask no more than they must
    with pytest.raises(InputError, match="mlflow db upgrade"):
        sqlite_file.prepare(file, version=True)


def test_what_is_no_database_is_refused_by_name(tmp_path):
    (tmp_path / "mlflow.db").write_text("my notes, which are longer than a header of a hundred bytes. " * 4)
    with pytest.raises(InputError, match=r"mlflow\.db: no MLflow store can be read there"):
        runs.start(mlflow_store.tracking_uri(tmp_path), "a run", {})


def test_a_folder_that_cannot_be_written_is_refused_by_name(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(InputError, match="cannot be made there"):
        sqlite_file.prepare(tmp_path / "taken" / "mlflow.db")


def test_killed_while_it_is_made_it_leaves_nothing_that_disturbs(tmp_path, whole):
    file = tmp_path / "mlflow.db"
    maker = subprocess.Popen([sys.executable, "-c", MAKE, file])
    end = time.monotonic() + 60
    while not list(tmp_path.glob(".mlflow.db-*")):
        assert time.monotonic() < end and maker.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)
    maker.kill()
    maker.wait()
    assert not file.exists()
    sqlite_file.prepare(file, version=True)
    assert sqlite_file._tables(file) == sqlite_file._tables(whole)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [".mlflow.db.lock", "mlflow.db"]


def test_of_many_at_once_one_makes_it(tmp_path, monkeypatch):
    made, make = [], sqlite_file._make
    monkeypatch.setattr(sqlite_file, "_make", lambda file: (made.append(file), make(file)))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(sqlite_file.prepare, [tmp_path / "mlflow.db"] * 4))
    assert made == [tmp_path / "mlflow.db"]


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:", "http://127.0.0.1", "postgresql://a/b"])
def test_stores_without_a_file(uri):
    assert sqlite_file.file_of(uri) is None
