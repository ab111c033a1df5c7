"""What has become of a sweep, model after model; behind the last one, whether the run has failed."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fastprune.errors import PipelineError
from fastprune.releases import hooks
from fastprune.stages.failures import failure_in, told
from fastprune.store.bounded import read_json
from fastprune.store.output import new_folder

CONCLUSION = "conclusion.json"


def conclude(
    *,
    released: Sequence[Path],
    conclusion: Path,
    compressions: Sequence[str],
    required: bool = False,
    last: bool = True,
    summary: Path | None = None,
    verdict: Path | None = None,
    before: Path | None = None,
) -> dict:
    """Add a model to what is known of the sweep, and behind the last model fail the run if anything has failed.

    Parameters
    ----------
    released : sequence of Path
        Of every budget, in the order of ``compressions``.
    conclusion : Path
        Output: ``conclusion.json`` with the number of ``compressions`` so far, those that ``failed`` (``compression``,
        ``stage``, ``why``) and other ``problems`` in words. It is written before the run is failed.
    compressions : sequence of str
        Their names, such as ``bert/macs-0-5``.
    required : bool
        The model must have been promoted (``release.required``).
    last : bool
        No other model follows.
    summary, verdict : Path, optional
        Of the model, where the sweep has them.
    before : Path, optional
        The conclusion of the model before.

    Raises
    ------
    PipelineError
        ``last``, and something has failed: the message names each compression, its stage and why.
    """
    begin = time.perf_counter()
    known: dict = {"compressions": 0, "failed": [], "problems": []}
    if before and not failure_in(before):
        known = read_json(before / CONCLUSION)
    known["compressions"] += len(compressions)
    failures = [failure_in(folder) for folder in released]
    known["failed"] += [
        {"compression": name, **asdict(failure)}
        for name, failure in zip(compressions, failures, strict=True)
        if failure
    ]
    model = compressions[0].partition("/")[0]
    after = [failure_in(folder) for folder in (summary, verdict, before) if folder]
    known["problems"] += [f"{model}: {failure}" for failure in dict.fromkeys(after) if failure]
    if required and verdict and not failure_in(verdict):
        promotion = read_json(verdict / "verdict.json")["promotion"]
        if promotion != "champion":
            known["problems"].append(f"{model}: release.required, and {promotion}")
    with new_folder(conclusion) as folder:
        (folder / CONCLUSION).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    if last and (problems := told(known)):
        hooks.tell("failed", {"problems": problems})
        raise PipelineError(problems)
    return {
        "stage": "conclude",
        "seconds": time.perf_counter() - begin,
        "settings": {},
        "metrics": {"compressions": known["compressions"], "failed": len(known["failed"])},
    }
