from kfp import dsl

from fastprune.components import component


@component
def export(
    model: dsl.Input[dsl.Model],
    sample: dsl.Input[dsl.Dataset],
    evaluation: dsl.Input[dsl.Dataset],
    pruned: dsl.Input[dsl.Model],
    run: dsl.Input[dsl.Artifact],
    exported: dsl.Output[dsl.Model],
    format: str,
    quantize: str,
    tracking_uri: str,
    retries: int,
):
    """Write the pruned model as a runtime serves it, and measure it beside the dense one."""
    from fastprune.stages.steps import attempt

    record = attempt(
        "export",
        {
            "model": model.path,
            "sample": sample.path,
            "evaluation": evaluation.path,
            "pruned": pruned.path,
            "exported": exported.path,
        },
        {"format": format, "quantize": quantize},
        run_id=run.metadata["run_id"],
        tracking_uri=tracking_uri,
        retries=retries,
    )
    exported.metadata.update(record["metrics"])
