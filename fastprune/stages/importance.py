"""What every head and filter is worth (paper, section 3.2): in one go, or in shards that are merged."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastprune.data import Split
from fastprune.importance.selection import selection_of
from fastprune.method import gather, importance_of
from fastprune.model.architectures import Encoder
from fastprune.search.macs import MacModel
from fastprune.settings import Effort, Estimator, Method
from fastprune.stages.folders import IMPORTANCE, INFORMATION, load_sample, write_json, write_record
from fastprune.store.artifacts import makes
from fastprune.store.output import new_folder


@makes("importance")
def importance(
    *,
    model: Path,
    sample: Path,
    importance: Path,
    selection: str = "surgeon",
    estimator: Estimator = "per_sample",
    effort: Effort = "default",
    processes: int = 1,
    batch_size: int = 32,
    device: str = "auto",
) -> dict:
    """Measure the importance of every head and filter on the sample.

    Parameters
    ----------
    model, sample : Path
    importance : Path
        Output: ``importance.safetensors`` (heads [L, H], filters [L, I]), ``macs.json`` and, where the selection
        rearranges, what that needs in ``information.safetensors``.
    selection, estimator, effort : str
        See :class:`fastprune.settings.Method`.
    processes : int
        That share the pass over the sample.
    """
    begin, method = time.perf_counter(), Method(selection, estimator, effort=effort)
    split, encoder, batches = load_sample(model, sample, device, batch_size)
    information = gather(encoder, batches, split.task.problem, method, processes=processes)
    return _save(importance, encoder, split, information, begin, method)


@makes("part")
def importance_shard(
    *,
    model: Path,
    sample: Path,
    part: Path,
    shard: int,
    shards: int,
    selection: str = "surgeon",
    estimator: Estimator = "per_sample",
    effort: Effort = "default",
    batch_size: int = 32,
    device: str = "auto",
) -> dict:
    """The pass over one shard of the sample, for :func:`merge_importance`.

    Parameters
    ----------
    model, sample : Path
    part : Path
        Output: ``information.safetensors``.
    shard, shards : int
        Of the sample's batches, every ``shards``-th from number ``shard``.
    """
    begin, method = time.perf_counter(), Method(selection, estimator, effort=effort)
    split, encoder, batches = load_sample(model, sample, device, batch_size)
    information = gather(encoder, batches, split.task.problem, method, shard=shard, shards=shards)
    with new_folder(part) as folder:
        information.save(folder / INFORMATION)
        return write_record(folder, "importance_shard", begin, {"shard": shard, "shards": shards})


@makes("importance")
def merge_importance(
    *,
    model: Path,
    sample: Path,
    part: Sequence[Path],
    importance: Path,
    selection: str = "surgeon",
    estimator: Estimator = "per_sample",
    effort: Effort = "default",
    batch_size: int = 32,
    device: str = "auto",
) -> dict:
    """What :func:`importance` makes, from the parts of all shards.

    Parameters
    ----------
    model, sample : Path
    part : sequence of Path
    importance : Path
        Output.
    """
    begin, method = time.perf_counter(), Method(selection, estimator, effort=effort)
    split, encoder, _ = load_sample(model, sample, device, batch_size)
    way = selection_of(selection)
    information = way.merge(way.load(folder / INFORMATION) for folder in part)
    return _save(importance, encoder, split, information, begin, method)


def _save(output: Path, encoder: Encoder, split: Split, information: Any, begin: float, method: Method) -> dict:
    """Write the importance, the MACs and, where rearrangement follows, the information; return the record."""
    macs = MacModel.of(encoder, split.mean_length)
    with new_folder(output) as folder:
        importance_of(encoder, information, method).save(folder / IMPORTANCE)
        if selection_of(method.selection).rearranges:
            information.save(folder / INFORMATION)
        write_json(folder / "macs.json", asdict(macs))
        return write_record(
            folder,
            "importance",
            begin,
            {"examples": len(split), "macs": macs.total},
            {"selection": method.selection, "estimator": method.estimator, "effort": method.effort},
        )
