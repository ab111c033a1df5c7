from typing import Optional

from kfp import dsl

from components import component


@component
def evaluate_pruned(
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Dataset],
    searched: dsl.Input[dsl.Artifact],
    rearranged: dsl.Input[dsl.Artifact],
    pruned: dsl.Input[dsl.Model],
    measured: dsl.Output[dsl.Metrics],
    batch_size: int,
    device: str,
    run_id: str,
    tracking_uri: str,
    table: Optional[dsl.Input[dsl.Artifact]] = None,
):
    """Measure the pruned model as it was saved, side by side with the dense one."""
    from pathlib import Path

    from fastprune import tracking

    with tracking.stage(tracking_uri, run_id, "evaluate_pruned") as log:
        from fastprune import stages

        record = stages.evaluate_pruned(
            model=Path(model.path), evaluation=Path(evaluation.path), table=table and Path(table.path),
            searched=Path(searched.path), rearranged=Path(rearranged.path), pruned=Path(pruned.path),
            measured=Path(measured.path), batch_size=batch_size, device=device,
        )
        log.record(record)
        measured.metadata.update(record["metrics"])
