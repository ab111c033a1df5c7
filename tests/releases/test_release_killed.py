"""kill -9 in a registration and in a promotion: nothing half-done is visible, the next start completes."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tiny_releases import LENIENT, NAME, aliases

from fastprune.releases import ledger, promotion, record, registration, verification
from fastprune.tracking import mlflow_store, runs, sync

PROMOTE = """
    from fastprune.releases.policy import Policy
    promotion.promote(uri, "tiny", "2", Policy(max_accuracy_drop=1.0), why="better")
"""
REGISTER = """
    registration.register(uri, folder, "tiny", json.loads((folder / "metrics.json").read_text()), by="ann")
"""
POINTS = {
    "before the record": ("StoreLedger.append", "before"),
    "after the record": ("StoreLedger.append", "after"),
    "after one alias of two": ("MlflowClient.set_registered_model_alias", "after"),
}


def killed(uri, folder, action, target, when):
    """Run an action in a process that kills itself when it comes to a function, or has just done it."""
    script = textwrap.dedent(f"""
        import json, os, signal, sys
        from pathlib import Path
        from mlflow import MlflowClient
        import mlflow
        from fastprune.releases import promotion, registration
        from fastprune.releases.ledger import StoreLedger
        uri, folder = sys.argv[1], Path(sys.argv[2])
        owner, name = {target.rpartition(".")[0]}, {target.rpartition(".")[2]!r}
        done = getattr(owner, name)
        def die(*given, **named):
            if name == "append" and given[1].number == 1:  # it is there: the right to write is asked for
                return done(*given, **named)
            if {when == "after"}:
                done(*given, **named)
            os.kill(os.getpid(), signal.SIGKILL)
        setattr(owner, name, die)
        """) + textwrap.dedent(action)
    environment = {**os.environ, "PYTHONPATH": str(Path(promotion.__file__).parents[2])}
    ended = subprocess.run(
        [sys.executable, "-c", script, uri, str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr


@pytest.mark.parametrize("target, when", POINTS.values(), ids=POINTS)
def test_a_killed_promotion(store, made, target, when):
    promotion.promote(store, NAME, "1", LENIENT, why="the first")
    killed(store, made, PROMOTE, target, when)
    assert aliases(store)["champion"] == "1", "the old champion stands until the new one does"
    recorded = len(promotion.history(store, NAME)) == 2
    assert recorded == (when == "after")

    if recorded:  # whoever starts next completes it
        record.settle(mlflow_store.connect(store), ledger.open_ledger(store), NAME)
    else:
        promotion.promote(store, NAME, "2", LENIENT, why="better")
    assert aliases(store) == {"champion": "2", "previous": "1"}
    assert [event.to_version for event in promotion.history(store, NAME)] == ["1", "2"]


@pytest.mark.parametrize(
    "target, when",
    [
        ("mlflow.MlflowClient.log_model_artifacts", "before"),
        ("mlflow.MlflowClient.finalize_logged_model", "before"),
        ("MlflowClient.create_model_version", "before"),
        ("MlflowClient.create_model_version", "after"),
    ],
    ids=["in the upload", "after the upload", "before the version", "after the version"],
)
def test_a_killed_registration(tmp_path, made, target, when):
    uri, folder = f"sqlite:///{tmp_path}/mlflow.db", made / "one"
    client = mlflow_store.connect(uri)
    killed(uri, folder, REGISTER, target, when)
    found = client.search_model_versions(f"name='{NAME}'")
    assert len(found) == (when == "after")
    if found:
        verification.verify(uri, NAME, found[0].version)
    sync.close_orphans(client)  # as the next run does, of whatever
    experiment = client.get_experiment_by_name(runs.EXPERIMENT).experiment_id
    assert [run.info.status for run in client.search_runs([experiment])] == ["KILLED"]

    assert registration.register(uri, folder, NAME, json.loads((folder / "metrics.json").read_text())) == "1"
    assert len(client.search_model_versions(f"name='{NAME}'")) == 1
    assert [run.info.status for run in client.search_runs([experiment])] == ["FINISHED"]
    assert [model.status for model in client.search_logged_models([experiment])] == ["READY"]
    assert verification.verify(uri, NAME, "1").difference < 1e-5
