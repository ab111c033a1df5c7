"""What lies in the folders between two stages: reading it, and writing it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import transformers
from torch import Tensor

from fastprune.data import Split, make_batches
from fastprune.environment import choose_device
from fastprune.importance.selection import Importance, selection_of
from fastprune.latency.lut import LatencyTable
from fastprune.model import checkpoint
from fastprune.model.architectures import Encoder, describe
from fastprune.model.masks import Masks
from fastprune.search.cost import Cost
from fastprune.search.macs import MacModel
from fastprune.settings import Layout, Method, Solver
from fastprune.store import bounded
from fastprune.store.artifacts import RECORD
from fastprune.store.output import new_folder

IMPORTANCE = "importance.safetensors"
INFORMATION = "information.safetensors"
SERVED = "served_rows.json"
"""Texts of evaluation rows, short and long: a model is registered if they are served what they are evaluated as."""


def served_by(exported: Path | None) -> Path | None:
    """The export that a registered version serves in the place of the pruned model: one for ONNX Runtime, or none."""
    if exported is None or read_json(exported / RECORD)["settings"]["exported"]["format"] != "onnx":
        return None
    return exported


def load_model(model: Path, device: str) -> transformers.PreTrainedModel:
    """The dense model that prepare froze; it has passed every check there, task head included."""
    return checkpoint.load_dense(model, device=choose_device(device))


def load_sample(
    model: Path, sample: Path, device: str, batch_size: int
) -> tuple[Split, Encoder, list[dict[str, Tensor]]]:
    """The pruning sample, the dense model, and the sample's batches for it."""
    split, pad = Split.load(sample), checkpoint.load_tokenizer(model).pad_token_id
    return split, describe(load_model(model, device)), make_batches(split, batch_size, pad)


def load_importance(folder: Path) -> Importance:
    return Importance.load(folder / IMPORTANCE)


def load_method(importance: Path, tuning: str = "weights", solver: Solver = "exact") -> Method:
    """The method whose importance lies in a folder."""
    settings = read_json(importance / RECORD)["settings"]
    return Method(settings["selection"], settings["estimator"], tuning, solver)


def load_information(importance: Path, method: Method) -> Any:
    """What the rearrangement needs; None where none follows."""
    way = selection_of(method.selection)
    return way.load(importance / INFORMATION) if way.rearranges else None


def load_table(folder: Path | None) -> LatencyTable | None:
    """The look-up table; None under a MAC budget."""
    return LatencyTable.load(folder / "lut.json") if folder else None


def load_macs(importance: Path) -> MacModel:
    return MacModel(**read_json(importance / "macs.json"))


def table_of_budget(table: Path | None, chosen: Path) -> LatencyTable | None:
    """The look-up table if the budget is latency."""
    return load_table(table) if read_json(chosen / RECORD)["settings"]["constraint"] == "latency" else None


def load_layout(chosen: Path) -> Layout:
    """Of the pruned model; a budget of an earlier version names none."""
    return read_json(chosen / RECORD)["settings"].get("layout", "free")


def load_budget(importance: Path, table: Path | None, chosen: Path) -> tuple[Cost, float]:
    """What the budget limits, and the keep ratio."""
    record = read_json(chosen / RECORD)
    cost = Cost(
        load_macs(importance), table_of_budget(table, chosen), record["settings"]["solver"], load_layout(chosen)
    )
    return cost, record["metrics"]["keep_ratio"]


def save_masks(output: Path, masks: Masks, cost: Cost, stage: str, begin: float, settings: dict | None = None) -> dict:
    """Write masks and what they keep, and return the record."""
    with new_folder(output) as folder:
        masks.save(folder / "masks.safetensors")
        metrics = {**cost.kept(masks), "heads_kept": sum(masks.head_counts), "filters_kept": sum(masks.filter_counts)}
        return write_record(folder, stage, begin, metrics, settings)


def record_of(stage: str, begin: float, metrics: dict, settings: dict | None = None) -> dict:
    """What a stage has to tell; ``begin`` is its start by ``time.perf_counter``."""
    return {"stage": stage, "seconds": time.perf_counter() - begin, "settings": settings or {}, "metrics": metrics}


def write_record(folder: Path, stage: str, begin: float, metrics: dict, settings: dict | None = None) -> dict:
    """Write it into the folder, and return it."""
    record = record_of(stage, begin, metrics, settings)
    write_json(folder / RECORD, record)
    return record


def read_json(path: Path) -> dict:
    return bounded.read_json(path)


def write_json(path: Path, document: dict) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
