"""The connection to a Kubeflow Pipelines service: kfp.Client with limits, and its refusals as InputErrors."""

from __future__ import annotations

import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api
import urllib3
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials

from fastprune.errors import InputError

TIMEOUT = (5, 30)
"""Seconds to connect and to wait for an answer. A read is tried four times. kfp's client by itself waits for ever."""


class _Client(kfp.Client):
    """kfp's client, which asks for the service's health when it is made."""

    def get_kfp_healthz(self, sleep_duration: int = 0):  # kfp's own: five times, 5 s apart, each with a traceback
        return self._healthz_api.healthz_service_get_healthz(_request_timeout=TIMEOUT)


@dataclass(frozen=True)
class Service:
    """A connection. ``namespace`` is the user's on a service with several users, else None."""

    client: kfp.Client
    host: str
    namespace: str | None


def connect(host: str = "", namespace: str = "", token: str = "", cookies: str = "", ca_cert: str = "") -> Service:
    """Reach the service, by default as kfp does: ``KF_PIPELINES_ENDPOINT``, the pod's service, or the kubeconfig.

    Parameters
    ----------
    host : str
        Such as ``https://kubeflow.example.com/pipeline``.
    namespace : str
        The user's, on a service with several users.
    token : str
        Bearer token. By default that of the file ``KF_PIPELINES_SA_TOKEN_PATH``, if the variable is set; Kubernetes
        renews it there.
    cookies : str
        Content of the Cookie header, for a service behind a login page.
    ca_cert : str
        File with the certificate that the service's is signed with.

    Raises
    ------
    InputError
        The service does not answer, or refuses.
    """
    token_file = os.environ.get("KF_PIPELINES_SA_TOKEN_PATH", "")
    for name, file in (("KF_PIPELINES_SA_TOKEN_PATH", token_file), ("--ca-cert", ca_cert)):
        if file and not Path(file).is_file():
            raise InputError(f"{name}: {file} is no file")
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it warns of every retry
    asked = host or os.environ.get("KF_PIPELINES_ENDPOINT") or "the Kubeflow Pipelines service"
    with _explained(asked, namespace), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of services older than version 2
        client = _Client(
            host=host or None,
            existing_token=token or None,
            cookies=cookies or None,
            credentials=ServiceAccountTokenVolumeCredentials() if token_file else None,
            ssl_ca_cert=ca_cert or None,
        )
        reached, yours = _guard(client), namespace or client.get_user_namespace() or None
        if not yours and client.get_kfp_healthz().multi_user:
            raise InputError(f"{reached} has several users: name your namespace with --namespace")
        return Service(client, reached, yours)


def _guard(client: kfp.Client) -> str:
    """Limit every request of a client, and refuse answers that are not an API's. Returns the client's host."""
    api = client._experiment_api.api_client  # the same for all of the client's calls
    ask = api.request

    def request(*args, **options):
        answer = ask(*args, **options | {"_request_timeout": TIMEOUT})
        if "json" not in answer.urllib3_response.headers.get("Content-Type", ""):
            # The client would take a page for an empty list.
            raise InputError(
                f"{api.configuration.host} answers with a page and not as the API does: a login page, or "
                "another server. Set KF_PIPELINES_TOKEN or KF_PIPELINES_COOKIES, and check the host "
                "(Kubeflow's own serves the API below /pipeline)"
            )
        return answer

    api.request = request
    return api.configuration.host


def explained(service: Service):
    """A block in which what the service refuses becomes an InputError, and the client prints nothing."""
    return _explained(service.host, service.namespace)


@contextmanager
def _explained(host: str, namespace: str | None) -> Iterator[None]:
    try:
        with redirect_stdout(io.StringIO()):
            yield
    except kfp_server_api.ApiException as error:
        status, said = error.status, _message(error)
        raise InputError(
            f"{host} "
            + (
                "does not know who you are (401). Set KF_PIPELINES_TOKEN, KF_PIPELINES_SA_TOKEN_PATH or "
                "KF_PIPELINES_COOKIES, to one that has not expired"
                if status == 401
                else f"does not permit it (403: {said}). Ask for the role kubeflow-pipelines-edit in "
                f"{f'the namespace {namespace}' if namespace else 'your namespace, and name that with --namespace'}"
                if status == 403
                else f"has no such thing (404: {said}). Check the name, the namespace, and that the host is a Kubeflow "
                "Pipelines 2 service"
                if status == 404
                else f"cannot be trusted ({said}). Name its authority's certificate with --ca-cert"
                if status == 0
                else f"failed ({status}: {said}). Look at the log of its deployment ml-pipeline, then try again"
                if status >= 500
                else f"refused ({status}: {said})"
            )
        ) from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        cause = getattr(error, "reason", None) or error
        raise InputError(
            f"{host} does not answer ({type(cause).__name__}). Check KF_PIPELINES_ENDPOINT or --host, "
            "that the service is up, and the port-forward if there is one"
        ) from error


def _message(error: kfp_server_api.ApiException) -> str:
    """What the service said, on one line; uploads say it under another name than the rest."""
    try:
        body = json.loads(error.body)
        said = body.get("error_message") or body.get("message") or body.get("error")
    except (TypeError, ValueError, AttributeError):
        said = None
    return " ".join(str(said or error.reason).split())[:400]


def named(name: str) -> str:
    """The filter for things of a name."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def pages(ask: Callable[[str], Any], field: str) -> list:
    """What a list call gives on all of its pages.

    Parameters
    ----------
    ask : callable
        Of a page token; the first one is empty.
    field : str
        The attribute of an answer that holds the list.
    """
    items: list = []
    token = ""
    while True:
        page = ask(token)
        items += getattr(page, field) or []
        token = page.next_page_token
        if not token:
            return items
