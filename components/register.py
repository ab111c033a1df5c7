from kfp import dsl

from components import component


@component
def register(
    pruned: dsl.Input[dsl.Model],
    report: dsl.Input[dsl.Artifact],
    released: dsl.Output[dsl.Artifact],
    model_name: str,
    policy: str,
    run_id: str,
    tracking_uri: str,
):
    """Register the pruned model, promote it if a policy is given and met, close the compression's MLflow run."""
    import json
    from pathlib import Path

    from fastprune import tracking

    with tracking.stage(tracking_uri, run_id, "register") as log:
        folder = Path(report.path)
        metrics = json.loads((folder / "metrics.json").read_text())
        made = tracking.finish(tracking_uri, run_id, folder, Path(pruned.path), metrics, model_name, policy)
        log.parameters.update(made)
        released.metadata.update(made)
        Path(released.path).write_text(json.dumps(made))
