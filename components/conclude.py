from kfp import dsl

from fastprune.components import component


@component
def conclude(
    released: dsl.Input[list[dsl.Artifact]],
    conclusion: dsl.Output[dsl.Artifact],
    compressions: list,
    required: bool,
    last: bool,
    summary: dsl.Input[dsl.Artifact] | None = None,
    verdict: dsl.Input[dsl.Artifact] | None = None,
    before: dsl.Input[dsl.Artifact] | None = None,
):
    """Say what has failed so far; of all tasks this one alone, behind the last model, fails for it."""
    from fastprune.stages.steps import run_stage

    run_stage(
        "conclude",
        {
            "released": [one.path for one in released],
            "summary": summary and summary.path,
            "verdict": verdict and verdict.path,
            "before": before and before.path,
            "conclusion": conclusion.path,
        },
        {"compressions": compressions, "required": required, "last": last},
    )
