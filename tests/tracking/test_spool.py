"""A store that hangs, refuses or loses answers: a stated time, and everything is sent later, once."""

import json
import logging
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faults
import pytest
import requests
from click.testing import CliRunner

from fastprune.cli.main import main
from fastprune.errors import InputError
from fastprune.stages.register import register
from fastprune.tracking import channel, deadlines, mlflow_store, operations, runs, sync
from fastprune.tracking.spool import Spool, place


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A SQLite store of this module's own."""
    return mlflow_store.tracking_uri(tmp_path_factory.mktemp("store"))


@pytest.fixture
def hanging(monkeypatch):
    """A server that takes requests and never answers; deadlines of a second, and two for a run."""
    import mlflow.tracking  # noqa: F401  # its seconds are not the server's

    monkeypatch.setenv("FASTPRUNE_TRACKING_SECONDS", "1")
    monkeypatch.setenv("FASTPRUNE_TRACKING_RUN_SECONDS", "2")
    with faults.proxy("http://127.0.0.1:1") as server:
        server.harm(faults.silent)
        yield server


@pytest.fixture
def waited(monkeypatch):
    """The seconds that operations were given which had no answer in them: what a server costs on any machine."""
    passed, within = [], deadlines.within

    def noted(seconds, *work):
        try:
            return within(seconds, *work)
        except deadlines.DeadlinePassed:
            passed.append(seconds)
            raise

    monkeypatch.setattr(deadlines, "within", noted)
    return passed


@pytest.fixture
def fault(monkeypatch):
    """Sets when the sending of an operation fails: ``before`` or ``after`` it is done, or not."""
    send, now = operations.send, {"fails": ""}

    def faulty(uri, operation, again=False):
        if now["fails"] == "before":
            raise requests.ConnectionError("away")
        answer = send(uri, operation, again)
        if now["fails"] == "after":
            raise requests.ConnectionError("the answer is lost")
        return answer

    monkeypatch.setattr(channel, "send", faulty)
    monkeypatch.setattr(operations, "send", faulty)
    return lambda when: now.update(fails=when)


def another_process():
    """What one process knows of a run, the next does not."""
    channel._states.clear()


def whole_run(store, folder, between=lambda: None):
    """A model's run with a stage in it, each in a process of its own."""
    (folder / "masks").write_text("masks")
    run = runs.start(store, folder.name, {"seed": 0, "source": "s3://key:secret@host/model"})
    between()
    another_process()
    with runs.stage(store, run, "search") as log:
        log.metrics["macs_kept"] = 0.5
        log.parameters["keep_ratio"] = 0.5
        log.artifacts.append(folder / "masks")
    another_process()
    (folder / "masks").unlink()
    runs.end(store, run)
    return run


def check_whole(store, name):
    """Every run of the name is there once, with all that it had to tell."""
    client = mlflow_store.connect(store)
    experiment = client.get_experiment_by_name("fastprune").experiment_id
    [model] = client.search_runs([experiment], f"run_name = '{name}'")
    [stage] = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{model.info.run_id}'")
    assert model.info.status == stage.info.status == "FINISHED"
    assert model.data.params == {"seed": "0", "source": "s3://key:***@host/model"}
    assert stage.data.params == {"keep_ratio": "0.5"} and stage.data.metrics["macs_kept"] == 0.5
    assert len(client.get_metric_history(stage.info.run_id, "macs_kept")) == 1
    assert [file.path for file in client.list_artifacts(stage.info.run_id)] == ["masks"]
    assert model.info.start_time <= stage.info.start_time <= stage.info.end_time <= model.info.end_time


def test_a_server_that_hangs_costs_one_deadline_a_run(hanging, waited, tmp_path, caplog, told):
    clock = faults.Clock()
    with caplog.at_level(logging.WARNING):
        whole_run(hanging.address, tmp_path)
    seconds, asked = clock.seconds, len(hanging.asked)
    assert waited == [1] and asked <= 2 and caplog.text.count(runs.WITHOUT) == 1
    [family] = Spool.open().families()
    assert [Spool.open().read(key)["do"] for key in Spool.open().keys(family)].count("start") == 2
    told("MLflow", "never answers", "one deadline (here 1 s) a run", seconds, f"{asked} requests, all kept")


