"""What a version must show before it may become the champion: the policy file, the evidence, the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fastprune.errors import InputError
from fastprune.releases import patterns
from fastprune.store.bounded import CONFIG_BYTES, decode, parse_yaml, read_bytes
from fastprune.store.documents import Document


class Policy(Document):
    """The content of a policy file. What it leaves out is not checked.

    Attributes
    ----------
    max_accuracy_drop : float
        Greatest loss of the metric against the dense model, absolute (0.01 is one point).
    min_speedup : float
        Least ratio of the dense model's latency to the pruned one's.
    max_megabytes : float
        Greatest size of the weights, in 10^6 bytes.
    same_evaluation_data : bool
        The evaluation data must have the digest of the champion's; the first champion has none to equal.
    required_tags : dict
        Tags that the version must carry, each with a regular expression that its whole value matches.
    approvers : list of str
        Who may promote.
    approvals : int
        How many users must have approved the version (``fastprune approve``), each known by MLflow's authentication.
    """

    max_accuracy_drop: float | None = Field(None, ge=0)
    min_speedup: float | None = Field(None, gt=0)
    max_megabytes: float | None = Field(None, gt=0)
    same_evaluation_data: bool = False
    required_tags: dict[str, str] = {}
    approvers: list[str] = []
    approvals: int = Field(0, ge=0, le=20)

    @field_validator("required_tags")
    @classmethod
    def _are_expressions(cls, tags: dict[str, str]) -> dict[str, str]:
        for name, pattern in tags.items():
            try:
                patterns.check(pattern)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        return tags


class Probe(BaseModel):
    """Inputs and the logits that the model gave for them when it was registered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    texts: list[list[str]]
    logits: list[list[float]]


class Evidence(Document):
    """What is known of a registered version; it travels with the model, and its digest is in the version's tags.

    Attributes
    ----------
    metric, dense, pruned : str, float, float
        The evaluation of the dense and of the pruned model.
    speedup : float
        Latency of the dense model over that of the pruned one; None where it was not measured.
    megabytes : float
        Of the pruned model's weights.
    lineage : dict
        ``source_sha256``, ``sample_sha256``, ``evaluation_sha256``, ``seed`` and other facts of its manifest.
    artifact_sha256, weights_sha256, serving_sha256 : str
        Of the artifact's manifest, of the weights as :func:`fastprune.model.checkpoint.digest` has it, and of
        ``pyfunc_model.py``.
    """

    metric: str
    dense: float
    pruned: float
    speedup: float | None
    megabytes: float
    lineage: dict[str, str | int | float | None]
    artifact_sha256: str
    weights_sha256: str
    serving_sha256: str
    probe: Probe


class Check(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    required: str
    found: str
    passed: bool


class Verdict(Document):
    """What a policy says of a version at one moment."""

    model: str
    version: str
    champion: str | None
    by: str
    at: str
    why: str
    policy: Policy
    evidence_sha256: str
    checks: list[Check]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> str:
        """The checks that failed, in one line."""
        return "; ".join(
            f"{check.name}: {check.found}, required {check.required}" for check in self.checks if not check.passed
        )

    def __str__(self) -> str:
        return "\n".join(
            f"  {'passed' if check.passed else 'FAILED':<7} {check.name:<22} required {check.required}, "
            f"found {check.found}"
            for check in self.checks
        )


def read_policy(path: str | Path) -> Policy:
    """Read a policy file, YAML or JSON.

    Raises
    ------
    InputError
        No such file, an unknown or malformed field, or a policy that checks nothing.
    """
    return parse_policy(read_policy_text(path), path)


def read_policy_text(path: str | Path) -> str:
    """The content of a policy file, unread. Raises InputError where there is none."""
    try:
        content = read_bytes(path, CONFIG_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read as a policy file ({error})") from error
    return decode(content, path)


def parse_policy(text: str, path: object = "policy") -> Policy:
    """Read the content of a policy file; ``path`` says where it is from in what is refused. Raises as read_policy."""
    content, _ = parse_yaml(text, path)
    try:
        policy = Policy.model_validate(content if content is not None else {})
    except ValidationError as error:
        told = "; ".join(
            f"{'.'.join(map(str, found['loc'])) or 'the file'}: {found['msg']}" for found in error.errors()
        )
        raise InputError(f"{path}: {told}; the fields are {', '.join(Policy.model_fields)}") from error
    if policy == Policy():
        raise InputError(
            f"{path}: checks nothing; give at least one of "
            f"{', '.join(name for name in Policy.model_fields if name != 'schema_version')}"
        )
    return policy


def judge(
    policy: Policy, candidate: Evidence, champion: Evidence | None, tags: Mapping[str, str], by: str
) -> list[Check]:
    """Every check of the policy, in its order, passed or failed.

    Parameters
    ----------
    candidate : Evidence
    champion : Evidence, optional
        Of the version that is the champion now.
    tags : mapping
        The version's.
    by : str
        Who promotes.
    """
    checks: list[Check] = []

    def check(name: str, required: object, found: object, holds: bool) -> None:
        checks.append(
            Check(
                name=name,
                required=str(required),
                found="not recorded" if found is None else str(found),
                passed=found is not None and holds,
            )
        )

    if (limit := policy.max_accuracy_drop) is not None:
        drop = candidate.dense - candidate.pruned
        # A drop of just the limit passes, though 0.9 - 0.89 is a little more than 0.01.
        check("max_accuracy_drop", f"at most {limit:g}", f"{drop:.6g} ({candidate.metric})", drop <= limit + 1e-9)
    if (least := policy.min_speedup) is not None:
        speedup = candidate.speedup
        check(
            "min_speedup",
            f"at least {least:g}",
            None if speedup is None else f"{speedup:.4g}",
            speedup is not None and speedup >= least,
        )
    if (size := policy.max_megabytes) is not None:
        check("max_megabytes", f"at most {size:g}", f"{candidate.megabytes:.6g}", candidate.megabytes <= size)
    if policy.same_evaluation_data:
        own = candidate.lineage.get("evaluation_sha256")
        needed = champion.lineage.get("evaluation_sha256") if champion else own
        check(
            "same_evaluation_data",
            f"{needed} (the champion's)" if champion else "any: there is no champion",
            own,
            own == needed,
        )
    for name, pattern in policy.required_tags.items():
        check(f"required_tags.{name}", pattern, tags.get(name), patterns.matches(pattern, tags.get(name, "")))
    if policy.approvers:
        check("approvers", "one of " + ", ".join(policy.approvers), by, by in policy.approvers)
    return checks
