"""The record: what earlier versions wrote is still the same record, and a rewritten one is noticed."""

import json
import re
from datetime import UTC, datetime
from typing import get_args

import pytest
from tiny_releases import LENIENT, NAME, aliases, command

from fastprune.errors import InputError, Refused
from fastprune.releases import control, ledger, promotion, record, registration
from fastprune.releases.identity import Actor
from fastprune.releases.policy import Policy
from fastprune.store import keys
from fastprune.tracking import mlflow_store

OLD = (
    b'{\n  "action": "promote",\n  "after": "",\n  "at": "2026-01-01T00:00:00.000+00:00",\n  "by": "ann",\n'
    b'  "from_version": null,\n  "model": "tiny",\n  "number": 1,\n  "schema_version": 1,\n  "to_version": "1",\n'
    b'  "verdict_sha256": null,\n  "why": "the first"\n}\n'
)
"""An event as version 0.1.0 wrote it."""


def test_an_event_of_an_earlier_version_keeps_its_digest():
    event = ledger.Event.parse(OLD, "x", "x")
    assert event.content == OLD
    new = event.model_copy(update={"weights_sha256": "w"})
    assert json.loads(new.content) == json.loads(OLD) | {"weights_sha256": "w"}


def test_a_record_that_an_earlier_version_began_goes_on(store, tmp_path):
    folder = tmp_path / "releases" / NAME
    folder.mkdir(parents=True)
    client = mlflow_store.connect(store)
    at = datetime.now(UTC).isoformat(timespec="milliseconds").encode()
    first = OLD.replace(b"2026-01-01T00:00:00.000+00:00", at)
    (folder / "00000001.json").write_bytes(first)
    client.set_registered_model_tag(NAME, record.FIRST_EVENT, ledger.Event.parse(first, "x", "x").digest)
    promotion.promote(store, NAME, "2", LENIENT, why="better")
    assert control.rollback(store, NAME, why="worse").to_version == "1"
    (folder / "00000001.json").write_bytes(first.replace(b"ann", b"bob"))
    with pytest.raises(InputError, match="was changed or removed"):
        promotion.history(store, NAME)


def test_events_are_signed_where_there_is_a_key_and_the_history_says_by_which(store, tmp_path, monkeypatch):
    promotion.promote(store, NAME, "1", LENIENT, why="the first")
    own = keys.make_key(tmp_path / "key.pem")
    monkeypatch.setenv(keys.KEY, str(tmp_path / "key.pem"))
    promotion.promote(store, NAME, "2", LENIENT, why="better")
    control.freeze(store, NAME, why="the fair")
    told = promotion.history(store, NAME)
    assert [event.signed_by for event in told] == [None, own, own]
    found = command(store, "history", NAME, "--check")
    assert "3 events, each after the one before it; MLflow's tag of the model names event 3" in found
    assert f"signed by {own}: 2, 3\nnot signed: 1" in found
    found = json.loads(command(store, "history", NAME, "--check", "--json"))
    assert found["check"] == {"events": 3, "anchor": 3, "signed": {own: [2, 3]}, "unsigned": [1]}

    # Whoever may write the record cannot sign what they write, though they chain it anew and move MLflow's tag.
    rewrite(
        tmp_path / "releases" / NAME, lambda event: event.model_copy(update={"why": "x"} if event.number == 2 else {})
    )
    with pytest.raises(InputError, match=f"event 2 is not what {re.escape(own)} has signed: it was rewritten"):
        promotion.history(store, NAME)
    rewrite(tmp_path / "releases" / NAME, lambda event: None if event.number == 1 else event)
    assert "event 1 is not what ed25519:" in command(store, "history", NAME, "--check", status=2)


def test_a_policy_may_ask_that_the_record_be_signed(store, tmp_path, monkeypatch):
    own = keys.make_key(tmp_path / "key.pem")
    text = f"{{max_accuracy_drop: 1.0, record_signed_by: ['{own}']}}"
    monkeypatch.setenv(keys.KEY, str(tmp_path / "key.pem"))
    control.set_policy(store, NAME, text, why="keys")
    promotion.promote(store, NAME, "1", why="the first")
    monkeypatch.delenv(keys.KEY)
    with pytest.raises(promotion.PolicyNotMet, match="record_signed_by: not so: this promotion"):
        promotion.promote(store, NAME, "2", why="no key")
    control.freeze(store, NAME, why="no key")
    control.unfreeze(store, NAME, why="no key")
    monkeypatch.setenv(keys.KEY, str(tmp_path / "key.pem"))
    with pytest.raises(promotion.PolicyNotMet, match="record_signed_by: not so: event 4, event 5,"):
        promotion.promote(store, NAME, "2", why="after an event without")
    control.set_policy(store, NAME, text.replace("1.0", "0.9"), why="looked at, and agreed")
    promotion.promote(store, NAME, "2", why="signed from here on")
    assert aliases(store)["champion"] == "2"


