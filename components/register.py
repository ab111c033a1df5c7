from kfp import dsl

from fastprune.components import component


@component
def register(
    pruned: dsl.Input[dsl.Model],
    report: dsl.Input[dsl.Artifact],
    run: dsl.Input[dsl.Artifact],
    released: dsl.Output[dsl.Artifact],
    model_name: str,
    tracking_uri: str,
):
    """Register the pruned model and close the compression's MLflow run."""
    from fastprune.stages.steps import run_stage

    record = run_stage(
        "register",
        {"pruned": pruned.path, "report": report.path, "released": released.path},
        {"model_name": model_name},
        run_id=run.metadata["run_id"],
        tracking_uri=tracking_uri,
    )
    released.metadata.update(record["settings"])
