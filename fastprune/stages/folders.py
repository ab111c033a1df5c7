"""What lies in the folders between two stages: reading it, and writing it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastprune.compression import importance_of
from fastprune.data import Split, make_batches
from fastprune.environment import choose_device
from fastprune.importance.curvature import Curvature
from fastprune.importance.fisher import Fisher
from fastprune.latency.lut import LatencyTable
from fastprune.model import checkpoint
from fastprune.model.architectures import Encoder, describe
from fastprune.model.masks import Masks
from fastprune.search.cost import Constraint
from fastprune.search.macs import MacModel
from fastprune.settings import Estimator, Selection
from fastprune.store import storage
from fastprune.store.artifacts import RECORD


def load_model(model: Path, device: str) -> transformers.PreTrainedModel:
    """The dense model that prepare froze; it has passed every check there, task head included."""
    return checkpoint.load_dense(model, device=choose_device(device))


def load_sample(
    model: Path, calibration: Path, device: str, batch_size: int
) -> tuple[Split, Encoder, list[dict[str, Tensor]]]:
    """The pruning sample, the dense model, and the sample's batches for it."""
    split, pad = Split.load(calibration), checkpoint.load_tokenizer(model).pad_token_id
    return split, describe(load_model(model, device)), make_batches(split, batch_size, pad)


def load_importance(folder: Path) -> tuple[Tensor, Tensor]:
    """Of heads [L, H] and filters [L, I]."""
    importance = load_file(folder / "importance.safetensors")
    return importance["heads"], importance["filters"]


def load_table(folder: Path | None) -> LatencyTable | None:
    """The look-up table; None under a MAC budget."""
    return folder and LatencyTable.load(folder / "lut.json")


def load_macs(fisher: Path) -> MacModel:
    return MacModel(**read_json(fisher / "macs.json"))


def table_of_budget(table: Path | None, chosen: Path) -> LatencyTable | None:
    """The look-up table if the budget is latency."""
    return load_table(table) if read_json(chosen / RECORD)["settings"]["constraint"] == "latency" else None


def load_budget(fisher: Path, table: Path | None, chosen: Path) -> tuple[Constraint, float]:
    """What the budget limits, and the keep ratio."""
    record = read_json(chosen / RECORD)
    cost = Constraint(load_macs(fisher), table_of_budget(table, chosen), record["settings"]["solver"])
    return cost, record["metrics"]["keep_ratio"]


def load_fisher(folder: Path) -> Fisher | None:
    """The gradient rows; None where no rearrangement follows."""
    path = folder / "fisher.safetensors"
    return Fisher.load(path) if path.exists() else None


def save_fisher(
    output: Path,
    encoder: Encoder,
    split: Split,
    information: Curvature | Fisher,
    begin: float,
    selection: Selection,
    estimator: Estimator,
) -> dict:
    """Write the importance, the MACs and, where rearrangement follows, the gradient rows; return the record."""
    macs = MacModel.of(encoder, split.mean_length)
    with storage.new_folder(output) as folder:
        save_file(
            dict(zip(("heads", "filters"), importance_of(encoder, information))), folder / "importance.safetensors"
        )
        if isinstance(information, Fisher):
            information.save(folder / "fisher.safetensors")
        write_json(folder / "macs.json", asdict(macs))
        return write_record(
            folder,
            "fisher",
            begin,
            {"examples": len(split), "macs": macs.total},
            {"selection": selection, "fisher": estimator},
        )


def save_masks(
    output: Path, masks: Masks, cost: Constraint, stage: str, begin: float, settings: dict | None = None
) -> dict:
    """Write masks and what they keep, and return the record."""
    with storage.new_folder(output) as folder:
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
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, document: dict) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
