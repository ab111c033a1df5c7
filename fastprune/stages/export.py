"""The pruned model as a runtime serves it: a candidate of its own."""

from __future__ import annotations

import time
from pathlib import Path

from fastprune.data import Split
from fastprune.export.exporting import export_beside
from fastprune.model import checkpoint
from fastprune.stages.folders import load_model, read_json, write_record
from fastprune.store.artifacts import makes
from fastprune.store.output import new_folder


@makes("exported")
def export(
    *,
    model: Path,
    sample: Path,
    evaluation: Path,
    pruned: Path,
    exported: Path,
    format: str = "onnx",
    quantize: str = "",
) -> dict:
    """Export the pruned model as it was saved, and measure it beside the dense one, on the CPU.

    Parameters
    ----------
    model, sample, evaluation, pruned : Path
    exported : Path
        Output: what :func:`fastprune.export.exporting.export` writes, and ``outcomes.parquet``.
    format, quantize : str
        As there; ``quantize`` is empty for float32.
    """
    begin = time.perf_counter()
    with new_folder(exported) as folder:
        candidate, outcomes = export_beside(
            folder,
            format,
            quantize,
            checkpoint.load(pruned),
            load_model(model, "cpu"),
            checkpoint.load_tokenizer(pruned),
            Split.load(sample),
            Split.load(evaluation),
            read_json(pruned / checkpoint.MANIFEST),
        )
        outcomes.save(folder)
        told = {name: candidate[name] for name in ("metric", "agreement", "megabytes")}
        figures = {f"exported_{name}": value for name, value in told.items() if value is not None}
        return write_record(folder, "export", begin, figures, {"exported": candidate})
