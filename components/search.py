from kfp import dsl

from components import component


@component
def search(
    fisher: dsl.Input[dsl.Artifact],
    searched: dsl.Output[dsl.Artifact],
    keep_ratio: float,
    run_id: str,
    tracking_uri: str,
):
    """Search the masks under the MAC budget."""
    from pathlib import Path

    from fastprune import tracking

    with tracking.stage(tracking_uri, run_id, "search") as log:
        from fastprune import stages

        log.record(stages.search(
            fisher=Path(fisher.path), searched=Path(searched.path), keep_ratio=keep_ratio,
        ))
        log.artifacts.append(f"{searched.path}/masks.safetensors")