def test_a_process_proves_an_event_once(store, monkeypatch, tmp_path):
    """And all the same it notices, in the same process, that one was rewritten."""
    keys.make_key(tmp_path / "key.pem")
    monkeypatch.setenv(keys.KEY, str(tmp_path / "key.pem"))
    for version in "123":
        promotion.promote(store, NAME, version, LENIENT, why=f"number {version}")
    monkeypatch.delenv(keys.KEY)
    told = promotion.history(store, NAME)
    holds = keys.holds
    monkeypatch.setattr(keys, "holds", lambda *_: pytest.fail("proved again"))
    assert promotion.history(store, NAME) == told and len(told) == 3
    control.rollback(store, NAME, why="worse")
    monkeypatch.setattr(keys, "holds", holds)
    file = tmp_path / "releases" / NAME / "00000002.json"
    file.write_bytes(file.read_bytes().replace(b"number 2", b"number 9"))
    with pytest.raises(InputError, match="event 2 is not what"):
        promotion.history(store, NAME)


def rewrite(folder, change):
    """Change the record, and chain it anew, as who may write there can."""
    told, after = [], ""
    for path in sorted(folder.glob("*.json")):
        event = ledger.Event.parse(path.read_bytes(), path, "x")
        if (event := change(event)) is None:
            path.unlink()
            continue
        event = event.model_copy(update={"after": after, "number": len(told) + 1})
        path.unlink()
        told.append(event)
        after = event.digest
    for event in told:
        (folder / f"{event.number:08d}.json").write_bytes(event.content)


@pytest.mark.parametrize(
    "change",
    [
        lambda event: event.model_copy(update={"by": "nobody"}),
        lambda event: event if event.number != 3 else None,
        lambda event: None if event.number == 2 else event,
        lambda event: event.model_copy(update={"why": "x"}) if event.number == 3 else event,
    ],
    ids=["who", "the last one gone", "one gone in between", "the last reason"],
)
def test_a_rewritten_record_is_noticed(store, tmp_path, change):
    for version in "12":
        promotion.promote(store, NAME, version, LENIENT, why=f"number {version}")
    control.rollback(store, NAME, why="wrong answers")
    rewrite(tmp_path / "releases" / NAME, change)
    for act in (
        lambda: promotion.promote(store, NAME, "2", LENIENT, why="clean now"),
        lambda: control.freeze(store, NAME, why="?"),
        lambda: control.where_back(store, NAME),
    ):
        with pytest.raises(InputError, match="recorded elsewhere, or the record was rewritten: event 3"):
            act()


@pytest.mark.parametrize("name", ["a/b", "a:b", "", "..", " tiny", "a\nb", "a'b", 'a" OR "'])
def test_a_name_that_is_refused_leaves_nothing_behind(tmp_path, made, name):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    metrics = json.loads((made / "one" / "metrics.json").read_text())
    with pytest.raises(InputError, match="name"):
        registration.register(uri, made / "one", name, metrics)
    with pytest.raises(InputError, match="tag"):
        registration.register(uri, made / "one", NAME, metrics, tags={"owner": "ann\nann"})
    with pytest.raises(InputError, match="name"):
        promotion.history(uri, name)
    assert not list(tmp_path.iterdir())


EVENTS = {
    "promote": lambda store: promotion.promote(store, NAME, "3", why="?"),
    "refused": lambda store: promotion.promote(store, NAME, "3", Policy(min_speedup=1000), why="?"),
    "rollback": lambda store: control.rollback(store, NAME, why="?"),
    "freeze": lambda store: control.freeze(store, NAME, why="?"),
    "unfreeze": lambda store: control.unfreeze(store, NAME, why="?"),
    "policy": lambda store: control.set_policy(store, NAME, "max_megabytes: 9", why="?"),
    "approve": lambda store: control.approve(store, NAME, "3", why="?"),
}
"""By action what writes such an event."""


def all_of(store):
    client = mlflow_store.connect(store)
    model, versions = client.get_registered_model(NAME), client.search_model_versions(f"name='{NAME}'")
    return model.tags, model.aliases, [version.tags for version in versions], promotion.history(store, NAME)


@pytest.mark.parametrize("missing", ["a key", "a right"])
@pytest.mark.parametrize("action", EVENTS)
def test_who_cannot_write_the_event_changes_nothing(store, monkeypatch, action, missing):
    assert EVENTS.keys() == set(get_args(ledger.Event.model_fields["action"].annotation))
    for version in "12":
        promotion.promote(store, NAME, version, LENIENT, why=f"number {version}")
    if action == "unfreeze":
        control.freeze(store, NAME, why="the fair")
    monkeypatch.setattr(control, "actor", lambda uri, by="": Actor("ann", True))
    monkeypatch.setattr(control, "refuse_unless_manager", lambda *_: None)
    before = all_of(store)

    def refuse(self, event):
        raise Refused("no right to write")

    if missing == "a key":
        monkeypatch.setenv(keys.KEY, "no key")
    else:
        monkeypatch.setattr(ledger.StoreLedger, "append", refuse)
    with pytest.raises(InputError, match="no private key|no right to write"):
        EVENTS[action](store)
    assert all_of(store) == before
