from kfp import dsl

from fastprune.components import component


@component
def register(
    evaluation: dsl.Input[dsl.Dataset],
    pruned: dsl.Input[dsl.Model],
    report: dsl.Input[dsl.Artifact],
    run: dsl.Input[dsl.Artifact],
    released: dsl.Output[dsl.Artifact],
    model_name: str,
    tags: dict,
    tracking_uri: str,
    retries: int,
    exported: dsl.Input[dsl.Model] | None = None,
):
    """Register the pruned model and close the compression's MLflow run."""
    from fastprune.stages.steps import attempt

    record = attempt(
        "register",
        {
            "evaluation": evaluation.path,
            "pruned": pruned.path,
            "exported": exported and exported.path,
            "report": report.path,
            "released": released.path,
        },
        {"model_name": model_name, "tags": tags},
        run_id=run.metadata["run_id"],
        tracking_uri=tracking_uri,
        retries=retries,
    )
    released.metadata.update(record["settings"])
