from kfp import dsl

from fastprune.components import component


@component
def importance(
    model: dsl.Input[dsl.Model],
    sample: dsl.Input[dsl.Dataset],
    run: dsl.Input[dsl.Artifact],
    importance: dsl.Output[dsl.Artifact],
    selection: str,
    estimator: str,
    effort: str,
    processes: int,
    batch_size: int,
    device: str,
    tracking_uri: str,
    retries: int,
):
    """Measure the importance of every head and filter."""
    from fastprune.stages.steps import attempt

    attempt(
        "importance",
        {"model": model.path, "sample": sample.path, "importance": importance.path},
        {
            "selection": selection,
            "estimator": estimator,
            "effort": effort,
            "processes": processes,
            "batch_size": batch_size,
            "device": device,
        },
        run_id=run.metadata["run_id"],
        tracking_uri=tracking_uri,
        retries=retries,
    )
