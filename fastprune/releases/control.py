"""What governs the releases of a model beside a promotion: rollback, freeze, its policy, approvals."""

from __future__ import annotations

import hashlib

from fastprune.errors import InputError, Refused
from fastprune.releases import record
from fastprune.releases.identity import actor, refuse_unless_manager
from fastprune.releases.ledger import Event, open_ledger
from fastprune.releases.policy import parse_policy
from fastprune.releases.promotion import ChampionAlready, bound, policy_of, set_tags
from fastprune.releases.record import ChampionMoved, State
from fastprune.releases.verification import read_evidence
from fastprune.releases.words import model_name, sentence, version_number
from fastprune.store.secrets import shown
from fastprune.tracking import mlflow_store

FROZEN = "release.frozen"
"""Tag of a registered model, for people who look at MLflow's page; the record decides."""

POLICY = "release.policy_sha256"
"""Tag of a registered model, as ``FROZEN``."""


def rollback(
    uri: str, name: str, *, why: str, by: str = "", to: str | None = None, expected: str | None = None
) -> Event:
    """Make an earlier champion the champion again, and put the champion in quarantine.

    Parameters
    ----------
    to : str, optional
        The version to go back to. By default the champion before the last promotion, or where that was deleted or
        rolled back itself the one before it.
    expected : str, optional
        The version that the caller takes for the champion.

    Raises
    ------
    ChampionMoved
        The champion is another than ``expected``, or moved meanwhile.
    Refused
        The last change was a rollback already, and ``to`` is not given: of two people who answer one alarm the second
        must not undo what the first did. Or ``to`` was rolled back itself.
    InputError
        There is no version to go back to, or no right to do it.
    """
    name, why = model_name(name), sentence(why, "the reason (--why)")
    with mlflow_store.explained(uri):
        who = actor(uri, by)
        client, ledger = mlflow_store.connect(uri), open_ledger(uri)
        state = record.settle(client, ledger, name)
        if expected is not None and version_number(expected) != state.champion:
            raise ChampionMoved(name, expected, state.champion)
        target = _asked(client, name, state, to) if to is not None else way_back(client, name, state)
        told = f"by {who.name} at {record.now_utc()}: {why}"
        # For who may not move the alias this fails too: before the record says so.
        set_tags(client, name, target, {"rollback": told})
        if state.champion and record.exists(client, name, state.champion):
            set_tags(client, name, state.champion, {"rolled_back": told})
        return record.write(
            client,
            ledger,
            name,
            state,
            unless=("promote", "rollback"),
            action="rollback",
            by=who,
            to_version=target,
            why=why,
        )


def _asked(client, name: str, state: State, to: str) -> str:
    """The version to go back to, if it may be."""
    to = version_number(to)
    if to == state.champion:
        raise ChampionAlready(f"{name} version {to} is the champion already")
    champions = {version for event in state.events if event.moves for version in (event.from_version, event.to_version)}
    if to not in champions:
        raise InputError(f"{name} version {to} never was the champion; promote it, under the policy")
    if quarantine := state.quarantine(to):
        raise Refused(
            f"{name} version {to} was rolled back {quarantine}, so nothing was changed; if it is right after all, "
            "use promote --reinstate"
        )
    client.get_model_version(name, to)
    return to


def way_back(client, name: str, state: State) -> str:
    """The version that a rollback without ``to`` leads to. Raises as :func:`rollback`."""
    last = state.last_move
    if last and last.action == "rollback":
        raise Refused(
            f"{name}: the last change was a rollback already, from version {last.from_version} to version "
            f"{last.to_version}, {last}; nothing was changed. To go back further, name the version with --to, and with "
            "--expect the champion that you have seen"
        )
    passed: list[str] = []
    for version in reversed(state.former):
        if quarantine := state.quarantine(version):
            passed.append(f"version {version} was rolled back {quarantine}")
        elif not record.exists(client, name, version):
            passed.append(f"version {version} was deleted")
        else:
            return version
    raise InputError(
        f"{name}: there is no previous champion to go back to{''.join(f'; {reason}' for reason in passed)}; promote "
        "another version"
    )


def where_back(uri: str, name: str) -> str:
    """Where a rollback would lead, in words."""
    with mlflow_store.explained(uri):
        client = mlflow_store.connect(uri)
        state = record.look(client, open_ledger(uri), name)
        try:
            target = way_back(client, name, state)
        except InputError:
            return "there is none before it that a rollback could lead to"
    gone = f" (version {state.previous} cannot be used)" if target != state.previous else ""
    return f"a rollback leads to version {target}{gone}"


