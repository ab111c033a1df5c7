"""A model's compressions held against each other and against the policy."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from fastprune.stages.folders import read_json, record_of, write_json
from fastprune.store.output import new_folder
from fastprune.tracking import runs


def summarise(
    *,
    report: Sequence[Path],
    released: Sequence[Path],
    summary: Path,
    policy: str = "",
    run_id: str = "",
    tracking_uri: str = "",
) -> dict:
    """Hold a model's compressions against each other and against the policy.

    Parameters
    ----------
    report, released : sequence of Path
        Of every budget, in the same order.
    summary : Path
        Output: ``summary.json``, ``summary.html`` and ``pareto.png``.
    """
    from fastprune.releases.choice import Compression, choose
    from fastprune.reports.summary import plot, render  # matplotlib

    begin = time.perf_counter()
    compressions = [
        Compression.of(read_json(one / "metrics.json"), read_json(two / "released.json")["version"])
        for one, two in zip(report, released, strict=True)
    ]
    found = choose(compressions, policy)
    with new_folder(summary) as folder:
        write_json(folder / "summary.json", found)
        (folder / "summary.html").write_text(render(found), encoding="utf-8")
        plot(found).savefig(folder / "pareto.png", dpi=150)
    runs.log(tracking_uri, run_id, artifacts=sorted(summary.iterdir()))
    runs.end(tracking_uri, run_id)
    return record_of("summarise", begin, {"compressions": len(compressions)}, {"picked": found["picked"]})
