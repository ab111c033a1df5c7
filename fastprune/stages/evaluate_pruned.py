"""How good and how fast the pruned model is, as it was saved."""

from __future__ import annotations

import time
from pathlib import Path

from fastprune.data import Split
from fastprune.data.evaluation import evaluate, evaluate_rows, outcomes_of
from fastprune.environment import choose_device
from fastprune.manifest import compare_latency
from fastprune.model import checkpoint
from fastprune.model.architectures import describe
from fastprune.model.masks import Masks
from fastprune.model.surgery import slice_model
from fastprune.problem import problem_of
from fastprune.stages.folders import load_layout, load_model, table_of_budget, write_record
from fastprune.store.artifacts import makes
from fastprune.store.output import new_folder


@makes("measured")
def evaluate_pruned(
    *,
    model: Path,
    evaluation: Path,
    chosen: Path,
    searched: Path,
    rearranged: Path,
    pruned: Path,
    measured: Path,
    table: Path | None = None,
    batch_size: int = 32,
    device: str = "auto",
    every_stage: bool = True,
) -> dict:
    """Measure the pruned model as it was saved, side by side with the dense one.

    Parameters
    ----------
    model, evaluation, chosen, searched, rearranged, pruned : Path
    measured : Path
        Output: ``outcomes.parquet``, what the pruned model made of every row.
    every_stage : bool
        Also measure the dense model under the masks of the search and of the rearrangement.
    """
    begin = time.perf_counter()
    split, pad = Split.load(evaluation), checkpoint.load_tokenizer(pruned).pad_token_id
    dense, small = load_model(model, device), checkpoint.load(pruned, device=choose_device(device))
    given: dict = {"pad_token_id": pad, "batch_size": batch_size}
    if problem_of(split.task.problem).beside_dense(split.task.metric):
        given["dense"] = evaluate_rows(dense, split, **given)
    evaluated = evaluate_rows(small, split, **given)
    metrics = {"pruned": evaluated.metrics["metric"]}
    if "divergence" in evaluated.metrics:
        metrics["divergence"] = evaluated.metrics["divergence"]
    if every_stage:
        encoder = describe(dense)
        named = {
            name: Masks.load(folder / "masks.safetensors")
            for name, folder in (("search", searched), ("rearrange", rearranged))
        }
        if named["search"].kept_heads == named["rearrange"].kept_heads and (
            named["search"].kept_filters == named["rearrange"].kept_filters
        ):
            del named["rearrange"]  # nothing was swapped: the same model again
        for name, masks in named.items():
            # What the dense model puts out under the masks, in less time.
            sliced = slice_model(encoder, masks, load_layout(chosen))
            metrics[name] = evaluate(sliced, split, **given)["metric"]
    latency = compare_latency(dense, small, split, pad, table_of_budget(table, chosen))
    metrics |= {f"latency_ms_{name}": latency.pop(name) for name in ("dense", "pruned")}
    for name, network, folder in (("dense", dense, model), ("pruned", small, pruned)):
        metrics[f"params_{name}"] = network.num_parameters()
        metrics[f"megabytes_{name}"] = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6
    with new_folder(measured) as folder:
        outcomes_of(split, pruned=evaluated).save(folder)
        return write_record(
            folder, "evaluate_pruned", begin, metrics, {"latency": latency, "all_metrics": evaluated.by_name}
        )
