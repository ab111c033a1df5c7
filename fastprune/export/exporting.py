"""A saved folder becomes a folder that a runtime serves, with the record of what was checked."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import transformers
from torch import nn

from fastprune.data import Split
from fastprune.data.evaluation import evaluate_rows, outcomes_of
from fastprune.data.outcomes import Outcomes, standard_error
from fastprune.environment import code_version, device_name
from fastprune.errors import InputError
from fastprune.export import measure, quantization
from fastprune.export.inputs import Batch, inputs_for
from fastprune.export.onnx_file import OPSET, check_opset, write_onnx
from fastprune.export.quantization import QUANTIZATIONS
from fastprune.export.runtimes import RECORD, load_model, load_runtime, megabytes_of, weight_files
from fastprune.model import checkpoint
from fastprune.model.tokenizer_files import POINTERS, save_tokenizer
from fastprune.store import storage
from fastprune.store.output import check_output, new_folder

FORMATS = ("onnx", "openvino")

PARITY = 1e-3
"""Greatest difference of an output in float32, absolute or relative."""

SAMPLE_ROWS = 64
"""Rows on which the weights that int8 hurts are found."""

LATENCY_BATCHES = (1, 8)

_ROWS = ("task", "problem", "text_columns", "max_length")
"""Of a manifest: what the rows of a pruned model are."""

_RUNTIMES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}


def export(
    folder: str | Path,
    output_dir: str | Path,
    *,
    format: str = "onnx",
    quantize: str = "",
    opset: int = OPSET,
    evaluation: Split | None = None,
    sample: Split | None = None,
    told: Mapping = {},
) -> dict:
    """Write a model as a runtime reads it, check it against the original, and measure both.

    Parameters
    ----------
    folder : str or Path
        Of a pruned model, or a dense one.
    output_dir : str or Path
        Must not exist. Gets ``model.onnx`` (or ``model.xml`` and ``model.bin``), configuration, tokenizer or image
        processor, and ``export.json``.
    format : {"onnx", "openvino"}
    quantize : {"", "int8", "fp16"}
    opset : int
        Of ONNX.
    evaluation : Split, optional
        Rows: the metric of both forms, and their agreement. A metric of likeness is to the original.
    sample : Split, optional
        Rows, labelled or not, on which the weights that int8 hurts are found; they stay in float32.

    told : mapping
        More of ``export.json``, such as how its vocabulary was cut.

    Returns
    -------
    dict
        The content of ``export.json``.

    Raises
    ------
    InputError
        A choice that is not known, a folder of no model, a damaged one, or an exported model that does not put out
        what the original does.
    """
    check_choices(format, quantize, opset)
    check_output(output_dir)
    model, tokenizer = load_model(folder), checkpoint.load_tokenizer(folder)
    with new_folder(output_dir) as made:
        return export_model(
            model,
            tokenizer,
            made,
            format=format,
            quantize=quantize,
            opset=opset,
            evaluation=evaluation,
            sample=sample,
            origin={"source": str(folder), **task_settings(Path(folder)), **told},
            megabytes=megabytes_of(Path(told.get("source", folder))),
        )


def export_model(
    model: transformers.PreTrainedModel,
    tokenizer: transformers.PreTrainedTokenizerBase,
    made: Path,
    *,
    format: str = "onnx",
    quantize: str = "",
    opset: int = OPSET,
    evaluation: Split | None = None,
    sample: Split | None = None,
    dense: transformers.PreTrainedModel | None = None,
    origin: Mapping,
    megabytes: float,
) -> dict:
    """:func:`export` of a model in memory, on the CPU, into a folder that is there.

    ``dense`` is what it was pruned from, on the CPU, by which int8 is judged where it is at hand. ``origin`` has its
    ``source``, and of a pruned model what its rows are; ``megabytes`` are those of the source.
    """
    pad = tokenizer.pad_token_id
    file, left, bits = write_form(model, made, format, quantize, opset, sample, pad, dense)
    write_config(model, made)
    save_tokenizer(tokenizer, made)
    runtime = load_runtime(file, model.config)
    real = [] if evaluation is None else measure.real_batches(evaluation, 8, 4, pad)
    apart = measure.difference(model, runtime, [*inputs_for(model.config).probes(), *real])
    if not quantize and not apart <= PARITY:
        raise InputError(
            f"{origin['source']}: the exported model's outputs differ by {apart:.3g} from PyTorch's, more than "
            f"{PARITY:g}; nothing was written: try another --opset, and report it"
        )
    record = {
        "schema_version": 1,
        "format": format,
        "quantize": quantize or None,
        "opset": opset,
        "file": file.name,
        "sha256": {one.name: storage.sha256_of(one) for one in weight_files(made)},
        "inputs": list(inputs_for(model.config).names),
        **origin,
        "weights_sha256": checkpoint.digest(model),
        "left_in_float32": left,
        **({"weight_bits": bits} if quantize == "int8" else {}),
        "max_difference": apart,
        "megabytes": {"source": megabytes, "exported": megabytes_of(made)},
        **_figures(model, runtime, evaluation, pad),
        "versions": code_version() | {name: version(name) for name in _RUNTIMES[format]},
    }
    (made / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def export_beside(
    made: Path,
    format: str,
    quantize: str,
    pruned: transformers.PreTrainedModel,
    dense: transformers.PreTrainedModel,
    tokenizer: transformers.PreTrainedTokenizerBase,
    sample: Split,
    evaluation: Split,
    manifest: Mapping,
) -> tuple[dict, Outcomes]:
    """Export what a compression has made into ``made``, a folder that is there.

    Returns
    -------
    candidate : dict
        ``exported`` of ``metrics.json``: see :func:`as_candidate`.
    outcomes : Outcomes
        ``exported``: what it made of every evaluation row.
    """
    pruned, dense = on_cpu(pruned), on_cpu(dense)
    record = export_model(
        pruned,
        tokenizer,
        made,
        format=format,
        quantize=quantize,
        evaluation=evaluation,
        sample=sample if quantize == "int8" else None,
        dense=dense,
        origin={"source": "..", **{name: manifest[name] for name in _ROWS if name in manifest}},
        megabytes=checkpoint.saved_bytes(pruned) / 1e6,
    )
    return as_candidate(record, made, dense, evaluation, tokenizer.pad_token_id)


def on_cpu(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """The model itself, or a copy on the CPU."""
    return model if model.device.type == "cpu" else copy.deepcopy(model).to("cpu")  # type: ignore[arg-type]


def as_candidate(
    record: Mapping, made: Path, dense: transformers.PreTrainedModel, split: Split, pad_token_id: int
) -> tuple[dict, Outcomes]:
    """What is told of an exported model in a compression's metrics, measured in turn with the dense model.

    Returns
    -------
    candidate : dict
        Its form and the SHA-256 of its file; metric, with the standard errors of that and of its ``drop`` from the
        dense model on the same rows; agreement with the dense model, megabytes, and milliseconds of both by batch size.
    outcomes : Outcomes
        ``exported``: what it made of every row.
    """
    models: dict[str, nn.Module] = {"dense": dense, "exported": load_runtime(made / record["file"], dense.config)}
    before = evaluate_rows(dense, split, pad_token_id=pad_token_id, progress=False)
    judged = evaluate_rows(models["exported"], split, pad_token_id=pad_token_id, dense=before, progress=False)
    candidate: dict = {
        "format": record["format"],
        "quantize": record["quantize"],
        "sha256": storage.sha256_of(made / record["file"]),
        "metric": judged.metrics["metric"],
        "standard_error": standard_error(judged.outcomes),
        "standard_error_of_drop": standard_error(before.outcomes - judged.outcomes),
        "agreement": measure.agreement(split, judged, before),
        "megabytes": record["megabytes"]["exported"],
        "left_in_float32": record["left_in_float32"],
        "device_name": device_name(dense.device),
        "threads": 1,
        "seq_len": round(split.mean_length),
        "latency_ms": {},
    }
    for size in LATENCY_BATCHES:
        batches = measure.real_batches(split, size, 20, pad_token_id)
        speeds = measure.time_in_turn(models, dict.fromkeys(models, batches))
        candidate["latency_ms"][f"batch_{size}"] = {name: speed.p50_ms for name, speed in speeds.items()}
    return candidate, outcomes_of(split, exported=judged)


def check_choices(format: str, quantize: str, opset: int = OPSET) -> None:
    """Raise InputError for a choice that is not known, or ModuleNotFoundError for a target that is not installed."""
    if format not in FORMATS:
        raise InputError(f"format {format!r} is not known; use one of {', '.join(FORMATS)}")
    if quantize and quantize not in QUANTIZATIONS:
        raise InputError(f"quantize {quantize!r} is not known; use one of {', '.join(QUANTIZATIONS)}")
    check_opset(opset)
    import onnxruntime  # noqa: F401 (an extra that is not installed is told before the work)
    import onnxscript  # noqa: F401

    if format == "openvino":
        import openvino  # noqa: F401


def write_form(
    model: transformers.PreTrainedModel,
    made: Path,
    format: str,
    quantize: str,
    opset: int,
    sample: Split | None,
    pad_token_id: int,
    dense: transformers.PreTrainedModel | None,
) -> tuple[Path, list[str], int]:
    """The model's file, the weights that were left in float32, and the bits that the others take of their 8.

    ``dense`` is what the model was pruned from, on the CPU, where that is at hand.
    """
    left, bits = [], 8
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch, "float32.onnx")
        write_onnx(model, plain, opset)
        target = made / "model.onnx" if format == "onnx" else Path(scratch, "model.onnx")
        if quantize == "int8":
            batches = inputs_for(model.config).probes()
            if sample is not None:
                batches = measure.real_batches(sample, 8, SAMPLE_ROWS // 8, pad_token_id)

            def run(tried: Path) -> np.ndarray:
                return _outputs(load_runtime(tried, model.config), batches)

            bits = quantization.bits_that_hold(plain, Path(scratch), run)
            if sample is not None:
                before = None if dense is None else _outputs(dense, batches)
                left = quantization.weights_that_hurt(plain, Path(scratch), run, before, bits=bits)
            quantization.quantize_int8(plain, target, left, bits=bits)
        elif quantize == "fp16" and format == "onnx":
            quantization.halve(plain, target)
        else:
            target.write_bytes(plain.read_bytes())
        if format == "onnx":
            return target, left, bits
        import openvino

        openvino.save_model(
            openvino.convert_model(str(target)), str(made / "model.xml"), compress_to_fp16=quantize == "fp16"
        )
        return made / "model.xml", left, bits


def _outputs(model: nn.Module, batches: Sequence[Batch]) -> np.ndarray:
    """All outputs on batches, [numbers] or [rows, classes]."""
    found = [value for batch in batches for value in measure.run(model, batch).values()]
    if all(value.ndim == 2 and value.shape[1] == found[0].shape[1] for value in found):
        return np.concatenate(found)
    return np.concatenate([value.ravel() for value in found])


def write_config(model: transformers.PreTrainedModel, folder: Path) -> None:
    """The configuration without the names of code that is not in the folder."""
    document = model.config.to_dict()
    for name in (*POINTERS, "source_switches", "source_dtype", "_name_or_path"):
        document.pop(name, None)
    text = json.dumps(document, indent=2, sort_keys=True, default=str)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def task_settings(folder: Path) -> dict:
    """What the rows of a pruned model are, by its manifest: the exported folder is told too."""
    manifest = folder / checkpoint.MANIFEST
    known = checkpoint.read_object(manifest) if manifest.is_file() else {}
    return {name: known[name] for name in _ROWS if name in known}


def _figures(
    model: transformers.PreTrainedModel, runtime: nn.Module, evaluation: Split | None, pad_token_id: int
) -> dict:
    """Metric, agreement and milliseconds of both forms."""
    models: dict[str, nn.Module] = {"pytorch": model, "exported": runtime}
    figures: dict = {}
    if evaluation is not None:
        judged = measure.judge(models, dict.fromkeys(models, evaluation), dict.fromkeys(models, pad_token_id))
        figures["metric"] = {name: one["metric"] for name, one in judged.items()}
        figures["agreement"] = judged["exported"]["agreement"]
    figures["latency"] = {"threads": 1, "device": device_name(model.device)}
    for size in LATENCY_BATCHES:
        batches = (
            [{name: value.repeat_interleave(size, 0) for name, value in inputs_for(model.config).row().items()}] * 10
            if evaluation is None
            else measure.real_batches(evaluation, size, 20, pad_token_id)
        )
        speeds = measure.time_in_turn(models, dict.fromkeys(models, batches))
        figures["latency"][f"batch_{size}"] = {name: asdict(speed) for name, speed in speeds.items()}
    return figures
