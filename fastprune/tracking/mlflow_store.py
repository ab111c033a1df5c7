"""Which MLflow, who acts there, and what it refuses, said so that a person can act on it."""

from __future__ import annotations

import getpass
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastprune.errors import InputError, Refused, Unreachable
from fastprune.store.secrets import shown
from fastprune.tracking import sqlite_file
from fastprune.tracking.deadlines import DeadlinePassed

# The client's own defaults retry for a quarter of an hour, and tell MLflow's makers what is used. Five retries, with
# pauses of 0, 4, 8, 16 and 32 s and up to a second more by chance, outlast a server's restart.
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "1.0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def tracking_uri(folder: str | Path = ".") -> str:
    """Where runs go: ``MLFLOW_TRACKING_URI``, or else a SQLite store in ``folder``.

    Absolute, since it is passed on to processes that run elsewhere.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    prefix = "sqlite:///"
    if uri.startswith(prefix) and not uri.startswith(prefix + "/"):
        return prefix + str(Path(folder).resolve() / uri.removeprefix(prefix))
    return uri


def artifact_location(uri: str) -> str | None:
    """``mlruns`` beside a SQLite store; a server has an artifact store of its own."""
    if uri.startswith("sqlite:///"):
        return (Path(uri.removeprefix("sqlite:///")).parent / "mlruns").as_uri()
    return None


def connect(uri: str, *, check_version: bool = False):
    """A client of a store, with retries that end within three minutes a request.

    Raises
    ------
    InputError
        The SQLite store is not whole and cannot be mended (:func:`fastprune.tracking.sqlite_file.prepare`).
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    if file := sqlite_file.file_of(uri):
        sqlite_file.prepare(file, version=check_version)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def is_away(error: BaseException) -> bool:
    """Whether an error means that the store could not be reached, or answered nothing but failures of its own."""
    import requests
    from sqlalchemy.exc import OperationalError

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OperationalError | DeadlinePassed):
            return True
        if isinstance(cause, requests.RequestException):
            return cause.response is None  # else it has answered
        cause = cause.__cause__ or cause.__context__
    return False


def status_of(error: BaseException) -> int | None:
    """The HTTP status that a server refused with; None where it has not answered."""
    from mlflow import MlflowException

    if isinstance(error, MlflowException):
        return error.get_http_status_code()
    response = getattr(error, "response", None)
    return None if response is None else response.status_code


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn what a store refuses into an InputError, for commands that are nothing without it."""
    import requests
    from mlflow import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, requests.RequestException, SQLAlchemyError, DeadlinePassed) as error:
        status, where, reason = status_of(error), f"MLflow at {shown(uri)}", first_line(error)
        if status == 403 or "Permission denied" in reason:
            raise Refused(
                f"{where}: {_told_user(uri)} has no right to do this ({reason}); ask the manager of the "
                "registered model and its experiment for EDIT"
            ) from error
        if status == 401 or "not authenticated" in reason:
            raise Refused(
                f"{where} does not know you ({reason}); set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD to one of its users"
            ) from error
        if is_away(error):
            raise Unreachable(
                f"{where} cannot be reached ({reason}); check MLFLOW_TRACKING_URI and that the server is up"
            ) from error
        raise InputError(f"{where}: {reason}") from error


def authenticated_user(uri: str) -> str:
    """Who the server says that the credentials of the requests belong to; empty for a store that authenticates nobody.

    Raises
    ------
    Refused, Unreachable
        The server knows no such user, or does not answer.
    """
    if not uri.startswith("http"):
        return ""
    import requests

    connect(uri)
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    with explained(uri):
        answer = http_request(get_default_host_creds(uri), "/api/2.0/mlflow/users/current", "GET")
        if answer.status_code == 404:  # a server without its app for authentication
            return ""
        answer.raise_for_status()
        try:
            return str(answer.json()["user"]["username"])
        except (KeyError, TypeError, requests.JSONDecodeError):  # a page of a proxy in front of it
            return ""


def _told_user(uri: str) -> str:
    """The user in a refusal; the refusal must not fail by it."""
    try:
        return user(uri)
    except InputError:
        return "your user"


def machine_user() -> str:
    """The user that is logged in on this machine: a note, not a proof."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        return f"uid {os.getuid()}"


def user(uri: str) -> str:
    """Who acts: the user that a server authenticates, or else the one logged in here. Raises as authenticated_user."""
    return authenticated_user(uri) or machine_user()


def first_line(error: BaseException) -> str:
    """What an exception of a library says, in one line and without secrets."""
    return shown(str(error) or type(error).__name__).splitlines()[0]
