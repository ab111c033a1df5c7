"""The champion of a model as an InferenceService of KServe, by the record of releases.

The pods run ``mlflow models serve`` for one version, named by its number: who moves an alias by hand changes nothing
there. What the service runs changes when a manifest is applied.
"""

from __future__ import annotations

import re

from fastprune.errors import InputError, Refused
from fastprune.releases import record
from fastprune.releases.ledger import open_ledger
from fastprune.releases.verification import read_evidence
from fastprune.releases.words import model_name, version_number
from fastprune.store.secrets import shown
from fastprune.tracking import mlflow_store

PORT = 8080

_NAME = re.compile("[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
"""What KServe and the host names that it makes take."""


def inference_service(
    uri: str,
    name: str,
    image: str,
    *,
    version: str = "",
    canary: int | None = None,
    server: str = "",
    service: str = "",
    secret: str = "",
    cpu: str = "1",
    memory: str = "1Gi",
) -> dict:
    """The manifest of the service that answers for a model.

    Parameters
    ----------
    uri : str
        Of the MLflow store.
    name : str
        Of the registered model.
    image : str
        Has mlflow and what the version's ``requirements.txt`` names.
    version : str
        By default the champion. Another one may have a part of the requests alone.
    canary : int, optional
        Percent of the requests that this version gets; the rest stay with the version that had all of them last.
    server : str
        The address of MLflow that pods ask for the version's files; by default ``uri``.
    service : str
        Name of the service; by default the model's.
    secret : str
        Kubernetes secret whose keys become environment variables, such as ``MLFLOW_TRACKING_PASSWORD``.
    cpu, memory : str
        That a pod gets.

    Raises
    ------
    Refused
        The record says that this version must not get these requests: it was rolled back, promotions are frozen, or it
        is not the champion and would get all of them.
    InputError
        No champion, no such version, or a name that KServe does not take.
    """
    name, service, server = model_name(name), service or name, server or uri
    if not _NAME.fullmatch(service):
        raise InputError(
            f"{service!r} is no name of a service: small letters, digits and '-' alone, a letter first, at most 63; "
            "give one with --service"
        )
    if not server.startswith(("http://", "https://")):
        raise InputError(f"{shown(server)}: pods cannot reach it; name MLflow's server with --server")
    if "@" in server.split("://", 1)[1].split("/", 1)[0]:
        raise InputError(f"{shown(server)}: a manifest holds no password; leave it out, and name a secret: --secret")
    with mlflow_store.explained(uri):
        client = mlflow_store.connect(uri)
        state = record.look(client, open_ledger(uri), name)
        number = version_number(version) if version else state.champion
        if number is None:
            raise InputError(f"{name} has no champion yet; promote a version first")
        evidence = read_evidence(client, name, number)
    _refuse(name, number, evidence.weights_sha256, state, canary)
    container: dict = {
        "name": "kserve-container",
        "image": image,
        "command": ["mlflow", "models", "serve", "--model-uri", f"models:/{name}/{number}", "--env-manager", "local"],
        "args": ["--host", "0.0.0.0", "--port", str(PORT)],
        "env": [{"name": "MLFLOW_TRACKING_URI", "value": server}],
        "ports": [{"containerPort": PORT, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/ping", "port": PORT}, "periodSeconds": 5},
        "resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}},
    }
    if secret:
        container["envFrom"] = [{"secretRef": {"name": secret}}]
    predictor: dict = {"minReplicas": 1, "containers": [container]}
    if canary is not None:
        predictor["canaryTrafficPercent"] = canary
    told = {
        "fastprune/model": name,
        "fastprune/version": number,
        "fastprune/serves": evidence.serves,
        "fastprune/evidence-sha256": evidence.digest,
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": service, "annotations": told},
        "spec": {"predictor": predictor},
    }


def _refuse(name: str, version: str, weights_sha256: str, state: record.State, canary: int | None) -> None:
    """Raise Refused where the record forbids that a version gets these requests."""
    if version == state.champion:
        return
    if quarantine := state.quarantine(version, weights_sha256):
        raise Refused(f"{name} version {version}: was rolled back {quarantine}; it gets no requests")
    if canary is None:
        raise Refused(
            f"{name} version {version} is not the champion and would get all requests; promote it, or give it a part "
            "of them with --canary"
        )
    if state.frozen:
        raise Refused(f"{name}: promotions are frozen {state.frozen}, and a canary is one; unfreeze it first")
