from kfp import dsl

from components import component


@component
def evaluate_dense(
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Dataset],
    dense: dsl.Output[dsl.Metrics],
    batch_size: int,
    device: str,
    allow_untuned: bool,
    run_id: str,
    tracking_uri: str,
):
    """Measure the dense model; fail if it does no better than the majority class."""
    from pathlib import Path

    from fastprune import tracking

    with tracking.stage(tracking_uri, run_id, "evaluate_dense") as log:
        from fastprune import stages

        record = stages.evaluate_dense(
            model=Path(model.path), evaluation=Path(evaluation.path), dense=Path(dense.path),
            batch_size=batch_size, device=device, allow_untuned=allow_untuned,
        )
        log.record(record)
        dense.metadata.update(record["metrics"])
