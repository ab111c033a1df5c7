"""A model has one policy: the promoter cannot bring another, and what is promoted is what was registered."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_releases import LENIENT, NAME, aliases, command, moves

from fastprune.cli.main import main
from fastprune.errors import InputError, Refused
from fastprune.releases import control, identity, promotion, verification
from fastprune.releases.policy import Policy
from fastprune.tracking import mlflow_store

STRICT = "max_accuracy_drop: 0.0\nmin_speedup: 1000  # nothing is as fast\n"


@pytest.fixture
def signed_in(monkeypatch):
    """Act as a user of a server with authentication, where there is none; give the function that changes the user."""

    def as_user(name):
        monkeypatch.setattr(mlflow_store, "authenticated_user", lambda uri: name)

    as_user("ann")
    return as_user


def test_the_promoter_cannot_bring_another_policy(store, tmp_path):
    (tmp_path / "strict.yaml").write_text(STRICT)
    (tmp_path / "lenient.yaml").write_text("max_accuracy_drop: 1.0")
    command(store, "policy", "set", NAME, tmp_path / "strict.yaml", "--why", "agreed in June", "--by", "ann")
    told = command(store, "policy", "show", NAME)
    assert STRICT in told and "# set by ann at" in told and "agreed in June" in told
    given = ("promote", NAME, 1, "--why", "please", "--by", "bob")
    assert "min_speedup" in command(store, *given, status=3)
    refused = command(store, *given, "--policy", tmp_path / "lenient.yaml", status=3)
    assert "policy: another one, required the model's, set by ann at" in refused
    assert not aliases(store)
    assert [event.action for event in promotion.history(store, NAME)] == ["policy", "refused", "refused"]

    command(store, *given, "--policy", tmp_path / "lenient.yaml", "--override-policy")
    last = promotion.history(store, NAME)[-1]
    assert (last.action, last.overrides, last.by, last.policy) == ("promote", True, "bob", None)
    tags = mlflow_store.connect(store).get_model_version(NAME, "1").tags
    assert tags["promotion.verdict"] == "passed"
    # The override was for once.
    refused = command(store, "promote", NAME, 2, "--policy", tmp_path / "lenient.yaml", "--why", "?", status=3)
    assert "policy: another one" in refused


def test_the_first_policy_that_a_version_is_promoted_by_is_the_models(store):
    with pytest.raises(InputError, match="has no policy yet; set one: fastprune policy set tiny FILE"):
        promotion.promote(store, NAME, "1", why="without one")
    with pytest.raises(promotion.PolicyNotMet):
        promotion.promote(store, NAME, "1", Policy(min_speedup=1000), why="refused: it binds nothing")
    promotion.promote(store, NAME, "1", LENIENT, why="the first")
    promotion.promote(store, NAME, "2", why="by the same")
    with pytest.raises(promotion.PolicyNotMet, match="policy: another one"):
        promotion.promote(store, NAME, "3", Policy(max_accuracy_drop=0.9), why="by another")
    with pytest.raises(InputError, match="is the model's own; leave out --override-policy"):
        promotion.promote(store, NAME, "3", LENIENT, why="by the same", override=True)
    with pytest.raises(InputError, match="is the policy of tiny already"):
        control.set_policy(store, NAME, "max_accuracy_drop: 1.0", why="again")


def test_a_policy_that_is_set_between_verdict_and_promotion_holds(store, monkeypatch):
    promotion.promote(store, NAME, "1", LENIENT, why="the first")
    judged = promotion._publish

    def slow(*arguments):
        control.set_policy(store, NAME, STRICT, why="stricter", by="ann")
        judged(*arguments)

    monkeypatch.setattr(promotion, "_publish", slow)
    with pytest.raises(Refused, match="policy by ann at .*: stricter came meanwhile"):
        promotion.promote(store, NAME, "2", LENIENT, why="quick")
    assert aliases(store) == {"champion": "1"}


def test_the_policy_belongs_to_who_manages_the_model(store, monkeypatch, signed_in):
    def refuse(client, uri, name, who):
        raise Refused(f"{name}: its policy belongs to who manages the registered model, and {who.name} does not")

    for module in (control, promotion):
        monkeypatch.setattr(module, "refuse_unless_manager", refuse)
    with pytest.raises(Refused, match="ann does not"):
        control.set_policy(store, NAME, STRICT, why="?")
    with pytest.raises(Refused, match="ann does not"):
        promotion.promote(store, NAME, "1", LENIENT, why="the first policy is set by it")
    assert not promotion.history(store, NAME)


def test_the_probe_of_a_manager_changes_nothing(store):
    client = mlflow_store.connect(store)
    promotion.promote(store, NAME, "1", LENIENT, why="the first")
    before = client.get_registered_model(NAME)
    identity.refuse_unless_manager(client, store, NAME, identity.Actor("ann", True))
    after = client.get_registered_model(NAME)
    assert (after.aliases, after.tags) == (before.aliases, before.tags)


def test_two_people_must_approve(store, signed_in):
    control.set_policy(store, NAME, "{max_accuracy_drop: 1.0, approvals: 2}", why="two of us")
    with pytest.raises(promotion.PolicyNotMet, match="approvals: none, required 2 by users that MLflow authenticates"):
        promotion.promote(store, NAME, "1", why="alone")
    control.approve(store, NAME, "1", why="looks good")
    with pytest.raises(Refused, match="ann has approved it already"):
        control.approve(store, NAME, "1", why="and again")
    with pytest.raises(promotion.PolicyNotMet, match="approvals: 1 .ann."):
        promotion.promote(store, NAME, "1", why="still alone")
    signed_in("bob")
    control.approve(store, NAME, "1", why="looks good to me too")
    promotion.promote(store, NAME, "1", why="two of us")
    with pytest.raises(promotion.PolicyNotMet, match="approvals: none"):
        promotion.promote(store, NAME, "2", why="approvals are of a version")
    tags = mlflow_store.connect(store).get_model_version(NAME, "1").tags
    assert tags["approved.ann"] and tags["approved.bob"]


def test_approvals_end_with_a_rollback_and_with_other_evidence(store, signed_in):
    control.set_policy(store, NAME, "{max_accuracy_drop: 1.0, approvals: 1}", why="one of us")
    for version in "12":
        control.approve(store, NAME, version, why="good")
        promotion.promote(store, NAME, version, why="approved")
    control.rollback(store, NAME, why="wrong answers")
    with pytest.raises(promotion.PolicyNotMet, match="approvals: none"):
        promotion.promote(store, NAME, "2", why="it was right", reinstate=True)
    control.approve(store, NAME, "2", why="it was right")
    promotion.promote(store, NAME, "2", why="it was right", reinstate=True)


def test_who_is_not_authenticated_approves_nothing(store, tmp_path):
    (tmp_path / "policy.yaml").write_text("approvals: 2")
    told = command(store, "policy", "set", NAME, tmp_path / "policy.yaml", "--why", "x", status=3)
    assert "authenticates nobody, so that an approval would prove nothing" in " ".join(told.split())
    with pytest.raises(Refused, match="was not approved: MLflow at .* authenticates nobody"):
        control.approve(store, NAME, "1", why="me")
    with pytest.raises(promotion.PolicyNotMet, match="approvals: none; MLflow at .* authenticates nobody"):
        promotion.promote(store, NAME, "1", Policy(approvals=1), why="?")


def test_weights_that_were_damaged_in_the_store_are_not_promoted(store):
    client = mlflow_store.connect(store)
    model_id = client.get_model_version(NAME, "2").source.removeprefix("models:/")
    root = Path(client.get_logged_model(model_id).artifact_location.removeprefix("file://"))
    [weights] = root.rglob("model.safetensors")
    kept = weights.with_name("kept")
    shutil.copy(weights, kept)
    try:
        content = weights.read_bytes()
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        kept.rename(root.parent / "kept")
        for dry in (True, False):
            with pytest.raises(Refused, match="tiny version 2: its model/model.safetensors: SHA-256 .* damaged"):
                promotion.promote(store, NAME, "2", LENIENT, why="?", dry_run=dry)
        with pytest.raises(Refused, match="damaged"):
            verification.verify(store, NAME, "2")
    finally:
        shutil.move(root.parent / "kept", weights)
    assert moves(store) == [("refused", None, "2")] and not aliases(store)
    assert client.get_model_version(NAME, "2").tags["promotion.verdict"] == "failed"
    promotion.promote(store, NAME, "2", LENIENT, why="mended")


def test_a_policy_is_named_in_json_too(store, tmp_path):
    (tmp_path / "policy.yaml").write_text(STRICT)
    done = CliRunner().invoke(
        main, ["policy", "set", NAME, str(tmp_path / "policy.yaml"), "--why", "x", "--json", "--tracking-uri", store]
    )
    assert json.loads(done.stdout)["policy"] == STRICT
