from kfp import dsl

from fastprune.components import component


@component
def report(
    model: dsl.Input[dsl.Model],
    dense: dsl.Input[dsl.Metrics],
    importance: dsl.Input[dsl.Artifact],
    chosen: dsl.Input[dsl.Artifact],
    searched: dsl.Input[dsl.Artifact],
    rearranged: dsl.Input[dsl.Artifact],
    pruned: dsl.Input[dsl.Model],
    measured: dsl.Input[dsl.Metrics],
    run: dsl.Input[dsl.Artifact],
    report: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    tracking_uri: str,
    retries: int,
    table: dsl.Input[dsl.Artifact] | None = None,
    exported: dsl.Input[dsl.Model] | None = None,
):
    """Sum the compression up in a report."""
    from fastprune.stages.steps import attempt, show

    attempt(
        "report",
        {
            "model": model.path,
            "dense": dense.path,
            "importance": importance.path,
            "table": table and table.path,
            "chosen": chosen.path,
            "searched": searched.path,
            "rearranged": rearranged.path,
            "pruned": pruned.path,
            "measured": measured.path,
            "exported": exported and exported.path,
            "report": report.path,
        },
        run_id=run.metadata["run_id"],
        tracking_uri=tracking_uri,
        retries=retries,
    )
    show(f"{report.path}/report.html", page.path)
