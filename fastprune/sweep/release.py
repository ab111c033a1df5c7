"""Whether a sweep could promote what its policy accepts: asked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fastprune.errors import InputError
from fastprune.releases.tags import check_tags
from fastprune.store.keys import KEY
from fastprune.sweep.config import Sweep

SECRET = "(secret)"
"""Stands for the value of a variable that a Kubernetes secret holds."""

_HOLDS_THE_RECORD = ("sqlite:///", "postgresql", "s3://", SECRET)


def pod_environment(sweep: Sweep) -> dict[str, str]:
    """The variables that the pods of a sweep get from its configuration."""
    secrets = {variable: SECRET for secret in sweep.cluster.secrets for variable in secret.env.values()}
    return {**secrets, **sweep.cluster.env}


def check_release(sweep: Sweep, environment: Mapping[str, str]) -> None:
    """Refuse tags that no version may be given, and a policy by which nothing could ever be promoted.

    Parameters
    ----------
    sweep : Sweep
        As :func:`fastprune.sweep.reading.read_config` gave it.
    environment : mapping
        The variables that the stages will have.

    Raises
    ------
    InputError
        A tag has a name of fastprune's own. There is a policy, and no MLflow or no place for the record of releases;
        or ``release.required``, and the policy asks for a tag that is not among ``release.tags``, for a signature
        without a key to sign with, or for approvals, which nobody can give a version before its gate.
    """
    check_tags(sweep.release.tags, "release.tags: ")
    if not sweep.release.policy:
        return
    uri = sweep.tracking.uri or environment.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        raise InputError(
            "release.policy: promotes in MLflow, and no MLflow is named; give tracking.uri, or MLFLOW_TRACKING_URI "
            "(for a cluster in cluster.env)"
        )
    if "://" in uri and not uri.startswith(_HOLDS_THE_RECORD) and not environment.get("FASTPRUNE_LEDGER"):
        raise InputError(
            f"release.policy: {uri.partition('://')[0]}:// cannot hold the record of releases; give FASTPRUNE_LEDGER "
            "(for a cluster in cluster.env): a postgresql:// URL, an s3:// prefix or a shared folder"
        )
    if sweep.release.required:
        _check_required(sweep, environment)


def _check_required(sweep: Sweep, environment: Mapping[str, str]) -> None:
    from fastprune.releases.policy import parse_policy

    policy = parse_policy(sweep.release.policy)
    if (policy.signed_by or policy.record_signed_by) and not environment.get(KEY):
        raise InputError(
            f"release.policy: {'signed_by' if policy.signed_by else 'record_signed_by'} asks for a signature, and "
            f"there is no key to sign with; give {KEY} (for a cluster by a secret), or leave out release.required"
        )
    if policy.approvals:
        raise InputError(
            "release.required: the policy asks for approvals, which nobody can give before the gate judges; leave out "
            "release.required, and promote what was approved"
        )
    for name, pattern in policy.required_tags.items():
        if name not in sweep.release.tags:
            raise InputError(
                f"release.tags: {name} is missing; the policy requires it, and without it nothing is promoted, which "
                "release.required makes a failure"
            )
        if not re.fullmatch(pattern, sweep.release.tags[name]):
            raise InputError(
                f"release.tags.{name}: {sweep.release.tags[name]!r} is not what the policy requires, {pattern!r}"
            )
