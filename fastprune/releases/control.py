"""Rollback and freeze: what stops a bad release, and keeps it stopped."""

from __future__ import annotations

from fastprune.errors import InputError, Refused
from fastprune.releases import record
from fastprune.releases.ledger import Event, open_ledger
from fastprune.releases.promotion import ChampionAlready, set_tags
from fastprune.releases.record import ChampionMoved, State
from fastprune.releases.words import model_name, sentence, version_number
from fastprune.tracking import mlflow_store

FROZEN = "release.frozen"
"""Tag of a registered model, for people who look at MLflow's page; the record decides."""


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
    by = sentence(mlflow_store.actor(uri, by), "who rolls back (--by)")
    with mlflow_store.explained(uri):
        client, ledger = mlflow_store.connect(uri), open_ledger(uri)
        state = record.settle(client, ledger, name)
        if expected is not None and version_number(expected) != state.champion:
            raise ChampionMoved(name, expected, state.champion)
        target = _asked(client, name, state, to) if to is not None else way_back(client, name, state)
        told = {"by": by, "at": record.now_utc(), "why": why}
        # For who may not move the alias this fails too: before the record says so.
        set_tags(client, name, target, {f"rollback.{key}": value for key, value in told.items()})
        if state.champion and record.exists(client, name, state.champion):
            set_tags(client, name, state.champion, {f"rolled_back.{key}": value for key, value in told.items()})
        return record.write(
            client,
            ledger,
            name,
            state,
            unless=("promote", "rollback"),
            action="rollback",
            by=by,
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
    by = sentence(mlflow_store.actor(uri, by), "who does it (--by)")
    with mlflow_store.explained(uri):
        client, ledger = mlflow_store.connect(uri), open_ledger(uri)
        state = record.settle(client, ledger, name)
        if action == "freeze" and state.frozen:
            raise Refused(f"{name} is frozen already, {state.frozen}")
        if action == "unfreeze" and not state.frozen:
            raise Refused(f"{name} is not frozen")
        # Who may not do this may not promote either.
        client.set_registered_model_tag(name, FROZEN, f"by {by}: {why}" if action == "freeze" else "no")
        return record.write(
            client, ledger, name, state, unless=("freeze", "unfreeze"), action=action, by=by, to_version=None, why=why
        )
