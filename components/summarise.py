from kfp import dsl

from fastprune.components import component


@component
def summarise(
    report: dsl.Input[list[dsl.Artifact]],
    released: dsl.Input[list[dsl.Artifact]],
    run: dsl.Input[dsl.Artifact],
    summary: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    policy: str,
    compressions: list,
    tracking_uri: str,
    retries: int,
):
    """Hold a model's compressions against each other and against the policy."""
    from fastprune.stages.steps import attempt, show

    attempt(
        "summarise",
        {"report": [one.path for one in report], "released": [one.path for one in released], "summary": summary.path},
        {"policy": policy, "compressions": compressions},
        run_id=run.metadata["run_id"],
        tracking_uri=tracking_uri,
        retries=retries,
    )
    show(f"{summary.path}/summary.html", page.path)