def test_a_hanging_server_costs_a_registration_no_more_than_the_run_may(hanging, waited, compression, told):
    clock = faults.Clock()
    run = runs.start(hanging.address, "a run", {})
    another_process()
    with pytest.raises(InputError) as refused, runs.stage(hanging.address, run, "register"):
        register(**compression, model_name="tiny", run_id=run, tracking_uri=hanging.address)
    assert sum(waited) <= 2 and len(hanging.asked) <= len(waited)  # no request that nothing bounds
    said = str(refused.value)
    assert hanging.address in said and "cannot be reached" in said and "not registered as tiny" in said
    assert not compression["released"].exists()
    told(
        "MLflow",
        "never answers, at registration",
        "two deadlines, and the step fails",
        clock.seconds,
        "refused, with the remedy",
    )


def test_a_slow_server_is_given_up_when_the_run_has_waited_enough(store, monkeypatch, fault):
    monkeypatch.setattr(deadlines, "SLOW", 0.0)
    monkeypatch.setenv("FASTPRUNE_TRACKING_SECONDS", "30")
    monkeypatch.setenv("FASTPRUNE_TRACKING_RUN_SECONDS", "30")
    run = runs.start(store, "slow", {})
    Spool.open().spend(run, 31)  # by another step
    another_process()
    runs.log(store, run, parameters={"late": 1})
    assert len(Spool.open().keys(run)) == 1
    assert CliRunner().invoke(main, ["sync", "--tracking-uri", store]).exit_code == 0
    assert mlflow_store.connect(store).get_run(run).data.params == {"late": "1"}
    runs.end(store, run)
    assert not Spool.open().store.keys("operations/")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("begins", ["at once", "in the middle"])
def test_what_could_not_be_tracked_is_sent_by_the_next_run_once(store, tmp_path, fault, when, begins):
    fault(when if begins == "at once" else "")
    whole_run(store, tmp_path, between=lambda: fault(when))
    assert Spool.open().families()
    fault("")
    another_process()
    runs.end(store, runs.start(store, "the next", {}))
    check_whole(store, tmp_path.name)
    assert not Spool.open().store.keys("operations/")


def test_a_sync_that_is_cut_off_goes_on_where_it_was(store, tmp_path, fault):
    fault("before")
    whole_run(store, tmp_path)
    fault("after")  # it is done, and the answer lost, each time
    for _ in range(2):
        done = CliRunner().invoke(main, ["sync", "--tracking-uri", store])
        assert done.exit_code == 4 and "cannot be reached" in done.output
    fault("")
    done = CliRunner().invoke(main, ["sync", "--tracking-uri", store])
    assert done.exit_code == 0 and "sent 5 operations of 2 runs" in done.output, done.output
    check_whole(store, tmp_path.name)
    done = CliRunner().invoke(main, ["sync", "--tracking-uri", store])
    assert done.exit_code == 0 and "sent 0 operations" in done.output


def test_of_many_syncs_at_once_one_sends(store, tmp_path, fault):
    fault("before")
    whole_run(store, tmp_path)
    fault("")
    with ThreadPoolExecutor(3) as threads:
        sent = list(threads.map(lambda _: sync.send_kept(store, Spool.open()).operations, range(3)))
    assert sorted(sent) == [0, 0, 5]
    check_whole(store, tmp_path.name)


def test_the_root_of_a_sweep_has_a_spool_of_its_own(store, tmp_path, fault):
    from fastprune.tracking import spool

    fault("before")
    with spool.below(tmp_path / "root"):
        whole_run(store, tmp_path)
    fault("")
    assert not Spool.open().families() and list((tmp_path / "root" / "tracking").rglob("*.json"))
    CliRunner().invoke(main, ["sync", "--root", str(tmp_path / "root"), "--tracking-uri", store])
    check_whole(store, tmp_path.name)


def test_a_named_spool_comes_first(tmp_path, monkeypatch):
    assert place("s3://bucket/run") == "s3://bucket/run/tracking"
    monkeypatch.setenv("FASTPRUNE_SPOOL", str(tmp_path))
    assert place("s3://bucket/run") == str(tmp_path)


def test_a_store_that_failed_is_only_looked_at_by_other_runs(hanging, waited, monkeypatch):
    monkeypatch.setattr(deadlines, "PROBE", 0.2)
    runs.start(hanging.address, "one", {})
    runs.start(hanging.address, "two", {})
    assert waited == [1, 0.2]


def test_what_is_of_another_store_is_left_and_named_without_its_secrets(store, tmp_path, fault):
    fault("before")
    uri = "http://ann:pl4nted@127.0.0.1:1"
    whole_run(uri, tmp_path)
    fault("")
    written = "".join(path.read_text() for path in Path(place()).rglob("*") if path.is_file())
    assert "pl4nted" not in written and "secret@" not in written
    done = CliRunner().invoke(main, ["sync", "--tracking-uri", store])
    assert done.exit_code == 1 and "http://ann:***@127.0.0.1:1; name it with --tracking-uri" in done.output
    assert len(Spool.open().keys(*Spool.open().families())) == 5


