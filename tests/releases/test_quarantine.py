"""What was rolled back stays away, what is frozen stays as it is, and a refusal is in the history."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient, MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from tiny_releases import LENIENT, NAME, aliases, command, moves

from fastprune.cli.main import main
from fastprune.errors import InputError, Refused
from fastprune.releases import control, promotion
from fastprune.releases.policy import Policy
from fastprune.stages.gate import gate
from fastprune.tracking import mlflow_store


@pytest.fixture
def rolled_back(store):
    """Versions 1 and 3 were promoted, and 3 was rolled back."""
    promotion.promote(store, NAME, "1", LENIENT, why="the first", by="ann")
    promotion.promote(store, NAME, "3", LENIENT, why="smaller", by="ann")
    control.rollback(store, NAME, why="wrong answers", by="bob")
    return store


def test_a_version_that_was_rolled_back_is_promoted_again_only_on_purpose(rolled_back):
    with pytest.raises(promotion.PolicyNotMet, match="rolled back by bob at .*: wrong answers.*--reinstate"):
        promotion.promote(rolled_back, NAME, "3", LENIENT, why="the nightly run", by="gate")
    assert aliases(rolled_back)["champion"] == "1"
    with pytest.raises(InputError, match="version 2 was not rolled back; leave out --reinstate"):
        promotion.promote(rolled_back, NAME, "2", LENIENT, why="by mistake", reinstate=True)
    verdict = promotion.promote(rolled_back, NAME, "3", LENIENT, why="the data was wrong", reinstate=True)
    assert verdict.passed and verdict.checks[0].name == "rolled_back"
    told = promotion.history(rolled_back, NAME)[-1]
    assert (told.action, told.to_version, told.reinstates) == ("promote", "3", True)
    assert control.rollback(rolled_back, NAME, why="wrong again").to_version == "1"


def test_the_gate_the_next_night_does_not_undo_a_rollback(rolled_back, tmp_path):
    (tmp_path / "summary").mkdir()
    found = {"candidates": [0], "compressions": [{"version": "3"}], "failed": []}
    (tmp_path / "summary" / "summary.json").write_text(json.dumps(found))
    policy = "max_accuracy_drop: 1.0"
    gate(
        summary=tmp_path / "summary",
        verdict=tmp_path / "verdict",
        model_name=NAME,
        policy=policy,
        tracking_uri=rolled_back,
    )
    told = json.loads((tmp_path / "verdict" / "verdict.json").read_text())["promotion"]
    assert told.startswith("not promoted") and "rolled back by bob" in told and "wrong answers" in told
    assert aliases(rolled_back)["champion"] == "1"
    assert moves(rolled_back)[-1] == ("refused", "1", "3")


def test_the_gate_goes_on_to_the_next_compression_that_the_policy_accepts(rolled_back, tmp_path):
    """The cheapest was not registered, the next is in quarantine, another lacks a tag: each refusal is told."""
    client = mlflow_store.connect(rolled_back)
    client.set_model_version_tag(NAME, "2", "owner", "nobody")
    (tmp_path / "summary").mkdir()
    budgets = [{"version": version} for version in ("1", "2", "3", "3", "")]  # two have the same weights
    found = {"candidates": [4, 3, 2, 1, 0], "compressions": budgets, "failed": []}
    (tmp_path / "summary" / "summary.json").write_text(json.dumps(found))
    given = {"model_name": NAME, "tracking_uri": rolled_back, "summary": tmp_path / "summary"}
    policy = "{max_accuracy_drop: 1.0, required_tags: {owner: ann}}"
    control.set_policy(rolled_back, NAME, policy, why="owners", by="ann")
    gate(verdict=tmp_path / "verdict", policy=policy, **given)
    told = json.loads((tmp_path / "verdict" / "verdict.json").read_text())
    assert (told["version"], told["promotion"]) == ("1", "champion") and list(told["refused"]) == ["", "3", "2"]
    assert "rolled_back" in told["refused"]["3"] and "required_tags.owner: nobody" in told["refused"]["2"]
    assert moves(rolled_back)[-2:] == [("refused", "1", "3"), ("refused", "1", "2")]

    client.set_model_version_tag(NAME, "2", "owner", "ann")
    gate(verdict=tmp_path / "second", policy=policy, **given)
    told = json.loads((tmp_path / "second" / "verdict.json").read_text())
    assert (told["version"], told["promotion"]) == ("2", "champion") and list(told["refused"]) == ["", "3"]
    assert moves(rolled_back)[-2:] == [("refused", "1", "3"), ("promote", "1", "2")]

    control.freeze(rolled_back, NAME, why="the fair", by="ann")
    gate(verdict=tmp_path / "third", policy=policy, **given)
    told = json.loads((tmp_path / "third" / "verdict.json").read_text())
    assert told["promotion"].startswith("not promoted: it was not registered") and "frozen" in told["promotion"]
    assert list(told["refused"]) == ["", "3"], "what stands against any version is said once"


def test_the_gate_the_next_night_finds_its_champion(rolled_back, tmp_path):
    (tmp_path / "summary").mkdir()
    summary = {"candidates": [0], "compressions": [{"version": "1"}], "failed": []}
    (tmp_path / "summary" / "summary.json").write_text(json.dumps(summary))
    given = {"model_name": NAME, "policy": "max_accuracy_drop: 1.0", "tracking_uri": rolled_back}
    gate(summary=tmp_path / "summary", verdict=tmp_path / "verdict", **given)
    assert json.loads((tmp_path / "verdict" / "verdict.json").read_text())["promotion"] == "champion"


def test_the_gate_fails_where_the_store_is_damaged_and_says_that_nothing_was_judged(rolled_back, tmp_path):
    (tmp_path / "summary").mkdir()
    summary = {"candidates": [0], "compressions": [{"version": "2"}], "failed": []}
    (tmp_path / "summary" / "summary.json").write_text(json.dumps(summary))
    client = mlflow_store.connect(rolled_back)
    model_id = client.get_model_version(NAME, "2").source.removeprefix("models:/")
    root = Path(client.get_logged_model(model_id).artifact_location.removeprefix("file://"))
    [weights] = root.glob("artifacts/*/model.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    given = {"model_name": NAME, "policy": "max_accuracy_drop: 1.0", "tracking_uri": rolled_back}
    try:
        with pytest.raises(
            Refused, match=r"model\.safetensors.*damaged.*\nnot promoted, and not judged: the store holds"
        ):
            gate(summary=tmp_path / "summary", verdict=tmp_path / "verdict", **given)
    finally:
        weights.write_bytes(whole)
    assert not (tmp_path / "verdict").exists() and aliases(rolled_back)["champion"] == "1"


def test_the_same_weights_under_another_number_are_in_quarantine_too(rolled_back):
    """All three versions have the same weights: the nightly run may have changed a text of the card alone."""
    promotion.promote(rolled_back, NAME, "3", LENIENT, why="on purpose", reinstate=True)
    events = promotion.history(rolled_back, NAME)
    other = [event.model_copy(update={"weights_sha256": "w" * 64}) if event.number == 1 else event for event in events]
    from fastprune.releases.record import state_of

    state = state_of((*other, events[2].model_copy(update={"number": 5})), {})
    assert state.champion == "1" and state.quarantine("3") and state.quarantine("7", events[1].weights_sha256)
    assert not state.quarantine("7", "w" * 64) and not state.quarantine("1")


def test_two_people_who_answer_one_alarm_do_not_reinstate_the_bad_version(rolled_back):
    with pytest.raises(Refused, match="the last change was a rollback already, from version 3 to version 1, by bob"):
        control.rollback(rolled_back, NAME, why="wrong answers", by="cy")
    assert aliases(rolled_back)["champion"] == "1"
    with pytest.raises(Refused, match="version 3 was rolled back by bob"):
        control.rollback(rolled_back, NAME, why="?", to="3")
    with pytest.raises(Refused, match="is the champion already"):
        control.rollback(rolled_back, NAME, why="wrong answers", to="1")


def test_a_rollback_to_a_version_that_is_named(store):
    for version in "123":
        promotion.promote(store, NAME, version, LENIENT, why=f"number {version}")
    with pytest.raises(promotion.ChampionMoved, match="from version 2 to version 3"):
        control.rollback(store, NAME, why="alarm", to="1", expected="2")
    assert control.rollback(store, NAME, why="alarm", to="1", expected="3").to_version == "1"
    assert aliases(store)["champion"] == "1"
    control.rollback(store, NAME, why="2 was good", to="2")
    with pytest.raises(InputError, match="version 9 never was the champion"):
        control.rollback(store, NAME, why="alarm", to="9")


def test_a_deleted_champion_is_passed_over(store):
    for version in "123":
        promotion.promote(store, NAME, version, LENIENT, why=f"number {version}")
    client = mlflow_store.connect(store)
    client.delete_registered_model_alias(NAME, "previous")
    client.delete_model_version(NAME, "2")
    assert control.where_back(store, NAME) == "a rollback leads to version 1 (version 2 cannot be used)"
    assert control.rollback(store, NAME, why="alarm").to_version == "1"
    assert aliases(store)["champion"] == "1"


def test_a_champion_that_was_deleted_is_told_at_the_promotion(store, tmp_path):
    (tmp_path / "policy.yaml").write_text("{max_accuracy_drop: 1.0, same_evaluation_data: true}")
    given = ("--policy", tmp_path / "policy.yaml", "--why", "x")
    assert "there is none before it" in command(store, "promote", NAME, 1, *given)
    assert "a rollback leads to version 1" in command(store, "promote", NAME, 2, *given)
    client = mlflow_store.connect(store)
    client.delete_registered_model_alias(NAME, "champion")
    client.delete_model_version(NAME, "2")
    told = command(store, "promote", NAME, 3, *given)
    assert "a rollback leads to version 1 (version 2 cannot be used)" in told
    control.rollback(store, NAME, why="alarm")
    assert aliases(store)["champion"] == "1"


def test_behind_a_deleted_champion_no_alias_names_another_version_than_the_record(store, monkeypatch, caplog):
    for version in "12":
        promotion.promote(store, NAME, version, LENIENT, why=f"number {version}")
    client = mlflow_store.connect(store)
    client.delete_registered_model_alias(NAME, "champion")
    client.delete_model_version(NAME, "2")

    def refuse(*_):
        raise MlflowException("Permission denied", PERMISSION_DENIED)

    delete = MlflowClient.delete_registered_model_alias
    monkeypatch.setattr(MlflowClient, "delete_registered_model_alias", refuse)
    control.rollback(store, NAME, why="2 was deleted")
    assert aliases(store) == {"champion": "1", "previous": "1"} and "who manages the model may" in caplog.text
    monkeypatch.setattr(MlflowClient, "delete_registered_model_alias", delete)
    control.freeze(store, NAME, why="the next event")
    assert aliases(store) == {"champion": "1"}


def test_frozen_is_frozen_for_everybody(store):
    promotion.promote(store, NAME, "1", LENIENT, why="the first")
    promotion.promote(store, NAME, "2", LENIENT, why="the second")
    control.freeze(store, NAME, why="the fair", by="ann")
    with pytest.raises(Refused, match="is frozen already, by ann at .*: the fair"):
        control.freeze(store, NAME, why="again")
    with pytest.raises(promotion.PolicyNotMet, match="frozen by ann at .*: the fair"):
        promotion.promote(store, NAME, "3", LENIENT, why="?")
    assert control.rollback(store, NAME, why="an alarm is no promotion").to_version == "1"
    control.unfreeze(store, NAME, why="over", by="ann")
    with pytest.raises(Refused, match="is not frozen"):
        control.unfreeze(store, NAME, why="over", by="ann")
    promotion.promote(store, NAME, "3", LENIENT, why="now")
    assert aliases(store)["champion"] == "3"


def test_a_freeze_that_comes_between_verdict_and_promotion_holds(store, monkeypatch):
    judged = promotion._publish

    def slow(*arguments):
        control.freeze(store, NAME, why="the fair", by="ann")
        judged(*arguments)

    monkeypatch.setattr(promotion, "_publish", slow)
    with pytest.raises(Refused, match="freeze by ann at .*: the fair came meanwhile"):
        promotion.promote(store, NAME, "1", LENIENT, why="?")
    assert not aliases(store)


def test_a_dry_run_writes_nothing(store, tmp_path):
    before = mlflow_store.connect(store).get_model_version(NAME, "1").tags
    assert promotion.promote(store, NAME, "1", LENIENT, why="?", dry_run=True).passed
    assert not promotion.promote(store, NAME, "1", Policy(min_speedup=1000), why="?", dry_run=True).passed
    (tmp_path / "policy.yaml").write_text("min_speedup: 1000")
    given = ("promote", NAME, 1, "--policy", tmp_path / "policy.yaml", "--why", "x", "--dry-run")
    assert "would not become the champion; nothing was changed" in command(store, *given, status=3)
    told = json.loads(command(store, *given, "--json", status=3))
    assert told["passed"] is False and told["verdict"]["checks"][0]["name"] == "min_speedup"
    assert mlflow_store.connect(store).get_model_version(NAME, "1").tags == before
    assert not promotion.history(store, NAME) and not aliases(store)


def test_a_refusal_is_in_the_history_and_stops_nobody_else(store, tmp_path, monkeypatch):
    (tmp_path / "policy.yaml").write_text("min_speedup: 1000")
    given = ("promote", NAME, 1, "--policy", tmp_path / "policy.yaml", "--why", "please", "--by", "cy")
    assert "min_speedup" in command(store, *given, status=3)
    [line] = command(store, "history", NAME).splitlines()
    assert line.split()[2:6] == ["refused", "-", "->", "1"] and "cy: please [min_speedup: " in line
    judged = promotion._publish

    def slow(*arguments):  # a refusal of another version comes meanwhile: no reason to stop this one
        monkeypatch.setattr(promotion, "_publish", judged)
        with pytest.raises(promotion.PolicyNotMet):
            promotion.promote(store, NAME, "3", Policy(min_speedup=1000), why="refused meanwhile", by="ann")
        judged(*arguments)

    monkeypatch.setattr(promotion, "_publish", slow)
    promotion.promote(store, NAME, "2", LENIENT, why="good")
    assert moves(store) == [("refused", None, "1"), ("refused", None, "3"), ("promote", None, "2")]
    assert aliases(store) == {"champion": "2"}


def test_a_version_number_is_read_as_mlflow_writes_it(store):
    promotion.promote(store, NAME, "01", LENIENT, why="the first")
    assert moves(store) == [("promote", None, "1")]
    with pytest.raises(Refused, match="version 1 is the champion already"):
        promotion.promote(store, NAME, "1", LENIENT, why="again")
    for wrong in ("0", "-1", "1.0", "champion", "", "١"):
        with pytest.raises(InputError, match="is no version"):
            promotion.promote(store, NAME, wrong, LENIENT, why="?")


@pytest.mark.parametrize("why", ["fine\n  12  2026-01-01  promote  1 -> 9  ann: forged", "\x1b[2K", "a\u2028b", " "])
def test_a_reason_cannot_forge_a_line_of_the_history(rolled_back, why):
    for act in (control.rollback, control.freeze, control.unfreeze):
        with pytest.raises(InputError, match="--why.*(cannot be printed|is empty)"):
            act(rolled_back, NAME, why=why)
    with pytest.raises(InputError, match="--why.*(cannot be printed|is empty)"):
        promotion.promote(rolled_back, NAME, "2", LENIENT, why=why)
    assert len(promotion.history(rolled_back, NAME)) == 3


def test_exit_status_and_json_tell_kinds_of_refusal_apart(rolled_back, tmp_path):
    (tmp_path / "policy.yaml").write_text("max_accuracy_drop: 1.0")
    given = ("--policy", tmp_path / "policy.yaml", "--why", "x", "--json")
    runner = CliRunner()

    def told(*arguments, store=rolled_back):
        done = runner.invoke(main, [*map(str, arguments), "--tracking-uri", store])
        return done.exit_code, json.loads(done.stdout)["error"]

    assert told("promote", NAME, 3, *given) == (3, "refused")
    assert told("promote", NAME, "x", *given) == (2, "misuse")
    assert told("promote", NAME, "--json") == (2, "misuse")  # an argument is missing
    assert told("rollback", NAME, "--json", "--too", "1") == (2, "misuse")
    assert told("promote", NAME, 9, *given) == (2, "misuse")
    assert told("rollback", NAME, "--why", "x", "--json") == (3, "refused")
