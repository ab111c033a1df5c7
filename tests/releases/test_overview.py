"""Looking at releases: status, list and compare, in words and as JSON; the hook; what a refused registration leaves."""

import hashlib
import hmac
import json

import pytest
from mlflow import MlflowException
from tiny_releases import LENIENT, NAME, command, variant

from fastprune.errors import InputError, PipelineError
from fastprune.releases import control, hooks, promotion, registration, serving
from fastprune.releases.policy import Policy
from fastprune.tracking import mlflow_store, runs


@pytest.fixture
def after(store):
    """Version 1 was the champion, 2 was rolled back, 3 is it, and refused nobody."""
    for version in ("1", "2"):
        promotion.promote(store, NAME, version, LENIENT, why="better", by="ann")
    control.rollback(store, NAME, why="wrong answers", by="bob")
    return store


def test_status_says_who_is_served_and_why(after):
    told = json.loads(command(after, "status", NAME, "--json"))
    assert (told["champion"], told["previous"], told["frozen"]) == ("1", "2", "")
    assert told["aliases_follow"] and told["versions"] == 3 and list(told["rolled_back"]) == ["2"]
    words = command(after, "status", NAME)
    assert "champion    1" in words and "rolled back by bob at 20" in words and "wrong answers" in words
    assert "frozen      no" in words and "last        rollback version 1 by bob" in words
    control.freeze(after, NAME, why="holidays", by="cy")
    mlflow_store.connect(after).set_registered_model_alias(NAME, "champion", "3")
    words = command(after, "status", NAME)
    assert "frozen      by cy" in words and "not those of the record" in words


def test_list_names_models_and_versions(after):
    assert json.loads(command(after, "list", "--json")) == {"model": NAME}
    rows = [json.loads(line) for line in command(after, "list", NAME, "--json").splitlines()]
    assert [(row["version"], row["standing"]) for row in rows] == [("3", ""), ("2", "rolled back"), ("1", "champion")]
    assert rows[0]["metric"] == "accuracy" and rows[0]["speedup"] > 0 and rows[0]["registered_by"] == "ann"
    words = command(after, "list", NAME).splitlines()
    assert words[0].startswith("version  standing") and words[2].startswith("2        rolled back")


def test_versions_are_compared_row_by_row(store, folders, tmp_path):
    for number in ("4", "5"):
        folder = variant(folders, tmp_path / number, number)
        metrics = json.loads((folder / "metrics.json").read_text())
        assert registration.register(store, folder, NAME, metrics, measured=folders["report"]) == number
    told = json.loads(command(store, "compare", NAME, "4", "5", "--json"))
    assert told["fall"]["mean"] == 0 and told["fall"]["rows"] == 40 and set(told["versions"]) == {"4", "5"}
    words = command(store, "compare", NAME, "4", "5", "--confidence", "0.9")
    assert "From version 4 to version 5 accuracy falls by 0 +- 0, at most 0.0" in words
    assert "registered without the outcomes" in command(store, "compare", NAME, "1", "4")


@pytest.mark.parametrize("given", [["status", "nobody"], ["list", "nobody"], ["compare", NAME, "1", "77"]])
def test_what_is_not_there_is_said(store, given):
    told = json.loads(command(store, *given, "--json", status=2).splitlines()[0])
    assert told["error"] == "misuse" and "not found" in told["message"]


# The hook


def test_a_url_is_told_of_every_event_signed(store, listener, monkeypatch):
    url, got = listener
    monkeypatch.setenv(hooks.HOOK, url)
    monkeypatch.setenv(hooks.SECRET, "s3cret")
    promotion.promote(store, NAME, "1", LENIENT, why="first")
    with pytest.raises(promotion.PolicyNotMet):
        promotion.promote(store, NAME, "2", Policy(min_speedup=1000), why="please", override=True)
    promotion.promote(store, NAME, "2", why="better")
    control.rollback(store, NAME, why="worse")
    told = [json.loads(body) for _, body in got]
    assert [(one["action"], one["to_version"]) for one in told] == [
        ("promote", "1"), ("refused", "2"), ("promote", "2"), ("rollback", "1")
    ]  # fmt: skip
    assert "min_speedup" in told[1]["failed"] and told[3]["why"] == "worse" and told[3]["model"] == NAME
    for headers, body in got:
        assert headers["X-Fastprune-Signature"] == hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()


