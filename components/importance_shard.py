from kfp import dsl

from fastprune.components import component


@component
def importance_shard(
    model: dsl.Input[dsl.Model],
    sample: dsl.Input[dsl.Dataset],
    run: dsl.Input[dsl.Artifact],
    part: dsl.Output[dsl.Artifact],
    shard: int,
    shards: int,
    selection: str,
    estimator: str,
    effort: str,
    batch_size: int,
    device: str,
    tracking_uri: str,
    retries: int,
):
    """The pass over one shard of the pruning sample."""
    from fastprune.stages.steps import attempt

    attempt(
        "importance_shard",
        {"model": model.path, "sample": sample.path, "part": part.path},
        {
            "shard": shard,
            "shards": shards,
            "selection": selection,
            "estimator": estimator,
            "effort": effort,
            "batch_size": batch_size,
            "device": device,
        },
        run_id=run.metadata["run_id"],
        tracking_uri=tracking_uri,
        retries=retries,
    )
