"""Who acts in a release: what MLflow's server says, and never what the surroundings of the client say."""

from __future__ import annotations

from dataclasses import dataclass

from fastprune.errors import Refused
from fastprune.releases.words import sentence
from fastprune.store.secrets import shown
from fastprune.tracking import mlflow_store

PROBE = "release-manager"
"""An alias that no version ever has: only who manages a registered model may delete an alias of it."""


@dataclass(frozen=True)
class Actor:
    """Who acts; ``authenticated`` where the server has said so by the credentials of the requests."""

    name: str
    authenticated: bool


def actor(uri: str, by: str = "") -> Actor:
    """Who acts: the user that the server authenticates, or where there is none ``by``, or this machine's user.

    Raises
    ------
    Refused
        ``by`` is somebody else than the user that the server knows.
    """
    known = mlflow_store.authenticated_user(uri)
    if known and by and by != known:
        raise Refused(f"MLflow at {shown(uri)} knows you as {known}, not as {by}; act with your own credentials")
    return Actor(sentence(known or by or mlflow_store.machine_user(), "who acts (--by)"), bool(known))


def refuse_unless_manager(client, uri: str, name: str, who: Actor) -> None:
    """Refuse who may not manage a registered model; a server that authenticates nobody cannot tell.

    Raises
    ------
    Refused
        The server says that the user has not the permission MANAGE.
    """
    if not who.authenticated:
        return
    try:
        with mlflow_store.explained(uri):
            client.delete_registered_model_alias(name, PROBE)
    except Refused as error:
        raise Refused(
            f"{name}: its policy belongs to who manages the registered model, and {who.name} does not (MLflow's "
            "permission MANAGE); ask its manager"
        ) from error
