from kfp import dsl

from fastprune.components import component


@component
def evaluate_dense(
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Dataset],
    run: dsl.Input[dsl.Artifact],
    dense: dsl.Output[dsl.Metrics],
    batch_size: int,
    device: str,
    allow_untuned: bool,
    tracking_uri: str,
    retries: int,
):
    """Measure the dense model; fail if it does no better than the majority class."""
    from fastprune.stages.steps import attempt

    record = attempt(
        "evaluate_dense",
        {"model": model.path, "evaluation": evaluation.path, "dense": dense.path},
        {"batch_size": batch_size, "device": device, "allow_untuned": allow_untuned},
        run_id=run.metadata["run_id"],
        tracking_uri=tracking_uri,
        retries=retries,
    )
    dense.metadata.update(record["metrics"])
