"""What a version must show before it may become the champion: the policy file, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fastprune.errors import InputError
from fastprune.releases import patterns
from fastprune.releases.evidence import Evidence
from fastprune.store.bounded import CONFIG_BYTES, decode, parse_yaml, read_bytes
from fastprune.store.documents import Document
from fastprune.store.keys import check_public

if TYPE_CHECKING:  # its folder imports torch, which Airflow's environment has not
    from fastprune.data.outcomes import Difference


class Policy(Document):
    """The content of a policy file. What it leaves out is not checked.

    Attributes
    ----------
    max_accuracy_drop : float
        Greatest loss of the metric against the dense model, absolute (0.01 is one point).
    not_worse_than_champion : float
        Greatest loss of the metric against the champion, with ``confidence`` (0.95 where it is not given): the upper
        end of the interval of the paired difference, on the same evaluation rows.
    confidence : float
        With it ``max_accuracy_drop`` too is judged by the upper end of its interval, not by the number measured.
    min_speedup : float
        Least ratio of the dense model's latency to the pruned one's.
    speed_on : str
        The device (a processor or GPU, by its name) that ``min_speedup`` is for: timed there, or predicted by a
        look-up table that was measured there. Without it, wherever it was timed.
    max_megabytes : float
        Greatest size of the weights, in 10^6 bytes.
    same_evaluation_data : bool
        The evaluation data must have the digest of the champion's; the first champion has none to equal.
    required_tags : dict
        Tags that the version must carry, each with a regular expression that its whole value matches.
    signed_by : list of str
        Public keys (``ed25519:...``), of one of which the figures must be signed, unless who promotes measures again.
    record_signed_by : list of str
        Public keys, by one of which every event of the record since the policy was set must be signed, and the
        promotion too. What was refused does not count.
    approvers : list of str
        Who may promote.
    approvals : int
        How many users must have approved the version (``fastprune approve``), each known by MLflow's authentication.
    """

    max_accuracy_drop: float | None = Field(None, ge=0)
    not_worse_than_champion: float | None = Field(None, ge=0)
    confidence: float | None = Field(None, ge=0.5, lt=1)
    min_speedup: float | None = Field(None, gt=0)
    speed_on: str | None = None
    max_megabytes: float | None = Field(None, gt=0)
    same_evaluation_data: bool = False
    required_tags: dict[str, str] = {}
    signed_by: list[str] = []
    record_signed_by: list[str] = []
    approvers: list[str] = []
    approvals: int = Field(0, ge=0, le=20)

    @model_validator(mode="after")
    def _goes_together(self) -> Policy:
        if self.speed_on is not None and self.min_speedup is None:
            raise ValueError("speed_on goes with min_speedup; give that too")
        if self.confidence is not None and self.max_accuracy_drop is None and self.not_worse_than_champion is None:
            raise ValueError("confidence goes with max_accuracy_drop or not_worse_than_champion; give one of them")
        return self

    @field_validator("signed_by", "record_signed_by")
    @classmethod
    def _are_keys(cls, keys: list[str]) -> list[str]:
        return [check_public(key) for key in keys]

    @field_validator("required_tags")
    @classmethod
    def _are_expressions(cls, tags: dict[str, str]) -> dict[str, str]:
        for name, pattern in tags.items():
            try:
                patterns.check(pattern)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        return tags


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
    def of_the_version(self) -> bool:
        """Whether another version may pass: nothing failed that would fail for any."""
        return not any(check.name in ("frozen", "policy", "approvers") for check in self.checks if not check.passed)

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
    policy: Policy,
    candidate: Evidence,
    champion: Evidence | None,
    tags: Mapping[str, str],
    by: str,
    against: Difference | str = "not compared",
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
    against : Difference or str
        How much the metric falls from the champion to the candidate on the same rows, or in words why that cannot be
        told.
    """
    checks: list[Check] = []
    if policy.max_accuracy_drop is not None:
        checks.append(_drop(policy.max_accuracy_drop, policy.confidence, candidate))
    if policy.not_worse_than_champion is not None:
        checks.append(_against_champion(policy.not_worse_than_champion, champion, against))
    if policy.min_speedup is not None:
        checks.append(_speed(policy.min_speedup, policy.speed_on, candidate))
    if (size := policy.max_megabytes) is not None:
        checks.append(
            _check("max_megabytes", f"at most {size:g}", f"{candidate.megabytes:.6g}", candidate.megabytes <= size)
        )
    if policy.same_evaluation_data:
        own = candidate.lineage.get("evaluation_sha256")
        needed = champion.lineage.get("evaluation_sha256") if champion else own
        required = f"{needed} (the champion's)" if champion else "any: there is no champion"
        checks.append(_check("same_evaluation_data", required, own, own == needed))
    for name, pattern in policy.required_tags.items():
        matches = patterns.matches(pattern, tags.get(name, ""))
        checks.append(_check(f"required_tags.{name}", pattern, tags.get(name), matches))
    if policy.approvers:
        checks.append(_check("approvers", "one of " + ", ".join(policy.approvers), by, by in policy.approvers))
    return checks


def _check(name: str, required: object, found: object, holds: bool) -> Check:
    return Check(
        name=name,
        required=str(required),
        found="not recorded" if found is None else str(found),
        passed=found is not None and holds,
    )


def _drop(limit: float, confidence: float | None, candidate: Evidence) -> Check:
    drop, error = candidate.dense - candidate.pruned, (candidate.standard_error or {}).get("drop")
    found = f"{drop:.6g}" + ("" if error is None else f" +- {error:.2g}")
    required = f"at most {limit:g}"
    if confidence is not None:
        required += f" with confidence {confidence:g}"
        if error is None:
            return _check("max_accuracy_drop", required, f"{found}, and its standard error was not recorded", False)
        drop += NormalDist().inv_cdf(confidence) * error
        found += f", at most {drop:.4g}"
    # A drop of just the limit passes, though 0.9 - 0.89 is a little more than 0.01.
    return _check("max_accuracy_drop", required, f"{found} ({candidate.metric})", drop <= limit + 1e-9)


def _against_champion(limit: float, champion: Evidence | None, against: Difference | str) -> Check:
    name, required = "not_worse_than_champion", f"worse by at most {limit:g}"
    if champion is None:
        return _check(name, required, "there is no champion", True)
    holds = not isinstance(against, str) and against.upper <= limit + 1e-9
    return _check(name, required, against if isinstance(against, str) else f"worse by {against}", holds)


def _speed(least: float, device: str | None, candidate: Evidence) -> Check:
    speed, required = candidate.speed, f"at least {least:g}"
    if device is None:
        found = None if candidate.speedup is None else str(speed or f"{candidate.speedup:.4g}")
        return _check("min_speedup", required, found, candidate.speedup is not None and candidate.speedup >= least)
    required += f" on {device}"
    if speed is not None and speed.device != device and speed.predicted_on == device and speed.predicted is not None:
        found = f"{speed.predicted:.4g}, predicted by the look-up table of {device}"
        return _check("min_speedup", required, found, speed.predicted >= least)
    if speed is not None and speed.device != device:
        return _check("min_speedup", required, f"{speed}: not timed on {device}", False)
    return _check("min_speedup", required, speed, speed is not None and speed.ratio >= least)
