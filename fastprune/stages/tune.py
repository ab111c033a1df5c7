"""Making up for what is cut (paper, section 3.4)."""

from __future__ import annotations

import time
from pathlib import Path

from fastprune import method
from fastprune.data import Split
from fastprune.manifest import make_manifest, size_metrics
from fastprune.model import checkpoint
from fastprune.model.card import write_card
from fastprune.model.masks import Masks
from fastprune.stages.folders import load_budget, load_importance, load_sample, read_json, record_of, save_masks
from fastprune.store.artifacts import RECORD, makes


@makes("pruned", "tuned")
def tune(
    *,
    model: Path,
    sample: Path,
    evaluation: Path,
    importance: Path,
    chosen: Path,
    rearranged: Path,
    pruned: Path,
    tuned: Path,
    table: Path | None = None,
    tuning: str = "weights",
    processes: int = 1,
    batch_size: int = 32,
    device: str = "auto",
) -> dict:
    """Cut the pruned units out and make up for them.

    Parameters
    ----------
    model, sample, evaluation, importance, chosen, rearranged : Path
    pruned : Path
        Output: the smaller model with its manifest, ready to load.
    tuned : Path
        Output: ``masks.safetensors``, with the scales that are folded into the model.
    tuning : str
        See :class:`fastprune.settings.Method`.
    processes : int
        That share the walk over the sample.
    """
    begin = time.perf_counter()
    split, encoder, batches = load_sample(model, sample, device, batch_size)
    cost, keep_ratio = load_budget(importance, table, chosen)
    result = method.tune(
        encoder,
        Masks.load(rearranged / "masks.safetensors"),
        load_importance(importance),
        cost,
        keep_ratio,
        batches,
        split.task.problem,
        tuning,
        processes=processes,
    )
    origin = read_json(model / RECORD)["settings"]
    manifest = make_manifest(
        encoder,
        cost,
        result,
        source=origin["source"],
        source_digest=origin["source_sha256"],
        sample=split,
        evaluation=Split.load(evaluation),
        seed=origin["seed"],
        keep_ratio=keep_ratio,
        **read_json(importance / RECORD)["settings"],
        tuning=tuning,
    )
    save_masks(tuned, result.masks, cost, "tune", begin)
    record = record_of(
        "tune",
        begin,
        size_metrics(encoder, cost, result, keep_ratio),
        {
            "tuning": tuning,
            "stopped": result.stopped or "",
            "problem": split.task.problem,
            "text_columns": split.task.text_columns,
            "max_length": split.task.max_length,
        },
    )
    checkpoint.save(
        pruned,
        result.model,
        checkpoint.load_tokenizer(model),
        manifest,
        beside=lambda folder: write_card(folder, model, manifest),
        stage=record,
    )
    return record
