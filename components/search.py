from kfp import dsl

from fastprune.components import component


@component
def search(
    importance: dsl.Input[dsl.Artifact],
    chosen: dsl.Input[dsl.Artifact],
    run: dsl.Input[dsl.Artifact],
    searched: dsl.Output[dsl.Artifact],
    tracking_uri: str,
    retries: int,
    table: dsl.Input[dsl.Artifact] | None = None,
):
    """Search the masks under the budget."""
    from fastprune.stages.steps import attempt

    attempt(
        "search",
        {
            "importance": importance.path,
            "table": table and table.path,
            "chosen": chosen.path,
            "searched": searched.path,
        },
        run_id=run.metadata["run_id"],
        tracking_uri=tracking_uri,
        retries=retries,
    )
