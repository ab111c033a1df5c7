"""Measuring a registered version again, by who promotes it: its figures need not be believed then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastprune.data import Task, read_table
from fastprune.data.encoding import encode
from fastprune.data.evaluation import evaluate_rows, outcomes_of
from fastprune.errors import InputError, Refused
from fastprune.export.runtimes import RECORD
from fastprune.manifest import compare_latency
from fastprune.model import checkpoint
from fastprune.releases import forms
from fastprune.releases.evidence import figures_of
from fastprune.releases.registration import read_manifest
from fastprune.releases.verification import Stored

DIFFERENCE = 0.005
"""Greatest difference of a metric between two machines; a few rows in a thousand lie on the edge."""


def measure_again(stored: Stored, evaluation: str | Path, source: str | Path = "") -> Stored:
    """A version with the figures that are measured here and now, on this machine.

    Parameters
    ----------
    stored : Stored
        While its download lasts.
    evaluation : str or Path
        The table that it was evaluated on.
    source : str or Path
        The dense model; by default from where its manifest names it.

    Raises
    ------
    Refused
        The table, or the dense model, is another than the version was evaluated with; or a metric differs by more than
        ``DIFFERENCE``, and by more than two rows, from the one that was registered.
    InputError
        There is no such table or model.
    """
    manifest, known, model_dir = read_manifest(stored.model_dir), stored.evidence, stored.model_dir
    if "label_column" not in manifest:
        raise InputError("the version was compressed before 0.2.0, and its label column is not known; compress again")
    tokenizer = checkpoint.load_tokenizer(model_dir)
    small = forms.load(model_dir, known.serves)
    split = encode(read_table(evaluation), tokenizer, _task(manifest), small.config, for_evaluation=True)
    if split.digest != manifest["evaluation_sha256"]:
        raise Refused(f"{evaluation}: is not what the version was evaluated on (evaluation_sha256); give that table")
    source = source or manifest["source_model"]
    dense = checkpoint.load_dense(source)
    if checkpoint.digest(dense) != manifest["source_sha256"]:
        raise Refused(f"{source}: is not the model that was pruned (source_sha256); name that one")
    pad = tokenizer.pad_token_id
    before = evaluate_rows(dense, split, pad_token_id=pad)
    metrics: dict[str, Any] = {"metric": known.metric, "dense": before.metrics["metric"]}
    if known.serves == forms.ONNX:
        from fastprune.export.exporting import as_candidate  # onnx, which other versions need not

        place = forms.folder_of(model_dir, known.serves)
        metrics["exported"], outcomes = as_candidate(checkpoint.read_object(place / RECORD), place, dense, split, pad)
        outcomes |= outcomes_of(split, dense=before)
        metrics["standard_error"] = outcomes.standard_errors
    else:
        after = evaluate_rows(small, split, pad_token_id=pad, dense=before)
        outcomes = outcomes_of(split, dense=before, pruned=after)
        metrics |= {"pruned": after.metrics["metric"], "standard_error": outcomes.standard_errors}
        metrics["latency_ms"] = compare_latency(dense, small, split, pad)
    figures = figures_of(metrics, known.serves)
    for name, told in (("dense", known.dense), ("pruned", known.pruned)):
        if not abs(figures[name] - told) <= max(DIFFERENCE, 2 / len(split)):
            raise Refused(
                f"measured again, the {name} model has {known.metric} {figures[name]:.6g} and not {told:.6g}, as "
                "was registered; find out who measured that"
            )
    return replace(stored, evidence=known.model_copy(update=figures), outcomes=outcomes)


def _task(manifest: Mapping) -> Task:
    names = ("problem", "metric", "label_column", "max_length")
    columns = tuple(manifest["text_columns"])
    return Task(manifest["task"], text_columns=columns, **{name: manifest[name] for name in names})
