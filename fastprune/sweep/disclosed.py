"""What a compiled sweep tells everybody who can see its pipeline or its DAG: no password may be among it."""

from __future__ import annotations

from collections.abc import Mapping

from fastprune.errors import InputError
from fastprune.store.secrets import tells_secret
from fastprune.sweep.config import Sweep

_OF_A_MODEL = ("source", "train_file", "eval_file", "validation_file")


def check_disclosed(sweep: Sweep, tracking_uri: str, environment: Mapping[str, str]) -> None:
    """Refuse passwords, tokens and keys where a cluster's users could read them.

    Parameters
    ----------
    sweep : Sweep
    tracking_uri : str
        MLflow's, which the stages are given as a parameter.
    environment : mapping
        Variables that are written down with their values.

    Raises
    ------
    InputError
        The message names the setting, and not its value.
    """
    told = {"latency.lut": sweep.latency.lut, "latency.lut_store": sweep.latency.lut_store} | {
        f"models.{model.name}.{field}": getattr(model, field) for model in sweep.models for field in _OF_A_MODEL
    }
    if tells_secret(tracking_uri):
        raise _refused(
            "tracking.uri",
            "leave it out, and give MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (on a cluster by "
            "cluster.secrets)",
        )
    for place, value in told.items():
        if tells_secret(value):
            raise _refused(place, "name it without")
    for name, value in environment.items():
        if tells_secret(f"{name}={value}"):
            raise _refused(f"cluster.env.{name}", "give it by cluster.secrets")


def _refused(place: str, remedy: str) -> InputError:
    return InputError(
        f"{place}: holds a password, a token or a key, which everybody could read who can see the pipeline; {remedy}"
    )
