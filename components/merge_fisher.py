from kfp import dsl

from fastprune.components import component


@component
def merge_fisher(
    model: dsl.Input[dsl.Model],
    calibration: dsl.Input[dsl.Dataset],
    part: dsl.Input[list[dsl.Artifact]],
    run: dsl.Input[dsl.Artifact],
    fisher: dsl.Output[dsl.Artifact],
    selection: str,
    estimator: str,
    batch_size: int,
    device: str,
    tracking_uri: str,
):
    """Measure the importance of every head and filter from the passes over all shards."""
    from fastprune.stages.steps import run_stage

    run_stage(
        "merge_fisher",
        {
            "model": model.path,
            "calibration": calibration.path,
            "part": [one.path for one in part],
            "fisher": fisher.path,
        },
        {"selection": selection, "estimator": estimator, "batch_size": batch_size, "device": device},
        run_id=run.metadata["run_id"],
        tracking_uri=tracking_uri,
    )
