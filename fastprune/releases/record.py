"""What the record of a model says now, and how its next event is written.

The record (:mod:`fastprune.releases.ledger`) is the truth, the aliases ``champion`` and ``previous`` follow it: who is
killed has either written an event, and then the next start moves the aliases, or has changed nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from fastprune.errors import InputError, Refused
from fastprune.releases import hooks
from fastprune.releases.identity import Actor
from fastprune.releases.ledger import Event, Ledger, events
from fastprune.store import keys

CHAMPION, PREVIOUS = "champion", "previous"

ANCHOR = "release.anchor"
"""Tag of a registered model: number and digest of an event of its record, so that another record is noticed."""

FIRST_EVENT = "release.first_event"
"""What earlier versions wrote in the place of ``ANCHOR``: the digest of the first event."""

_log = logging.getLogger(__name__)


class ChampionMoved(Refused):
    """Another promotion or rollback was first."""

    def __init__(self, name: str, expected: str | None, found: str | None) -> None:
        super().__init__(
            f"{name}: the champion moved from {_version(expected)} to {_version(found)} meanwhile, so "
            "nothing was changed; look at the new champion and decide again"
        )


@dataclass(frozen=True)
class State:
    """A model by its record.

    Attributes
    ----------
    champion, previous : str
        The version that is served, and the champion before it.
    events : tuple of Event
        The whole record.
    former : tuple of str
        The champions that a rollback may lead back to, the last one last.
    rolled_back : mapping
        The rollback by which a version is in quarantine, by the version and by the digest of its weights: the same
        weights under another number are no better.
    weights : mapping
        SHA-256 of the weights of every version that was promoted, where it is recorded.
    frozen : Event
        By which promotions are stopped; None where they are not.
    policy : Event
        That set the model's policy; None where none is set.
    approvals : mapping
        By version the approvals that count: by authenticated users, since it was rolled back last.
    """

    champion: str | None
    previous: str | None
    events: tuple[Event, ...]
    former: tuple[str, ...]
    rolled_back: Mapping[str, Event]
    weights: Mapping[str, str]
    frozen: Event | None
    policy: Event | None
    approvals: Mapping[str, tuple[Event, ...]]

    @property
    def last_move(self) -> Event | None:
        return next((event for event in reversed(self.events) if event.moves), None)

    def quarantine(self, version: str, weights_sha256: str | None = None) -> Event | None:
        """The rollback by which a version, or one of the same weights, must not be the champion."""
        by_weights = weights_sha256 or self.weights.get(version, "")
        return self.rolled_back.get(version) or self.rolled_back.get(by_weights)


def state_of(told: tuple[Event, ...], aliases: Mapping[str, str]) -> State:
    """Fold a record; ``aliases`` says who is the champion of a model without one."""
    champion, previous = aliases.get(CHAMPION), aliases.get(PREVIOUS)
    former: list[str] = []
    rolled_back: dict[str, Event] = {}
    weights: dict[str, str] = {}
    approvals: dict[str, tuple[Event, ...]] = {}
    for event in told:
        if event.action == "approve" and event.authenticated and event.to_version:
            approvals[event.to_version] = (*approvals.get(event.to_version, ()), event)
        if not event.moves or event.to_version is None:
            continue
        before, champion = event.from_version, event.to_version
        previous = before
        if event.action == "promote":
            former = [version for version in former if version != champion] + ([before] if before else [])
            if event.weights_sha256:
                weights[champion] = event.weights_sha256
        else:
            former = former[: former.index(champion)] if champion in former else former
            bad = [before, weights.get(before or "")]
            if bad[1] == weights.get(champion):  # what was wrong is not the weights
                del bad[1]
            rolled_back |= {key: event for key in bad if key}
            approvals.pop(before or "", None)
        for key in (champion, weights.get(champion, "")):
            rolled_back.pop(key, None)
    switched = [event for event in told if event.action in ("freeze", "unfreeze")]
    frozen = switched[-1] if switched and switched[-1].action == "freeze" else None
    policies = [event for event in told if event.policy is not None]
    policy = policies[-1] if policies else None
    return State(champion, previous, told, tuple(former), rolled_back, weights, frozen, policy, approvals)


def look(client, ledger: Ledger, name: str) -> State:
    """The state of a model, with nothing changed."""
    model, told = client.get_registered_model(name), tuple(events(ledger, name))
    _check_same(name, told, model)
    return state_of(told, aliases_of(model))


def settle(client, ledger: Ledger, name: str) -> State:
    """The state of a model for who will write the next event; what somebody killed has left is completed first.

    Whatever goes with an event (tags, a verdict) is written before it. So who could not write the event, for want of a
    right to the record or of a key that can be read, is refused here.

    Raises
    ------
    InputError
        ``FASTPRUNE_SIGNING_KEY`` cannot be read, or nothing can be written to the record.
    """
    keys.private_key()
    with ledger.lock(name):
        state = _follow(client, ledger, name)
        if state.events:
            ledger.append(state.events[-1])  # its number is taken, so that nothing is written; but it takes the right
    return state


def write(client, ledger: Ledger, name: str, state: State, *, unless: tuple[str, ...], by: Actor, **fields) -> Event:
    """Write the next event, and let the aliases follow.

    Parameters
    ----------
    state : State
        What the caller has decided by.
    unless : tuple of str
        Actions that must not have come since: then nothing is written.
    by : Actor
    **fields
        Of the event; those that the record knows are filled in.

    Raises
    ------
    ChampionMoved
        The champion is another by now, and a move was among ``unless``.
    Refused
        Something else of ``unless`` has come.
    """
    with ledger.lock(name):
        while True:
            told = tuple(events(ledger, name))
            # Before the first move the alias alone knows, if somebody has set it by hand.
            now = state_of(told, aliases_of(client.get_registered_model(name)))
            _refuse_changed(name, state, now, unless)
            event = Event(
                model=name,
                number=len(told) + 1,
                by=by.name,
                authenticated=True if by.authenticated else None,
                at=now_utc(),
                from_version=now.champion,
                after=told[-1].digest if told else "",
                model_created=None if told else client.get_registered_model(name).creation_timestamp,
                **fields,
            ).signed()
            if ledger.append(event):
                break
        _follow(client, ledger, name)
    hooks.tell(event.action, event.model_dump(mode="json", exclude_none=True, exclude={"action"}))
    return event


def _refuse_changed(name: str, state: State, now: State, unless: tuple[str, ...]) -> None:
    if now.events[: len(state.events)] != state.events or ("promote" in unless and now.champion != state.champion):
        raise ChampionMoved(name, state.champion, now.champion)
    for event in now.events[len(state.events) :]:
        if event.action in unless:
            if event.moves:
                raise ChampionMoved(name, state.champion, now.champion)
            raise Refused(f"{name}: {event.action} {event} came meanwhile, so nothing was changed; look again")


def _follow(client, ledger: Ledger, name: str) -> State:
    from mlflow import MlflowException

    model = client.get_registered_model(name)  # before the record: its tags name no event that is not there yet
    told, aliases = tuple(events(ledger, name)), aliases_of(model)
    _check_same(name, told, model)
    state = state_of(told, aliases)
    if not told:
        return state
    anchor = f"{told[-1].number} {told[-1].digest}"
    if model.tags.get(ANCHOR) != anchor:
        client.set_registered_model_tag(name, ANCHOR, anchor)
    # `previous` first: whoever reads `champion` sees the old one or the new one, never none.
    for alias, version in ((PREVIOUS, state.previous), (CHAMPION, state.champion)):
        if version is not None and aliases.get(alias) != version:
            _log.info("alias %s of %s goes from %s to %s", alias, name, aliases.get(alias), version)
            try:
                client.set_registered_model_alias(name, alias, version)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                _log.warning("%s version %s, the %s by the record, was deleted", name, version, alias)
                if alias == PREVIOUS and alias in aliases:
                    _drop(client, name, alias, aliases[alias])
    # Without a lock another event may have come meanwhile, and its aliases before ours.
    if len(ledger.contents(name)) > len(told):
        return _follow(client, ledger, name)
    return state


def _drop(client, name: str, alias: str, version: str) -> None:
    """Take an alias away that names another version than the record, whose own is gone; MLflow may not allow it."""
    from mlflow import MlflowException

    try:
        client.delete_registered_model_alias(name, alias)
    except MlflowException as error:
        if error.get_http_status_code() != 403:
            raise
        _log.warning("%s: the alias %s stays on version %s; who manages the model may delete it", name, alias, version)


def _check_same(name: str, told: tuple[Event, ...], model) -> None:
    """Refuse a record that is not this model's, or not the one that MLflow's tags have seen."""
    number, _, digest = model.tags.get(ANCHOR, "").partition(" ")
    known = {1: model.tags.get(FIRST_EVENT), int(number) if number.isdecimal() else 0: digest}
    for place, expected in known.items():
        if expected and not told:
            raise InputError(f"{name}: its releases are recorded elsewhere; set FASTPRUNE_LEDGER to where they are")
        if expected and (place > len(told) or place < 1 or told[place - 1].digest != expected):
            raise InputError(
                f"{name}: its releases are recorded elsewhere, or the record was rewritten: event {place} is not the "
                f"one that the tags of the registered model name; set FASTPRUNE_LEDGER to where they are recorded, or "
                "restore the record from a backup"
            )
    if not told:
        return
    made = utc(model.creation_timestamp)
    older = told[0].model_created
    if (older != model.creation_timestamp) if older else (not any(known.values()) and told[0].at < made):
        raise InputError(
            f"{name}: was deleted and made again, and its record is of the model before; register the "
            "new one under another name"
        )


def exists(client, name: str, version: str) -> bool:
    """Whether a version is there, and was not deleted."""
    from mlflow import MlflowException

    try:
        client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def aliases_of(model) -> dict[str, str]:
    return {alias: str(version) for alias, version in model.aliases.items()}


def utc(milliseconds: int) -> str:
    """A time of MLflow's."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")


def now_utc() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _version(version: str | None) -> str:
    return f"version {version}" if version else "none"
