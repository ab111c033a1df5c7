"""Promotion under a policy, rollback, and the history of both.

The record (:mod:`fastprune.releases.ledger`) is the truth, the aliases ``champion`` and ``previous`` follow it: a
promotion that is killed has either written its event, and then the next start moves the aliases, or has changed
nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from fastprune.errors import InputError
from fastprune.releases.ledger import Event, Ledger, events, open_ledger
from fastprune.releases.policy import Policy, Verdict, judge
from fastprune.releases.verification import read_evidence
from fastprune.tracking import mlflow_store

CHAMPION, PREVIOUS = "champion", "previous"

FIRST_EVENT = "release.first_event"
"""Tag of a registered model: the digest of its record's first event, so that a second record is noticed."""

_log = logging.getLogger(__name__)


class PolicyNotMet(InputError):
    """The policy refuses the version; ``verdict`` says which checks failed."""

    def __init__(self, verdict: Verdict) -> None:
        failed = ", ".join(check.name for check in verdict.checks if not check.passed)
        super().__init__(
            f"{verdict.model} version {verdict.version} does not meet the policy ({failed}) and was not "
            f"promoted:\n{verdict}"
        )
        self.verdict = verdict


class ChampionMoved(InputError):
    """Another promotion or rollback was first."""

    def __init__(self, name: str, expected: str | None, found: str | None) -> None:
        super().__init__(
            f"{name}: the champion moved from {_version(expected)} to {_version(found)} meanwhile, so "
            "nothing was changed; look at the new champion and decide again"
        )


@dataclass(frozen=True)
class State:
    """The champion of a model by its record."""

    champion: str | None
    previous: str | None
    events: tuple[Event, ...]


def promote(
    uri: str, name: str, version: str, policy: Policy, *, why: str, by: str = "", expected: str | None = None
) -> Verdict:
    """Make a version the champion, if the policy allows it; the former champion becomes ``previous``.

    Parameters
    ----------
    uri, name, version : str
        Of the MLflow store, the registered model and the version.
    policy : Policy
    why : str
        For the record.
    by : str
        Who promotes; by default the user that MLflow knows.
    expected : str, optional
        The version that the caller takes for the champion; by default the one read now.

    Returns
    -------
    Verdict
        With every check, all passed. It is also an artifact of the version's run, and in the version's tags.

    Raises
    ------
    PolicyNotMet
        The verdict is written all the same.
    ChampionMoved
        Of promotions at once, all but one.
    InputError
        No such version, no right to promote, no record of releases.
    """
    by = mlflow_store.actor(uri, by)
    with mlflow_store.explained(uri):
        client, ledger = mlflow_store.connect(uri), open_ledger(uri)
        state = settle(client, ledger, name)
        if expected is not None and expected != state.champion:
            raise ChampionMoved(name, expected, state.champion)
        found = client.get_model_version(name, version)
        if state.champion == version:
            raise InputError(f"{name} version {version} is the champion already")
        evidence = read_evidence(client, name, version)
        compared = state.champion if policy.same_evaluation_data else None
        champion = read_evidence(client, name, compared) if compared else None
        verdict = Verdict(
            model=name,
            version=version,
            champion=state.champion,
            by=by,
            at=_now(),
            why=why,
            policy=policy,
            evidence_sha256=evidence.digest,
            checks=judge(policy, evidence, champion, found.tags, by),
        )
        _publish(client, found, verdict)
        if not verdict.passed:
            raise PolicyNotMet(verdict)
        _move(client, ledger, state, _next(state, name, "promote", version, by, why, verdict.digest))
    return verdict


def rollback(uri: str, name: str, *, why: str, by: str = "") -> Event:
    """Make the previous champion the champion again, and the champion the previous one.

    Raises
    ------
    ChampionMoved, InputError
        As :func:`promote`; or there is no previous champion, or its version was deleted.
    """
    by = mlflow_store.actor(uri, by)
    with mlflow_store.explained(uri):
        client, ledger = mlflow_store.connect(uri), open_ledger(uri)
        state = settle(client, ledger, name)
        if state.previous is None:
            raise InputError(f"{name}: there is no previous champion to go back to")
        # Fails where somebody has deleted it, and for who may not move the alias either: before the record says so.
        _set_tags(client, name, state.previous, {"rollback.by": by, "rollback.at": _now(), "rollback.why": why})
        return _move(client, ledger, state, _next(state, name, "rollback", state.previous, by, why))


