"""A model's compressions held against each other and against the policy."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fastprune.stages.failures import failure_in
from fastprune.stages.folders import read_json, record_of, write_json
from fastprune.store.output import new_folder
from fastprune.tracking import runs


def summarise(
    *,
    report: Sequence[Path],
    released: Sequence[Path],
    summary: Path,
    compressions: Sequence[str],
    policy: str = "",
    run_id: str = "",
    tracking_uri: str = "",
) -> dict:
    """Hold a model's compressions against each other and against the policy.

    Parameters
    ----------
    report, released : sequence of Path
        Of every budget, in the order of ``compressions``. One that has failed is named, and never picked.
    summary : Path
        Output: ``summary.json``, ``summary.html`` and, unless all have failed, ``pareto.png``.
    compressions : sequence of str
        Their names, such as ``bert/macs-0-5``.
    """
    from fastprune.releases.choice import Compression, choose
    from fastprune.reports.summary import plot, render  # matplotlib

    begin = time.perf_counter()
    failures = dict(zip(compressions, map(failure_in, released), strict=True))
    choice = choose(
        [
            Compression.of(read_json(one / "metrics.json"), read_json(two / "released.json")["version"])
            for one, two, failure in zip(report, released, failures.values(), strict=True)
            if not failure
        ],
        policy,
    )
    choice["failed"] = [{"compression": name, **asdict(failure)} for name, failure in failures.items() if failure]
    with new_folder(summary) as folder:
        write_json(folder / "summary.json", choice)
        (folder / "summary.html").write_text(render(choice), encoding="utf-8")
        if choice["compressions"]:
            plot(choice).savefig(folder / "pareto.png", dpi=150)
    runs.log(tracking_uri, run_id, artifacts=sorted(summary.iterdir()))
    runs.end(tracking_uri, run_id, "FAILED" if choice["failed"] else "FINISHED")
    counts = {"compressions": len(choice["compressions"]), "failed": len(choice["failed"])}
    return record_of("summarise", begin, counts, {"picked": choice["picked"]})
