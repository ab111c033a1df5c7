"""A store with registered versions of a tiny pruned model."""

import json
import shutil

import pytest
from click.testing import CliRunner

from fastprune.cli.main import main
from fastprune.releases import promotion, registration
from fastprune.releases.policy import Policy
from fastprune.tracking import mlflow_store

LENIENT = Policy(max_accuracy_drop=1.0)
NAME = "tiny"


def variant(folders, folder, note, **metrics):
    """The pruned model with another text in its card, and its metrics with other figures."""
    shutil.copytree(folders["pruned"], folder)
    (folder / "artifact.json").unlink()
    (folder / "README.md").write_text(note)
    known = json.loads((folders["report"] / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(known | metrics))
    return folder


@pytest.fixture(scope="module")
def made(folders, tmp_path_factory):
    """A store with three registered versions, to be copied."""
    root = tmp_path_factory.mktemp("release")
    uri = f"sqlite:///{root}/mlflow.db"
    for note in ("one", "two", "three"):
        folder = variant(folders, root / note, note)
        registration.register(
            uri, folder, NAME, json.loads((folder / "metrics.json").read_text()), by="ann", tags={"owner": "ann"}
        )
    return root


def copied(root, tmp_path, monkeypatch):
    """A copy of the store in a folder, which MLflow's and the record's variables do not lead away from."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("FASTPRUNE_LEDGER", raising=False)
    shutil.copy(root / "mlflow.db", tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def store(made, tmp_path, monkeypatch):
    """A store of the test's own, with the same three versions."""
    return copied(made, tmp_path, monkeypatch)


def aliases(uri):
    found = mlflow_store.connect(uri).get_registered_model(NAME).aliases
    return {alias: str(version) for alias, version in found.items()}


def command(store, *arguments, status=0):
    """What ``fastprune`` prints."""
    done = CliRunner().invoke(main, [*map(str, arguments), "--tracking-uri", store])
    assert done.exit_code == status, done.output
    return done.output


def moves(store):
    """Action, former and new version of every event."""
    return [(event.action, event.from_version, event.to_version) for event in promotion.history(store, NAME)]
