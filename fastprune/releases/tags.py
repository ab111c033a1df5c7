"""The tags that fastprune itself gives to a version, and that nobody else may. It imports no torch."""

from __future__ import annotations

from collections.abc import Iterable

from fastprune.errors import InputError

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
_OWN = {*LINEAGE, *FIGURES, "evidence_sha256", "code", "inputs_sha256", "answers_sha256", "registered_by"}
_PREFIXES = ("promotion.", "rollback.", "rolled_back.", "approved.", "kfp.", "airflow.")


def check_tags(names: Iterable[str], where: str = "") -> None:
    """Raise InputError for the name of a tag that is fastprune's own; ``where`` begins the message."""
    for name in names:
        if name in _OWN or name.startswith(_PREFIXES):
            raise InputError(f"{where}the tag {name} is written by fastprune itself; give it another name")
