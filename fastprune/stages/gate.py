"""Promotion of what the summary picked, if the policy accepts it."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from fastprune.errors import InputError
from fastprune.stages.folders import read_json, record_of, write_json
from fastprune.store.output import new_folder
from fastprune.tracking import runs

_log = logging.getLogger(__name__)


def gate(
    *, summary: Path, verdict: Path, model_name: str, policy: str, run_id: str = "", tracking_uri: str = ""
) -> dict:
    """Promote the compression that the summary picked, if the whole policy accepts it.

    Parameters
    ----------
    summary : Path
    verdict : Path
        Output: ``verdict.json``, with ``version`` and ``promotion``: ``champion``, or why not.
    """
    begin = time.perf_counter()
    found = read_json(summary / "summary.json")
    version = found["compressions"][found["picked"]]["version"]
    made = {"version": version, "promotion": _promote(tracking_uri, run_id, model_name, version, policy)}
    with new_folder(verdict) as folder:
        write_json(folder / "verdict.json", made)
    runs.end(tracking_uri, run_id)
    return record_of("gate", begin, {}, made)


@runs.best_effort("")
def _promote(uri: str, run_id: str, name: str, version: str, policy: str) -> str:
    """``champion``, or why the version was not promoted; empty where MLflow failed."""
    if not version:
        return ""
    from fastprune.releases import promotion
    from fastprune.releases.policy import parse_policy

    try:
        promotion.promote(uri, name, version, parse_policy(policy), why=f"compression {run_id}")
    except InputError as error:  # the policy, another promotion, rights: MLflow itself is there
        _log.warning("%s", error)
        return f"not promoted: {str(error).splitlines()[0]}"
    return promotion.CHAMPION