def freeze(uri: str, name: str, *, why: str, by: str = "") -> Event:
    """Let no version be promoted until :func:`unfreeze`; a rollback stays possible. Raises as :func:`rollback`."""
    return _set_frozen(uri, name, "freeze", why, by)


def unfreeze(uri: str, name: str, *, why: str, by: str = "") -> Event:
    """Let versions be promoted again."""
    return _set_frozen(uri, name, "unfreeze", why, by)


def _set_frozen(uri: str, name: str, action: str, why: str, by: str) -> Event:
    name, why = model_name(name), sentence(why, "the reason (--why)")
    with mlflow_store.explained(uri):
        who = actor(uri, by)
        client, ledger = mlflow_store.connect(uri), open_ledger(uri)
        state = record.settle(client, ledger, name)
        if action == "freeze" and state.frozen:
            raise Refused(f"{name} is frozen already, {state.frozen}")
        if action == "unfreeze" and not state.frozen:
            raise Refused(f"{name} is not frozen")
        # Who may not do this may not promote either.
        client.set_registered_model_tag(name, FROZEN, f"by {who.name}: {why}" if action == "freeze" else "no")
        return record.write(
            client, ledger, name, state, unless=("freeze", "unfreeze"), action=action, by=who, to_version=None, why=why
        )


def set_policy(uri: str, name: str, text: str, *, why: str, by: str = "", source: object = "policy") -> Event:
    """Make a policy the model's: every promotion is judged by it from now on, the gate's too.

    Parameters
    ----------
    text : str
        The content of a policy file; ``source`` says where it is from in what is refused.

    Raises
    ------
    Refused
        The server says that the user does not manage the registered model; or the policy asks for approvals, and MLflow
        authenticates nobody who could give one.
    InputError
        No sound policy, or the model's already.
    """
    name, why = model_name(name), sentence(why, "the reason (--why)")
    policy = parse_policy(text, source)
    with mlflow_store.explained(uri):
        who = actor(uri, by)
        if policy.approvals and not who.authenticated:
            raise Refused(f"{source}: approvals: {_nobody(uri)}")
        client, ledger = mlflow_store.connect(uri), open_ledger(uri)
        state = record.settle(client, ledger, name)
        if policy_of(state) == policy:
            raise InputError(f"{source}: is the policy of {name} already, set {state.policy}")
        refuse_unless_manager(client, uri, name, who)
        client.set_registered_model_tag(name, POLICY, hashlib.sha256(text.encode()).hexdigest())
        return record.write(
            client,
            ledger,
            name,
            state,
            unless=("policy", "promote"),
            by=who,
            action="policy",
            to_version=None,
            why=why,
            **bound(text),
        )


def approve(uri: str, name: str, version: str, *, why: str) -> Event:
    """Say that a version may be the champion, as the user that MLflow's server authenticates.

    It holds for the version as it is now, until the version is rolled back.

    Raises
    ------
    Refused
        MLflow authenticates nobody; the user has approved it already, or may not write to it.
    """
    name, version, why = model_name(name), version_number(version), sentence(why, "the reason (--why)")
    with mlflow_store.explained(uri):
        who = actor(uri)
        if not who.authenticated:
            raise Refused(f"{name} version {version} was not approved: {_nobody(uri)}")
        client, ledger = mlflow_store.connect(uri), open_ledger(uri)
        state = record.settle(client, ledger, name)
        evidence = read_evidence(client, name, version)
        known = [event for event in state.approvals.get(version, ()) if event.evidence_sha256 == evidence.digest]
        if who.name in {event.by for event in known}:
            raise Refused(f"{name} version {version}: {who.name} has approved it already")
        set_tags(client, name, version, {f"approved.{who.name}": record.now_utc()})
        return record.write(
            client,
            ledger,
            name,
            state,
            unless=("rollback",),
            by=who,
            action="approve",
            to_version=version,
            why=why,
            evidence_sha256=evidence.digest,
        )


def _nobody(uri: str) -> str:
    return (
        f"MLflow at {shown(uri)} authenticates nobody, so that an approval would prove nothing; use a server with "
        "authentication (mlflow server --app-name basic-auth)"
    )