def history(uri: str, name: str) -> tuple[Event, ...]:
    """Every change of champion, oldest first; MLflow need not be there."""
    return tuple(events(open_ledger(uri), name))


def settle(client, ledger: Ledger, name: str) -> State:
    """Complete what a killed promotion left, by moving the aliases to where the record says; give its state."""
    with ledger.lock(name):
        return _follow(client, ledger, name)


def _follow(client, ledger: Ledger, name: str) -> State:
    from mlflow import MlflowException

    told = tuple(events(ledger, name))
    model = client.get_registered_model(name)
    aliases = _aliases(model)
    known = model.tags.get(FIRST_EVENT)
    if known and (not told or told[0].digest != known):
        raise InputError(f"{name}: its releases are recorded elsewhere; set FASTPRUNE_LEDGER to where they are")
    if not told:
        return State(aliases.get(CHAMPION), aliases.get(PREVIOUS), told)
    if not known:
        # Killed in its first release, or another model by the name of one that was deleted?
        first = client.get_model_version(name, told[0].to_version)
        if len(told) > 1 or first.tags.get("promotion.verdict_sha256") != told[0].verdict_sha256:
            raise InputError(
                f"{name}: was deleted and made again, and its record is of the model before; register the "
                "new one under another name"
            )
        client.set_registered_model_tag(name, FIRST_EVENT, told[0].digest)
    last = told[-1]
    # `previous` first: whoever reads `champion` sees the old one or the new one, never none.
    for alias, version in ((PREVIOUS, last.from_version), (CHAMPION, last.to_version)):
        if version is not None and aliases.get(alias) != version:
            _log.info("alias %s of %s goes from %s to %s", alias, name, aliases.get(alias), version)
            try:
                client.set_registered_model_alias(name, alias, version)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                _log.warning("%s version %s, the %s by the record, was deleted", name, version, alias)
    # Without a lock another event may have come meanwhile, and its aliases before ours.
    if len(ledger.contents(name)) > len(told):
        return _follow(client, ledger, name)
    return State(last.to_version, last.from_version, told)


def _next(
    state: State, name: str, action: str, version: str, by: str, why: str, verdict_sha256: str | None = None
) -> Event:
    """The event that makes a version the champion."""
    return Event(
        model=name,
        number=len(state.events) + 1,
        action=action,
        by=by,
        at=_now(),
        from_version=state.champion,
        to_version=version,
        why=why,
        verdict_sha256=verdict_sha256,
        after=state.events[-1].digest if state.events else "",
    )


def _move(client, ledger: Ledger, state: State, event: Event) -> Event:
    """Write the event, if the record is still what it was, and let the aliases follow."""
    name = event.model
    with ledger.lock(name):
        now = tuple(events(ledger, name))
        # Before the first event the alias alone knows, if somebody has set it by hand.
        alias = None if now else _aliases(client.get_registered_model(name)).get(CHAMPION)
        moved = now != state.events or (not now and alias != state.champion)
        if moved or not ledger.append(event):
            told = events(ledger, name)
            raise ChampionMoved(name, state.champion, told[-1].to_version if told else alias)
        _follow(client, ledger, name)
    return event


def _aliases(model) -> dict[str, str]:
    return {alias: str(version) for alias, version in model.aliases.items()}


def _publish(client, version, verdict: Verdict) -> None:
    """Write the verdict into the version's run and tags: who may not do that may not move the alias either."""
    if version.run_id:
        client.log_text(version.run_id, verdict.content.decode(), f"promotion/{verdict.digest}.json")
    tags = {
        "promotion.verdict": "passed" if verdict.passed else "failed",
        "promotion.by": verdict.by,
        "promotion.at": verdict.at,
        "promotion.verdict_sha256": verdict.digest,
    }
    # Those of an earlier promotion under another policy; to delete a tag takes more rights than to promote.
    tags |= {key: "not checked" for key in version.tags if key.startswith("promotion.check.")}
    for check in verdict.checks:
        told = f"{'passed' if check.passed else 'failed'}: required {check.required}, found {check.found}"
        tags[f"promotion.check.{check.name}"] = told
    _set_tags(client, version.name, version.version, tags)


def _set_tags(client, name: str, version: str, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _version(version: str | None) -> str:
    return f"version {version}" if version else "none"
