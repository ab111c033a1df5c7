from typing import Optional

from kfp import dsl

from components import component


@component
def rearrange(
    fisher: dsl.Input[dsl.Artifact],
    searched: dsl.Input[dsl.Artifact],
    rearranged: dsl.Output[dsl.Artifact],
    run_id: str,
    tracking_uri: str,
    table: Optional[dsl.Input[dsl.Artifact]] = None,
):
    """Rearrange the masks within each layer."""
    from pathlib import Path

    from fastprune import tracking

    with tracking.stage(tracking_uri, run_id, "rearrange") as log:
        from fastprune import stages

        log.record(stages.rearrange(
            fisher=Path(fisher.path), table=table and Path(table.path), searched=Path(searched.path),
            rearranged=Path(rearranged.path),
        ))
        log.artifacts.append(f"{rearranged.path}/masks.safetensors")
