"""Tracking against a real MLflow with authentication, with faults between."""

import re
import shlex

import faults
import pytest
from click.testing import CliRunner
from tiny_config import write_config

from fastprune.cli.main import main
from fastprune.errors import Unreachable
from fastprune.stages.register import register
from fastprune.tracking import channel, mlflow_store, runs, sync
from fastprune.tracking.spool import Spool

pytestmark = pytest.mark.faults


@pytest.fixture
def between(server, monkeypatch):
    """A proxy before MLflow, and short deadlines unless the long ones are asked for."""
    if not faults.LONG:
        monkeypatch.setenv("FASTPRUNE_TRACKING_SECONDS", "12")
        monkeypatch.setenv("FASTPRUNE_TRACKING_RUN_SECONDS", "24")
        # A process of its own would end with its step; here the tries that were given up end soon.
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    with faults.proxy(server) as proxy:
        yield proxy


def tracked(uri, name):
    """A model's run with one stage, each step as in a process of its own."""
    run = runs.start(uri, name, {"seed": 0}, experiment="faults")
    channel._states.clear()
    with runs.stage(uri, run, "search") as log:
        log.metrics["macs_kept"] = 0.5
    channel._states.clear()
    runs.end(uri, run)
    channel._states.clear()
    return run


def found(uri, name):
    """Name, status and metrics of the runs of a model."""
    client = mlflow_store.connect(uri)
    experiment = client.get_experiment_by_name("faults").experiment_id
    [model] = client.search_runs([experiment], f"run_name = '{name}'")
    below = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{model.info.run_id}'")
    return [(run.info.run_name, run.info.status, run.data.metrics.get("macs_kept")) for run in (model, *below)]


@pytest.mark.parametrize(
    "name, fault",
    [
        ("never answers", {"fault": faults.silent}),
        ("never answers to runs/create, which it does", {"fault": faults.lost, "path": "runs/create"}),
        ("answers 503", {"fault": faults.status(503)}),
        ("10 bytes a second", {"fault": faults.trickle(head=True)}),
    ],
)
def test_what_a_fault_keeps_away_is_sent_afterwards_once(between, told, name, fault):
    between.harm(**fault)
    clock = faults.Clock()
    tracked(between.address, name)
    seconds = clock.seconds
    limit = 75 if faults.LONG else 12
    assert seconds < limit + 10  # the rest is mlflow's import
    assert Spool.open().families()
    between.heal()
    sync.send_kept(between.address, Spool.open())
    assert found(between.address, name) == [(name, "FINISHED", None), ("search", "FINISHED", 0.5)]
    assert sync.send_kept(between.address, Spool.open()).operations == 0
    told("MLflow", name, f"one deadline ({limit} s) a run; sent later, once", seconds, "all there, once")


def test_a_registration_out_of_reach_fails_its_step_and_works_when_mlflow_is_back(between, told, folders, tmp_path):
    given = {name: folders[name] for name in ("pruned", "report", "evaluation")} | {"released": tmp_path / "r"}
    between.stop()
    clock = faults.Clock()
    run = runs.start(between.address, "refuses", {"seed": 0}, experiment="faults")
    with pytest.raises(Unreachable, match="not registered as"), runs.stage(between.address, run, "register"):
        register(**given, model_name=tmp_path.name, run_id=run, tracking_uri=between.address)
    seconds = clock.seconds
    assert not (tmp_path / "r").exists()
    between.start()
    channel._states.clear()
    with runs.stage(between.address, run, "register") as log:
        log.record(register(**given, model_name=tmp_path.name, run_id=run, tracking_uri=between.address))
    [model, failed, done] = found(between.address, "refuses")
    assert model[1] == "FINISHED" and {failed[1], done[1]} == {"FAILED", "FINISHED"}
    client = mlflow_store.connect(between.address)
    [version] = client.search_model_versions(f"name='{tmp_path.name}'")
    assert client.get_run(version.run_id).info.run_name == "refuses"
    told("MLflow", "refuses connections, then is back", "the step fails, and again registers", seconds, "one version")


def test_a_whole_pipeline_beside_a_hanging_mlflow_ends_in_time_and_is_all_there_afterwards(
    between, told, source, tmp_path, monkeypatch
):
    tracking = {"uri": between.address, "experiment": "faults"}
    config = write_config(
        tmp_path / "c.yaml", source, name="hanging", tracking=tracking, release={"model_name": tmp_path.name}
    )
    monkeypatch.chdir(tmp_path)
    between.harm(faults.silent)
    clock = faults.Clock()
    done = CliRunner().invoke(main, ["run", str(config), "--output-dir", "out", "--work-dir", str(tmp_path / "work")])
    seconds = clock.seconds
    assert done.exit_code == 1 and f"register: MLflow at {between.address} cannot be reached" in done.output
    assert not re.search(r"register +success", done.output)
    [command] = re.findall(r"`fastprune (register .*?)`", done.output)
    between.heal()
    synced = CliRunner().invoke(main, ["sync", "--tracking-uri", between.address])
    assert synced.exit_code == 0, synced.output
    assert "version 1" in CliRunner().invoke(main, [*shlex.split(command), "--tracking-uri", between.address]).output
    runs_of_it = found(between.address, "bert macs-0-5")
    assert len(runs_of_it) == 11 and {status for _, status, _ in runs_of_it} == {"FINISHED", "FAILED"}
    assert {name for name, status, _ in runs_of_it if status == "FAILED"} == {"bert macs-0-5", "register"}
    assert sum(path.endswith("runs/create") for _, path in between.asked) <= 3 + len(runs_of_it)
    limit = 150 if faults.LONG else 24
    told("MLflow", "never answers, a whole pipeline", f"{limit} s of waiting, register fails", seconds, synced.output)
