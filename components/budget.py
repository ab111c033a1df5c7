from typing import Optional

from kfp import dsl

from components import component


@component
def budget(
    model: dsl.Input[dsl.Model],
    calibration: dsl.Input[dsl.Dataset],
    fisher: dsl.Input[dsl.Artifact],
    chosen: dsl.Output[dsl.Artifact],
    settled: dsl.OutputPath(float),
    keep_ratio: float,
    max_accuracy_drop: float,
    tuning: str,
    batch_size: int,
    device: str,
    run_id: str,
    tracking_uri: str,
    solver: str = "exact",
    latency_ms: float = 0.0,
    table: Optional[dsl.Input[dsl.Artifact]] = None,
):
    """Settle the keep ratio: the given one, that of a latency, or the smallest within an accuracy drop."""
    from pathlib import Path

    from fastprune import tracking

    with tracking.stage(tracking_uri, run_id, "budget") as log:
        from fastprune import stages

        record = stages.budget(
            model=Path(model.path), calibration=Path(calibration.path), fisher=Path(fisher.path),
            table=table and Path(table.path), chosen=Path(chosen.path), keep_ratio=keep_ratio, latency_ms=latency_ms,
            solver=solver, max_accuracy_drop=max_accuracy_drop, tuning=tuning, batch_size=batch_size, device=device,
        )
        log.record(record)
        Path(settled).write_text(str(record["metrics"]["keep_ratio"]))
