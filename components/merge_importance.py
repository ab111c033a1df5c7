from kfp import dsl

from fastprune.components import component


@component
def merge_importance(
    model: dsl.Input[dsl.Model],
    sample: dsl.Input[dsl.Dataset],
    part: dsl.Input[list[dsl.Artifact]],
    run: dsl.Input[dsl.Artifact],
    importance: dsl.Output[dsl.Artifact],
    selection: str,
    estimator: str,
    effort: str,
    batch_size: int,
    device: str,
    tracking_uri: str,
    retries: int,
):
    """Measure the importance of every head and filter from the passes over all shards."""
    from fastprune.stages.steps import attempt

    attempt(
        "merge_importance",
        {"model": model.path, "sample": sample.path, "part": [one.path for one in part], "importance": importance.path},
        {"selection": selection, "estimator": estimator, "effort": effort, "batch_size": batch_size, "device": device},
        run_id=run.metadata["run_id"],
        tracking_uri=tracking_uri,
        retries=retries,
    )
