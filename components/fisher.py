from kfp import dsl

from components import component


@component
def fisher(
    model: dsl.Input[dsl.Model],
    calibration: dsl.Input[dsl.Dataset],
    fisher: dsl.Output[dsl.Artifact],
    selection: str,
    estimator: str,
    batch_size: int,
    device: str,
    run_id: str,
    tracking_uri: str,
):
    """Estimate the Fisher information of the masks."""
    from pathlib import Path

    from fastprune import tracking

    with tracking.stage(tracking_uri, run_id, "fisher") as log:
        from fastprune import stages

        log.record(stages.fisher(
            model=Path(model.path), calibration=Path(calibration.path), fisher=Path(fisher.path),
            selection=selection, estimator=estimator, batch_size=batch_size, device=device,
        ))
