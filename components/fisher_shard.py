from kfp import dsl

from fastprune.components import component


@component
def fisher_shard(
    model: dsl.Input[dsl.Model],
    calibration: dsl.Input[dsl.Dataset],
    run: dsl.Input[dsl.Artifact],
    part: dsl.Output[dsl.Artifact],
    shard: int,
    shards: int,
    selection: str,
    estimator: str,
    batch_size: int,
    device: str,
    tracking_uri: str,
):
    """The pass over one shard of the pruning sample."""
    from fastprune.stages.steps import run_stage

    run_stage(
        "fisher_shard",
        {"model": model.path, "calibration": calibration.path, "part": part.path},
        {
            "shard": shard,
            "shards": shards,
            "selection": selection,
            "estimator": estimator,
            "batch_size": batch_size,
            "device": device,
        },
        run_id=run.metadata["run_id"],
        tracking_uri=tracking_uri,
    )