def test_what_the_store_refuses_is_put_by_and_told(store, fault):
    run = runs.start(store, "a run", {"seed": 0})
    fault("before")
    runs.log(store, run, parameters={"seed": 1})  # MLflow's parameters do not change
    runs.log(store, run, parameters={"good": 1})
    fault("")
    done = CliRunner().invoke(main, ["sync", "--tracking-uri", store])
    assert done.exit_code == 1 and "left 1: refused (" in done.output
    [refused] = (Path(place()) / "refused").rglob("*.json")
    assert json.loads(refused.read_text())["parameters"] == {"seed": "1"}
    assert mlflow_store.connect(store).get_run(run).data.params == {"seed": "0", "good": "1"}
    assert CliRunner().invoke(main, ["sync", "--tracking-uri", store]).exit_code == 0


def test_registration_first_sends_what_is_kept(store, compression, fault, monkeypatch):
    from fastprune.releases import registration

    given = []
    monkeypatch.setattr(registration, "register", lambda *_, run_id, **__: given.append(run_id) or "7")
    fault("before")
    run = runs.start(store, "back in time", {"seed": 0})
    fault("")
    another_process()
    with runs.stage(store, run, "register"):
        register(**compression, model_name="tiny", run_id=run, tracking_uri=store)
    client = mlflow_store.connect(store)
    found = client.get_run(*given)
    assert found.info.run_name == "back in time" and found.info.status == "FINISHED"
    assert found.data.params == {"seed": "0"} and found.data.metrics["pruned"] == 0.9
    [stage] = client.search_runs([found.info.experiment_id], f"tags.`mlflow.parentRunId` = '{found.info.run_id}'")
    assert stage.info.status == "FINISHED" and not Spool.open().families()


def test_a_spool_that_cannot_be_written_costs_nothing(hanging, tmp_path, monkeypatch, caplog):
    (tmp_path / "taken").touch()
    monkeypatch.setenv("FASTPRUNE_SPOOL", str(tmp_path / "taken"))
    with runs.stage(hanging.address, runs.start(hanging.address, "a run", {}), "search") as log:
        log.metrics["macs_kept"] = 0.5
    assert "cannot be kept in" in caplog.text


def test_a_try_that_was_given_up_and_comes_through_later_gives_way(store, monkeypatch):
    run = {"do": "start", "run": "spooled-late", "at": 1, "name": "late", "experiment": "late", "parameters": {}}
    first = operations.send(store, run | {"tags": {}})
    monkeypatch.setattr(operations, "find", lambda *_: "")  # it looked before the first came through
    second = operations.send(store, run | {"tags": {}}, again=True)
    client = mlflow_store.connect(store)
    experiment = client.get_run(second).info.experiment_id
    assert [one.info.run_id for one in client.search_runs([experiment])] == [second] != [first]
    monkeypatch.setattr(deadlines, "is_late", lambda: True)
    late = client.create_run(experiment, tags={operations.KEY: "late"}).info.run_id
    with pytest.raises(operations.NoSuchRun, match=second):
        operations._leave_one(client, "late", late)
    assert [one.info.run_id for one in client.search_runs([experiment])] == [second]


def test_who_is_given_up_can_tell():
    told, waited = queue.SimpleQueue(), threading.Event()

    def late():
        told.put(deadlines.is_late())
        waited.wait(10)
        told.put(deadlines.is_late())

    with pytest.raises(deadlines.DeadlinePassed):
        deadlines.within(0.1, late)
    waited.set()
    assert [told.get(timeout=10), told.get(timeout=10), deadlines.is_late()] == [False, True, False]


def test_deadlines_are_checked(monkeypatch):
    for wrong in ("soon", "0", "-1", "nan"):
        monkeypatch.setenv("FASTPRUNE_TRACKING_SECONDS", wrong)
        with pytest.raises(InputError, match=f"FASTPRUNE_TRACKING_SECONDS={wrong}"):
            deadlines.operation()
    monkeypatch.setenv("FASTPRUNE_TRACKING_SECONDS", "200")
    assert deadlines.run() == 200


def test_within_gives_what_the_function_does():
    assert deadlines.within(5, lambda a: a + 1, 1) == 2
    with pytest.raises(ZeroDivisionError):
        deadlines.within(5, lambda: 1 / 0)
    clock = faults.Clock()
    with pytest.raises(deadlines.DeadlinePassed, match="no answer within"):
        deadlines.within(0.1, time.sleep, 5)
    assert clock.seconds < 2
