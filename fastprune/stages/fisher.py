"""The stages that measure what every head and filter is worth: in one go, or in shards that are merged.

As in :mod:`fastprune.stages.pruning`, from folders to folders.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from fastprune.compression import gather
from fastprune.importance.curvature import Curvature
from fastprune.importance.fisher import Fisher
from fastprune.settings import Estimator, Selection
from fastprune.stages.folders import load_sample, save_fisher, write_record
from fastprune.store import storage
from fastprune.store.artifacts import makes


@makes("fisher")
def fisher(
    *,
    model: Path,
    calibration: Path,
    fisher: Path,
    selection: Selection = "surgeon",
    estimator: Estimator = "per_sample",
    batch_size: int = 32,
    device: str = "auto",
) -> dict:
    """Measure the importance of every head and filter on the pruning sample.

    Parameters
    ----------
    model, calibration : Path
    fisher : Path
        Output: ``importance.safetensors`` (heads [L, H], filters [L, I]), ``macs.json`` and, for the rearrangement of
        ``selection="fisher"``, the gradient rows in ``fisher.safetensors``.
    selection, estimator : str
        See :func:`fastprune.compress`.
    """
    begin = time.perf_counter()
    split, encoder, batches = load_sample(model, calibration, device, batch_size)
    information = gather(encoder, batches, split.task.problem, selection, fisher=estimator)
    return save_fisher(fisher, encoder, split, information, begin, selection, estimator)


@makes("part")
def fisher_shard(
    *,
    model: Path,
    calibration: Path,
    part: Path,
    shard: int,
    shards: int,
    selection: Selection = "surgeon",
    estimator: Estimator = "per_sample",
    batch_size: int = 32,
    device: str = "auto",
) -> dict:
    """The pass over one shard of the pruning sample, for :func:`merge_fisher`.

    Parameters
    ----------
    model, calibration : Path
    part : Path
        Output: ``part.safetensors``.
    shard, shards : int
        Of the sample's batches, every ``shards``-th from number ``shard``.
    """
    begin = time.perf_counter()
    split, encoder, batches = load_sample(model, calibration, device, batch_size)
    information = gather(encoder, batches, split.task.problem, selection, fisher=estimator, shard=shard, shards=shards)
    with storage.new_folder(part) as folder:
        information.save(folder / "part.safetensors")
        return write_record(folder, "fisher_shard", begin, {"shard": shard, "shards": shards})


@makes("fisher")
def merge_fisher(
    *,
    model: Path,
    calibration: Path,
    part: Sequence[Path],
    fisher: Path,
    selection: Selection = "surgeon",
    estimator: Estimator = "per_sample",
    batch_size: int = 32,
    device: str = "auto",
) -> dict:
    """What :func:`fisher` makes, from the parts of all shards.

    Parameters
    ----------
    model, calibration : Path
    part : sequence of Path
    fisher : Path
        Output.
    """
    begin = time.perf_counter()
    split, encoder, _ = load_sample(model, calibration, device, batch_size)
    kind = Curvature if selection == "surgeon" else Fisher
    information = kind.merge([kind.load(folder / "part.safetensors") for folder in part])
    return save_fisher(fisher, encoder, split, information, begin, selection, estimator)
