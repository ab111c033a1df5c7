from kfp import dsl

from fastprune.components import component


@component
def evaluate_pruned(
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Dataset],
    chosen: dsl.Input[dsl.Artifact],
    searched: dsl.Input[dsl.Artifact],
    rearranged: dsl.Input[dsl.Artifact],
    pruned: dsl.Input[dsl.Model],
    run: dsl.Input[dsl.Artifact],
    measured: dsl.Output[dsl.Metrics],
    batch_size: int,
    device: str,
    tracking_uri: str,
    retries: int,
    table: dsl.Input[dsl.Artifact] | None = None,
):
    """Measure the pruned model as it was saved, side by side with the dense one."""
    from fastprune.stages.steps import attempt

    record = attempt(
        "evaluate_pruned",
        {
            "model": model.path,
            "evaluation": evaluation.path,
            "table": table and table.path,
            "chosen": chosen.path,
            "searched": searched.path,
            "rearranged": rearranged.path,
            "pruned": pruned.path,
            "measured": measured.path,
        },
        {"batch_size": batch_size, "device": device},
        run_id=run.metadata["run_id"],
        tracking_uri=tracking_uri,
        retries=retries,
    )
    measured.metadata.update(record["metrics"])
