from kfp import dsl

from fastprune.components import component


@component
def rearrange(
    importance: dsl.Input[dsl.Artifact],
    chosen: dsl.Input[dsl.Artifact],
    searched: dsl.Input[dsl.Artifact],
    run: dsl.Input[dsl.Artifact],
    rearranged: dsl.Output[dsl.Artifact],
    tracking_uri: str,
    retries: int,
    table: dsl.Input[dsl.Artifact] | None = None,
):
    """Rearrange the masks within each layer."""
    from fastprune.stages.steps import attempt

    attempt(
        "rearrange",
        {
            "importance": importance.path,
            "table": table and table.path,
            "chosen": chosen.path,
            "searched": searched.path,
            "rearranged": rearranged.path,
        },
        run_id=run.metadata["run_id"],
        tracking_uri=tracking_uri,
        retries=retries,
    )
