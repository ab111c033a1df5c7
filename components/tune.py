from kfp import dsl

from fastprune.components import component


@component
def tune(
    model: dsl.Input[dsl.Model],
    sample: dsl.Input[dsl.Dataset],
    evaluation: dsl.Input[dsl.Dataset],
    importance: dsl.Input[dsl.Artifact],
    chosen: dsl.Input[dsl.Artifact],
    rearranged: dsl.Input[dsl.Artifact],
    run: dsl.Input[dsl.Artifact],
    pruned: dsl.Output[dsl.Model],
    tuned: dsl.Output[dsl.Artifact],
    tuning: str,
    processes: int,
    batch_size: int,
    device: str,
    tracking_uri: str,
    retries: int,
    table: dsl.Input[dsl.Artifact] | None = None,
):
    """Cut the pruned units out of the model and make up for them."""
    from fastprune.stages.steps import attempt

    record = attempt(
        "tune",
        {
            "model": model.path,
            "sample": sample.path,
            "evaluation": evaluation.path,
            "importance": importance.path,
            "table": table and table.path,
            "chosen": chosen.path,
            "rearranged": rearranged.path,
            "pruned": pruned.path,
            "tuned": tuned.path,
        },
        {"tuning": tuning, "processes": processes, "batch_size": batch_size, "device": device},
        run_id=run.metadata["run_id"],
        tracking_uri=tracking_uri,
        retries=retries,
    )
    kept = ("macs_kept", "params_kept")
    pruned.metadata.update({name: value for name, value in record["metrics"].items() if name in kept})
