from kfp import dsl

from fastprune.components import component


@component
def prepare(
    model: dsl.Output[dsl.Model],
    sample: dsl.Output[dsl.Dataset],
    evaluation: dsl.Output[dsl.Dataset],
    run: dsl.Output[dsl.Artifact],
    source: str,
    task: str,
    train_file: str,
    eval_file: str,
    validation_file: str,
    text_columns: list,
    label_column: str,
    problem: str,
    metric: str,
    pooling: str,
    max_length: int,
    num_samples: int,
    seed: int,
    selection: str,
    effort: str,
    set_apart: bool,
    allow_untuned: bool,
    run_settings: str,
    pipeline_job: str,
    tracking_uri: str,
    retries: int,
):
    """Open the model's MLflow run and freeze the model, the pruning sample and the evaluation data."""
    import json

    from fastprune.stages import steps

    opened = steps.open_run_once(
        run.path, json.loads(run_settings), tracking_uri=tracking_uri, tags={"kfp.pipeline_job": pipeline_job}
    )
    run.metadata["run_id"] = opened
    record = steps.attempt(
        "prepare",
        {"model": model.path, "sample": sample.path, "evaluation": evaluation.path},
        {
            "source": source,
            "task": task,
            "train_file": train_file,
            "eval_file": eval_file,
            "validation_file": validation_file,
            "text_columns": text_columns,
            "label_column": label_column,
            "problem": problem,
            "metric": metric,
            "pooling": pooling,
            "max_length": max_length,
            "num_samples": num_samples,
            "seed": seed,
            "selection": selection,
            "effort": effort,
            "set_apart": set_apart,
            "allow_untuned": allow_untuned,
        },
        run_id=opened,
        tracking_uri=tracking_uri,
        retries=retries,
    )
    for artifact, name in ((model, "source"), (sample, "sample"), (evaluation, "evaluation")):
        artifact.metadata["sha256"] = record["settings"].get(f"{name}_sha256", "")
