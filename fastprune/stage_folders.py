"""What lies in the folders between two stages: reading it, and writing it."""

from __future__ import annotations

import json
import time
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from fastprune import checkpoint
from fastprune.artifacts import RECORD
from fastprune.compression import choose_device
from fastprune.constraints import Constraint
from fastprune.fisher import Fisher
from fastprune.latency_search import Solver
from fastprune.lut import LatencyTable
from fastprune.macs import MacModel
from fastprune.masks import Masks


def load_model(model: Path, device: str) -> PreTrainedModel:
    """The dense model that prepare froze; it has passed every check there, task head included."""
    return checkpoint.load_dense(model, device=choose_device(device))


def load_importance(folder: Path) -> tuple[Tensor, Tensor]:
    """Of heads [L, H] and filters [L, I]."""
    importance = load_file(folder / "importance.safetensors")
    return importance["heads"], importance["filters"]


def load_table(folder: Path | None) -> LatencyTable | None:
    """The look-up table; None under a MAC budget."""
    return folder and LatencyTable.load(folder / "lut.json")


def load_cost(fisher: Path, table: Path | None, solver: Solver = "exact") -> Constraint:
    """What the budget limits."""
    return Constraint(MacModel(**read_json(fisher / "macs.json")), load_table(table), solver)


def load_fisher(folder: Path) -> Fisher | None:
    """The gradient rows; None where no rearrangement follows."""
    path = folder / "fisher.safetensors"
    return Fisher.load(path) if path.exists() else None


def save_masks(output: Path, masks: Masks, cost: Constraint, stage: str, begin: float,
               settings: dict | None = None) -> dict:
    """Write masks and what they keep, and return the record."""
    with checkpoint.new_folder(output) as folder:
        masks.save(folder / "masks.safetensors")
        metrics = {**cost.kept(masks), "heads_kept": sum(masks.head_counts),
                   "filters_kept": sum(masks.filter_counts)}
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
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, document: dict) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
