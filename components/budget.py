from kfp import dsl

from fastprune.components import component


@component
def budget(
    model: dsl.Input[dsl.Model],
    sample: dsl.Input[dsl.Dataset],
    importance: dsl.Input[dsl.Artifact],
    run: dsl.Input[dsl.Artifact],
    chosen: dsl.Output[dsl.Artifact],
    budget_run: dsl.Output[dsl.Artifact],
    budget: str,
    solver: str,
    tuning: str,
    layout: str,
    format: str,
    quantize: str,
    processes: int,
    batch_size: int,
    device: str,
    tracking_uri: str,
    retries: int,
    table: dsl.Input[dsl.Artifact] | None = None,
):
    """Settle the keep ratio of a budget, in an MLflow run of its own if the model has several.

    ``budget`` is JSON, since the items of a loop are texts: the budget's settings, and its run.
    """
    import json

    from fastprune.stages import steps

    given = json.loads(budget)
    opened = steps.open_run_once(
        budget_run.path, given["run"], parent=run.metadata["run_id"], tracking_uri=tracking_uri
    )
    budget_run.metadata["run_id"] = opened
    steps.attempt(
        "budget",
        {
            "model": model.path,
            "sample": sample.path,
            "importance": importance.path,
            "table": table and table.path,
            "chosen": chosen.path,
        },
        {
            **given["settings"],
            "solver": solver,
            "tuning": tuning,
            "layout": layout,
            "format": format,
            "quantize": quantize,
            "processes": processes,
            "batch_size": batch_size,
            "device": device,
        },
        run_id=opened,
        tracking_uri=tracking_uri,
        retries=retries,
    )
