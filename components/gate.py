from kfp import dsl

from fastprune.components import component


@component
def gate(
    summary: dsl.Input[dsl.Artifact],
    run: dsl.Input[dsl.Artifact],
    verdict: dsl.Output[dsl.Artifact],
    model_name: str,
    policy: str,
    tracking_uri: str,
    retries: int,
):
    """Promote the compression that the summary picked, if the policy accepts it."""
    from fastprune.stages.steps import attempt

    record = attempt(
        "gate",
        {"summary": summary.path, "verdict": verdict.path},
        {"model_name": model_name, "policy": policy},
        run_id=run.metadata["run_id"],
        tracking_uri=tracking_uri,
        retries=retries,
    )
    verdict.metadata.update(record["settings"])
