"""What is told of a compression: its metrics, latencies and manifest."""

from __future__ import annotations

import copy

import torch
import transformers

from fastprune.data import Split, make_batches
from fastprune.environment import code_version, device_name
from fastprune.latency.lut import LatencyTable
from fastprune.latency.timing import full_batch, measure_latency, torch_threads
from fastprune.model import checkpoint
from fastprune.model.architectures import Encoder, sizes_of
from fastprune.search.cost import Cost
from fastprune.tuning.method import Tuned

LATENCY_BATCH = 8
"""Examples in the batch on which the dense and the pruned model are timed."""


def size_metrics(encoder: Encoder, cost: Cost, tuned: Tuned, keep_ratio: float) -> dict:
    """What was kept, of ``metrics.json``."""
    return {
        "keep_ratio": keep_ratio,
        **cost.kept(tuned.masks),
        "params_kept": tuned.model.num_parameters() / encoder.model.num_parameters(),
        "heads": tuned.masks.head_counts,
        "filters": tuned.masks.filter_counts,
        "num_heads": encoder.num_heads,
        "num_filters": encoder.num_filters,
    }


def compare_latency(
    dense: transformers.PreTrainedModel,
    pruned: transformers.PreTrainedModel,
    split: Split,
    pad_token_id: int,
    table: LatencyTable | None = None,
) -> dict:
    """Median milliseconds of both models, timed in turn, with their quartiles (``spread``), device and threads.

    On one batch of the evaluation data; with a look-up table on a full batch of its shape, in its precision and with
    its threads, beside what it predicts.
    """
    if table is None:
        rows = split.select(list(range(min(LATENCY_BATCH, len(split)))))
        batch, threads = make_batches(rows, LATENCY_BATCH, pad_token_id)[0], 0
    else:
        batch, threads = full_batch(table.batch_size, table.seq_len, dense.config), table.threads
        table.warn_unless(device=device_name(dense.device), attention=dense.config._attn_implementation)
        dense, pruned = (_in_precision(model, getattr(torch, table.dtype)) for model in (dense, pruned))
        batch = {
            name: values.to(dense.dtype) if values.is_floating_point() else values for name, values in batch.items()
        }
    size, length = batch["attention_mask"].shape
    with torch_threads(threads):
        times = measure_latency({"dense": dense, "pruned": pruned}, batch)
        threads = torch.get_num_threads()
    latency = {name: time.median_ms for name, time in times.items()} | {
        "batch_size": size,
        "seq_len": length,
        "device": str(dense.device),
        "threads": threads,
        "dtype": str(dense.dtype).removeprefix("torch."),
        "device_name": device_name(dense.device),
        "spread": {name: [time.q1, time.q3] for name, time in times.items()},
    }
    if table is not None:
        latency["table"] = {"device": table.device, "threads": table.threads}
        latency["predicted_dense"] = table.dense_ms(dense.config.num_hidden_layers)
        latency["predicted_pruned"] = table.of_counts(*sizes_of(pruned.config))
    return latency


def _in_precision(model: transformers.PreTrainedModel, dtype: torch.dtype) -> transformers.PreTrainedModel:
    """A model as it will be served; a copy where that is another precision."""
    return model if model.dtype == dtype else copy.deepcopy(model).to(dtype)  # type: ignore[arg-type]


def make_manifest(
    encoder: Encoder,
    cost: Cost,
    tuned: Tuned,
    *,
    source: str,
    source_digest: str,
    sample: Split,
    evaluation: Split,
    **settings,
) -> dict:
    """The record that a pruned model carries: what it was made from, how, and what was kept."""
    return {
        "schema_version": 1,
        "source_model": source,
        "source_sha256": source_digest,
        "task": sample.task.name,
        "problem": sample.task.problem,
        "metric": sample.task.metric,
        "label_column": sample.task.label_column,
        "text_columns": list(sample.task.text_columns),
        "max_length": sample.task.max_length,
        "sample_sha256": sample.digest,
        "sample_size": len(sample),
        "sample_tokens": round(sample.mean_length * len(sample)),
        "evaluation_sha256": evaluation.digest,
        **settings,
        **cost.record,
        "seq_len": cost.macs.seq_len,
        "macs_before": cost.macs.total,
        "macs_after": cost.macs.of_masks(tuned.masks),
        "kept_heads": tuned.masks.kept_heads,
        "kept_filters": tuned.masks.kept_filters,
        "tuning_stopped": tuned.stopped,
        "threads": torch.get_num_threads(),
        checkpoint.WEIGHTS_DIGEST: checkpoint.digest(tuned.model),
        "versions": code_version(),
    }
