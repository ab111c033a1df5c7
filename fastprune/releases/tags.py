"""The tags that fastprune itself gives to a version, and that nobody else may. It imports no torch.

What people read of a version is its description and its metrics. Its figures and lineage stand in one tag, for
programs; before 0.2.0 each had a tag of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from fastprune.errors import InputError

if TYPE_CHECKING:
    from fastprune.releases.evidence import Evidence

ORIGIN = ("source_sha256", "sample_sha256", "evaluation_sha256", "seed")
LINEAGE = (
    *ORIGIN,
    "source_model",
    "task",
    "sample_size",
    "keep_ratio",
    "selection",
    "estimator",
    "tuning",
    "macs_before",
    "macs_after",
)
FIGURES = ("metric", "dense", "pruned", "speedup", "megabytes", "artifact_sha256", "weights_sha256")
FACTS = "fastprune.facts"
"""Tag of a version: its figures and lineage, as JSON."""

WORKFLOW = ("kfp.run_id", "airflow.dag_id", "airflow.dag_run_id")
"""What of a workflow is told of a version too; the rest is the run's."""

_OWN = {
    *LINEAGE,
    *FIGURES,
    "evidence_sha256",
    "code",
    "inputs_sha256",
    "answers_sha256",
    "registered_by",
    "promotion",
    "rollback",
    "rolled_back",
}
_PREFIXES = ("promotion.", "rollback.", "rolled_back.", "approved.", "kfp.", "airflow.", "fastprune.")


def check_tags(names: Iterable[str], where: str = "") -> None:
    """Raise InputError for the name of a tag that is fastprune's own; ``where`` begins the message."""
    for name in names:
        if name in _OWN or name.startswith(_PREFIXES):
            raise InputError(f"{where}the tag {name} is written by fastprune itself; give it another name")


def tags_of(evidence: Evidence, by: str) -> dict[str, str]:
    """Of a version: who registers it, its digests to find and prove it by, and for programs its figures and lineage."""
    return {
        "artifact_sha256": evidence.artifact_sha256,
        "evidence_sha256": evidence.digest,
        FACTS: json.dumps({name: value for name, value in facts(evidence).items() if value is not None}),
        **({"registered_by": by} if by else {}),
    }


def facts(evidence: Evidence) -> dict[str, str | int | float | None]:
    """Lineage and figures, by the names that tags of a version may have in a policy."""
    return {**evidence.lineage, **{name: getattr(evidence, name) for name in FIGURES}}


def facts_of(tags: Mapping[str, str]) -> dict:
    """What the tags of a version say of it: each tag as it is, and what stands in ``FACTS`` under its own name."""
    try:
        facts = json.loads(tags.get(FACTS, "{}"))
    except ValueError:  # somebody has written over it: no more than a page needs it
        facts = {}
    return {**tags, **(facts if isinstance(facts, dict) else {})}
