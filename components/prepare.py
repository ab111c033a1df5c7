from kfp import dsl

from components import component


@component
def prepare(
    model: dsl.Output[dsl.Model],
    calibration: dsl.Output[dsl.Dataset],
    evaluation: dsl.Output[dsl.Dataset],
    run_id: dsl.OutputPath(str),
    source: str,
    keep_ratio: float,
    task: str,
    train_file: str,
    eval_file: str,
    text_columns: list,
    label_column: str,
    metric: str,
    max_length: int,
    num_samples: int,
    seed: int,
    selection: str,
    estimator: str,
    tuning: str,
    max_accuracy_drop: float,
    constraint: str,
    latency_ms: float,
    allow_untuned: bool,
    experiment: str,
    policy: str,
    pipeline_job: str,
    tracking_uri: str,
):
    """Open the compression's MLflow run and freeze the model, the pruning sample and the evaluation data."""
    from pathlib import Path

    from fastprune import tracking
    from fastprune.policy import parse_policy

    if policy:
        parse_policy(policy)  # refused before any work
    settings = {
        "source": source, "keep_ratio": keep_ratio, "task": task, "train_file": train_file, "eval_file": eval_file,
        "num_samples": num_samples, "seed": seed, "selection": selection, "fisher": estimator, "tuning": tuning,
        "constraint": constraint, "latency_ms": latency_ms,
    }
    run = tracking.start(tracking_uri, f"{Path(source).name} at {keep_ratio:g}", settings, experiment=experiment,
                         tags={"kfp.pipeline_job": pipeline_job})
    Path(run_id).write_text(run)
    with tracking.stage(tracking_uri, run, "prepare") as log:
        from fastprune import stages

        record = stages.prepare(
            model=Path(model.path), calibration=Path(calibration.path), evaluation=Path(evaluation.path),
            source=source, task=task, train_file=train_file, eval_file=eval_file, text_columns=text_columns,
            label_column=label_column, metric=metric, max_length=max_length, num_samples=num_samples, seed=seed,
            keep_ratio=keep_ratio, constraint=constraint, latency_ms=latency_ms, selection=selection,
            max_accuracy_drop=max_accuracy_drop, allow_untuned=allow_untuned,
        )
        log.record(record)
        tracking.log_data(tracking_uri, run, record, {"sample": train_file or task, "evaluation": eval_file or task})
        model.metadata["sha256"] = record["settings"]["source_sha256"]
        calibration.metadata["sha256"] = record["settings"]["sample_sha256"]
        evaluation.metadata["sha256"] = record["settings"]["evaluation_sha256"]
