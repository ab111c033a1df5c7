"""What is said of a sweep in which something failed, and when that fails the run."""

import json

import pytest

from fastprune.errors import InputError, PipelineError, Unreachable
from fastprune.stages.conclude import conclude
from fastprune.stages.failures import Failure, failure_in, mark, told
from fastprune.stages.gate import gate
from fastprune.stages.steps import attempt

NO_MEMORY = Failure("tune", "no memory")


@pytest.fixture
def released(tmp_path):
    """Folders of registered compressions, some of which failed."""

    def make(model, *failures):
        folders = []
        for number, failure in enumerate(failures):
            folder = tmp_path / f"{model}-{number}"
            folder.mkdir()
            if failure:
                mark(folder, failure)
            folders.append(folder)
        return {"released": folders, "compressions": [f"{model}/b{number}" for number in range(len(failures))]}

    return make


def verdict(folder, promotion):
    folder.mkdir()
    (folder / "verdict.json").write_text(json.dumps({"version": "1", "promotion": promotion}))
    return folder


def test_a_sweep_in_which_nothing_failed_ends_well(released, tmp_path):
    record = conclude(**released("one", None, None), conclusion=tmp_path / "end")
    assert record["metrics"] == {"compressions": 2, "failed": 0}
    assert told(json.loads((tmp_path / "end" / "conclusion.json").read_text())) == ""


def test_behind_the_last_model_the_run_fails_with_every_failure_by_name(released, tmp_path):
    conclude(**released("one", None, NO_MEMORY, NO_MEMORY), conclusion=tmp_path / "first", last=False)
    with pytest.raises(PipelineError) as raised:
        conclude(
            **released("two", None, Failure("search", "too small")),
            before=tmp_path / "first",
            conclusion=tmp_path / "end",
        )
    assert str(raised.value) == "3 of 5 compressions failed: one/b1, one/b2: tune: no memory; two/b1: search: too small"
    assert len(json.loads((tmp_path / "end" / "conclusion.json").read_text())["failed"]) == 3


@pytest.mark.parametrize(
    "promotion, message",
    [("not promoted: MLflow was away", "one: release.required, and not promoted: MLflow was away"), ("champion", "")],
)
def test_a_model_that_must_be_promoted_and_is_not_fails_the_run(released, tmp_path, promotion, message):
    given = {"verdict": verdict(tmp_path / "verdict", promotion), "conclusion": tmp_path / "end"}
    if not message:
        conclude(**released("one", None), required=True, **given)
        return
    with pytest.raises(PipelineError) as raised:
        conclude(**released("one", None), required=True, **given)
    assert str(raised.value) == message
    (tmp_path / "end" / "conclusion.json").unlink()
    (tmp_path / "end").rmdir()
    (tmp_path / "one-0").rmdir()
    conclude(**released("one", None), **given)


def test_a_summary_or_a_gate_that_failed_is_told_too(released, tmp_path):
    mark(tmp_path / "summary", Failure("summarise", "disk full"))
    with pytest.raises(PipelineError, match="^one: summarise: disk full$"):
        conclude(**released("one", None), summary=tmp_path / "summary", conclusion=tmp_path / "end")


@pytest.mark.parametrize(
    "picked, uri, reason",
    [
        (None, "", "not promoted: every compression has failed"),
        ({"version": ""}, "", "not promoted: it was not registered"),
        ({"version": "1"}, "http://127.0.0.1:9", "MLflow at http://127.0.0.1:9 cannot be reached"),
    ],
)
def test_a_gate_without_a_promotion_says_why(tmp_path, monkeypatch, picked, uri, reason):
    """What the policy says is a verdict. A server that is away is none: the step fails, and may be tried again."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("FASTPRUNE_SPOOL", str(tmp_path / "spool"))
    found = {"compressions": [picked] if picked else [], "candidates": [0] if picked else [], "failed": []}
    (tmp_path / "summary").mkdir()
    (tmp_path / "summary" / "summary.json").write_text(json.dumps(found))
    given = {"summary": tmp_path / "summary", "verdict": tmp_path / "verdict", "model_name": "m"}
    given |= {"policy": '{"max_accuracy_drop": 1.0}', "tracking_uri": uri}
    if uri:
        with pytest.raises(Unreachable, match=reason):
            gate(**given)
        return
    gate(**given)
    assert json.loads((tmp_path / "verdict" / "verdict.json").read_text())["promotion"].startswith(reason)


def test_what_is_not_the_inputs_fault_is_tried_again(tmp_path, monkeypatch):
    waits, errors = [], [ValueError("shaky"), InputError("wrong")]
    monkeypatch.setattr("time.sleep", waits.append)
    monkeypatch.setattr("fastprune.stages.gate.gate", lambda **given: (_ for _ in ()).throw(errors.pop(0)))
    (tmp_path / "summary").mkdir()
    attempt("gate", {"summary": tmp_path / "summary", "verdict": tmp_path / "verdict"}, retries=2)
    assert waits == [30] and failure_in(tmp_path / "verdict") == Failure("gate", "wrong")