def test_a_command_is_told_and_its_failure_costs_a_warning(store, listener, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv(hooks.HOOK, f"sh -c 'cat > {tmp_path}/$0.json'")
    promotion.promote(store, NAME, "1", LENIENT, why="first")
    assert json.loads((tmp_path / "promote.json").read_text())["to_version"] == "1"
    refused = f"{listener[0]}hidden"
    for broken in (
        "sh -c 'exit 3' hidden",
        f"{tmp_path}/none hidden",
        "http://user:hidden@127.0.0.1:1/hidden",
        refused,
    ):
        monkeypatch.setenv(hooks.HOOK, broken)
        control.freeze(store, NAME, why="x")
        control.unfreeze(store, NAME, why="x")
    told = [record.getMessage() for record in caplog.records if "not told of freeze" in record.getMessage()]
    reasons = ("exit status 3", "FileNotFoundError", "ConnectionError", "HTTP status 404")
    assert told == [f"FASTPRUNE_HOOK was not told of freeze ({reason})" for reason in reasons]
    assert "hidden" not in caplog.text


def test_a_failed_run_is_told(tmp_path, listener, monkeypatch):
    from fastprune.stages.conclude import conclude
    from fastprune.stages.failures import Failure, mark

    monkeypatch.setenv(hooks.HOOK, listener[0])
    (tmp_path / "released").mkdir()
    mark(tmp_path / "released", Failure("tune", "out of memory"))
    with pytest.raises(PipelineError):
        conclude(released=[tmp_path / "released"], conclusion=tmp_path / "end", compressions=["m/macs-0-5"], last=True)
    [(_, body)] = listener[1]
    told = json.loads(body)
    assert told["action"] == "failed" and "out of memory" in told["problems"]


# What a registration leaves


def all_runs(client):
    experiment = client.get_experiment_by_name(runs.EXPERIMENT)
    return client.search_runs([experiment.experiment_id]) if experiment else []


@pytest.mark.parametrize("fails_in", ["open_model", "create_model_version"])
def test_a_refused_registration_leaves_no_run_and_no_model(tmp_path, folders, monkeypatch, fails_in):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = mlflow_store.connect(uri)
    folder = variant(folders, tmp_path / "one", "one")
    refusal = MlflowException("Permission denied")
    refusal.error_code, refusal.get_http_status_code = "PERMISSION_DENIED", lambda: 403

    def refuse(*_, **__):
        raise refusal

    if fails_in == "open_model":
        monkeypatch.setattr(serving, "open_model", refuse)
    else:
        monkeypatch.setattr("mlflow.MlflowClient.create_model_version", refuse)
    with pytest.raises(InputError, match="has no right to do this"):
        registration.register(uri, folder, "new", json.loads((folder / "metrics.json").read_text()))
    assert not all_runs(client) and not client.search_registered_models()
    monkeypatch.undo()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert registration.register(uri, folder, "new", json.loads((folder / "metrics.json").read_text())) == "1"


def test_a_version_names_the_run_of_kubeflow(tmp_path, folders, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    model = runs.start(uri, "model", {}, tags={runs.PIPELINE_JOB: "job-1"})
    budget = runs.start(uri, "budget", {}, experiment="", parent=model)
    metrics = json.loads((folders["report"] / "metrics.json").read_text())
    registration.register(uri, folders["pruned"], NAME, metrics, run_id=budget.rpartition(".")[2])
    assert mlflow_store.connect(uri).get_model_version(NAME, "1").tags[runs.PIPELINE_JOB] == "job-1"
