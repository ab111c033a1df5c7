"""Runs whose process is gone are closed; those of the living are left alone."""

import subprocess
import sys
import time

import pytest

from fastprune.stages import steps
from fastprune.tracking import mlflow_store, operations, runs, sync

HANGS = """
import sys, time
from fastprune.tracking import runs
with runs.stage(sys.argv[1], sys.argv[2], "killed"):
    print("begun", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A SQLite store of this module's own."""
    return mlflow_store.tracking_uri(tmp_path_factory.mktemp("store"))


def below(store, run):
    client = mlflow_store.connect(store)
    run_id = run.rpartition(".")[2]
    found = client.search_runs([client.get_run(run_id).info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    return {one.info.run_name: one.info.status for one in found}


def test_a_killed_stage_is_closed_by_the_next_run_and_a_living_one_is_not(store, caplog):
    run = runs.start(store, "a run", {})
    step = subprocess.Popen([sys.executable, "-c", HANGS, store, run], stdout=subprocess.PIPE, text=True)
    assert step.stdout is not None and step.stdout.readline() == "begun\n"
    runs.start(store, "the next", {})
    assert below(store, run) == {"killed": "RUNNING"}
    step.kill()
    step.wait()
    with runs.stage(store, run, "living"):
        runs.start(store, "the one after", {})
        assert below(store, run) == {"killed": "KILLED", "living": "RUNNING"}
    assert "closed as killed, their processes being gone: killed" in caplog.text


def test_a_models_run_ends_with_the_pipeline_that_it_was_opened_by(store, monkeypatch):
    with subprocess.Popen(["sleep", "600"]) as pipeline:
        import psutil

        monkeypatch.setattr(psutil.Process, "parents", lambda _: [psutil.Process(pipeline.pid)])
        monkeypatch.setattr(operations, "_forks_steps", lambda process: process.pid == pipeline.pid)
        run = runs.start(store, "a model", {})
        budget = runs.start(store, "a budget", {}, parent=run)
        client = mlflow_store.connect(store)
        assert not {"a model", "a budget"} & set(sync.close_orphans(client))
        pipeline.kill()
    assert set(sync.close_orphans(client)) >= {"a model", "a budget"}
    assert {client.get_run(one.rpartition(".")[2]).info.status for one in (run, budget)} == {"KILLED"}


def test_elsewhere_a_run_is_gone_after_long_silence(store, monkeypatch):
    monkeypatch.setattr(operations, "machine", lambda: "another machine")
    client = mlflow_store.connect(store)
    run = runs.start(store, "elsewhere", {})
    assert "elsewhere" not in sync.close_orphans(client)
    with runs.stage(store, run, "sampled"):
        monkeypatch.setattr(operations, "machine", lambda: "this machine")
        client.log_metric(
            _id := client.search_runs(["1"], "run_name = 'sampled'")[0].info.run_id, operations.MONITORED, 1.0
        )
        now = time.time()
        monkeypatch.setattr(sync.time, "time", lambda: now + sync.SILENT - 60)
        assert not {"sampled", "elsewhere"} & set(sync.close_orphans(client))
        monkeypatch.setattr(sync.time, "time", lambda: now + sync.SILENT + 60)
        assert "sampled" in (closed := sync.close_orphans(client)) and "elsewhere" not in closed
        monkeypatch.setattr(sync.time, "time", lambda: now + sync.ABANDONED + 60)
        assert "elsewhere" in sync.close_orphans(client)
        monkeypatch.undo()
    assert client.get_run(_id).info.end_time < (now + 60) * 1000


def test_runs_that_are_not_ours_are_left_alone(store, monkeypatch):
    client = mlflow_store.connect(store)
    other = client.create_run("0").info.run_id
    monkeypatch.setattr(sync.time, "time", lambda: time.monotonic() + 1e10)
    sync.close_orphans(client)
    assert client.get_run(other).info.status == "RUNNING"


@pytest.mark.parametrize("raised, status", [(ZeroDivisionError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_any_stage_that_fails_closes_the_runs_above_it(store, raised, status):
    model = steps.open_run({"name": "a model", "parameters": {}, "experiment": "sweeps"}, tracking_uri=store)
    budget = steps.open_run(
        {"name": "a budget", "parameters": {}, "experiment": "sweeps"}, parent=model, tracking_uri=store
    )
    with pytest.raises(raised), runs.stage(store, budget, "search"):
        raise raised
    client = mlflow_store.connect(store)
    assert client.get_run(model).info.status == status
    assert below(store, model) == {"a budget": status} and below(store, budget) == {"search": status}
