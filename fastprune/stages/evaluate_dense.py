"""How good the dense model is; one that is not fine-tuned is refused before the rest costs anything."""

from __future__ import annotations

import time
from pathlib import Path

from fastprune.data import Split
from fastprune.data.evaluation import evaluate_rows, majority_metric, outcomes_of, refuse_untuned
from fastprune.model import checkpoint
from fastprune.stages.folders import load_model, write_record
from fastprune.store.artifacts import makes
from fastprune.store.output import new_folder


@makes("dense")
def evaluate_dense(
    *,
    model: Path,
    evaluation: Path,
    dense: Path,
    batch_size: int = 32,
    device: str = "auto",
    allow_untuned: bool = False,
) -> dict:
    """Measure the dense model, and refuse one that does no better than the majority class.

    Parameters
    ----------
    model, evaluation : Path
    dense : Path
        Output: ``outcomes.parquet``, what the model made of every row.
    """
    begin = time.perf_counter()
    split, tokenizer = Split.load(evaluation), checkpoint.load_tokenizer(model)
    network = load_model(model, device)
    evaluated = evaluate_rows(network, split, pad_token_id=tokenizer.pad_token_id, batch_size=batch_size)
    metrics = evaluated.metrics
    if not allow_untuned:
        refuse_untuned(metrics["metric"], split, network.config.num_labels)
    with new_folder(dense) as folder:
        outcomes_of(split, dense=evaluated).save(folder)
        return write_record(
            folder,
            "evaluate_dense",
            begin,
            {**metrics, "majority": majority_metric(split, network.config.num_labels)},
            {"all_metrics": evaluated.by_name},
        )
