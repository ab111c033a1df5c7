"""What a compression has made, and how it is written."""

from __future__ import annotations

import functools
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from fastprune.data.outcomes import Outcomes
from fastprune.model import checkpoint
from fastprune.model.card import write_card
from fastprune.model.masks import Masks
from fastprune.store import signatures
from fastprune.store.copies import local
from fastprune.store.output import write_or_keep


@dataclass(frozen=True)
class Compressed:
    """A pruned model and the record of how it was made.

    Attributes
    ----------
    model : PreTrainedModel
        The smaller dense model, in evaluation mode.
    masks : Masks
        What was kept, with the scales that are folded into the model.
    metrics : dict
        ``metric``, ``dense``, ``pruned``, their ``standard_error``, ``macs_kept``, ``params_kept``, ``latency_ms``,
        ``seconds`` by stage: as in the ``metrics.json`` of a pipeline.
    manifest : dict
        Source and data digests, seed, budget, kept heads and filters per layer, MACs, library versions.
    outcomes : Outcomes
        What the dense, the pruned and the exported model made of every evaluation row; of the dense model alone after a
        dry run.
    """

    model: transformers.PreTrainedModel
    masks: Masks
    metrics: dict
    manifest: dict
    outcomes: Outcomes


def write(result: Compressed, tokenizer: Any, output: Path, exported: Path | None = None) -> None:
    """Write a result as a folder, with what lies in ``exported``, an export, beside the model.

    Raises
    ------
    InputError
        It cannot be written there; it is kept elsewhere, and the message says where.
    """
    write_or_keep(
        output,
        lambda place: checkpoint.save(
            place,
            result.model,
            tokenizer,
            result.manifest,
            beside=functools.partial(_write_beside, result, exported),
            metrics=result.metrics,
        ),
    )


def _write_beside(result: Compressed, exported: Path | None, folder: Path) -> None:
    """Into the model's folder: its card, the outcomes of the evaluation rows, an exported model, who has measured."""
    write_card(folder, local(result.manifest["source_model"]), result.manifest, result.metrics)
    result.outcomes.save(folder)
    if exported is not None:
        shutil.copytree(exported, folder, dirs_exist_ok=True)
    signatures.sign(folder, result.metrics, folder)
