from typing import Optional

from kfp import dsl

from components import component


@component
def search(
    fisher: dsl.Input[dsl.Artifact],
    searched: dsl.Output[dsl.Artifact],
    keep_ratio: float,
    run_id: str,
    tracking_uri: str,
    solver: str = "exact",
    table: Optional[dsl.Input[dsl.Artifact]] = None,
):
    """Search the masks under the budget."""
    from pathlib import Path

    from fastprune import tracking

    with tracking.stage(tracking_uri, run_id, "search") as log:
        from fastprune import stages

        log.record(stages.search(
            fisher=Path(fisher.path), table=table and Path(table.path), searched=Path(searched.path),
            keep_ratio=keep_ratio, solver=solver,
        ))
        log.artifacts.append(f"{searched.path}/masks.safetensors")
