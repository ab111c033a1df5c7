from typing import Optional

from kfp import dsl

from components import component


@component
def tune(
    model: dsl.Input[dsl.Model],
    calibration: dsl.Input[dsl.Dataset],
    evaluation: dsl.Input[dsl.Dataset],
    fisher: dsl.Input[dsl.Artifact],
    rearranged: dsl.Input[dsl.Artifact],
    pruned: dsl.Output[dsl.Model],
    tuned: dsl.Output[dsl.Artifact],
    keep_ratio: float,
    tuning: str,
    batch_size: int,
    device: str,
    run_id: str,
    tracking_uri: str,
    solver: str = "exact",
    table: Optional[dsl.Input[dsl.Artifact]] = None,
):
    """Cut the pruned units out of the model and make up for them."""
    from pathlib import Path

    from fastprune import tracking

    with tracking.stage(tracking_uri, run_id, "tune") as log:
        from fastprune import stages

        record = stages.tune(
            model=Path(model.path), calibration=Path(calibration.path), evaluation=Path(evaluation.path),
            fisher=Path(fisher.path), table=table and Path(table.path), rearranged=Path(rearranged.path),
            pruned=Path(pruned.path), tuned=Path(tuned.path), keep_ratio=keep_ratio, solver=solver, tuning=tuning,
            batch_size=batch_size, device=device,
        )
        log.record(record)
        log.artifacts.append(f"{tuned.path}/masks.safetensors")
        pruned.metadata.update({name: record["metrics"][name] for name in ("macs_kept", "params_kept")})
