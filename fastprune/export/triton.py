"""An exported model in the layout of a Triton model repository: ``NAME/config.pbtxt`` and ``NAME/1/model.onnx``."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from fastprune.errors import InputError
from fastprune.export.runtimes import RECORD, check_files
from fastprune.model import checkpoint
from fastprune.store.output import check_output, new_folder

_TYPES = {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32", "tensor(float16)": "TYPE_FP16"}


def write_repository(folder: str | Path, repository: str | Path, name: str, *, max_batch_size: int = 32) -> Path:
    """Put an exported model into a model repository, which may hold others.

    The tokenizer, or the image processor, and ``config.json`` lie beside ``config.pbtxt``, for whoever asks: Triton
    takes tokens, or pixels.

    Parameters
    ----------
    folder : str or Path
        What ``fastprune export --format onnx`` has made.
    repository : str or Path
        Made if need be. ``repository/name`` must not exist.
    name : str
        Of the model in Triton.
    max_batch_size : int
        Rows that Triton may run at once; it puts requests of one length together.

    Returns
    -------
    Path
        ``repository/name``.

    Raises
    ------
    InputError
        No export for ONNX Runtime, a damaged one, or a name that is no folder's.
    """
    source, place = Path(folder), Path(repository, name)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
        raise InputError(f"{name!r} is no name of a model in Triton: letters, digits, '_', '-' and '.' alone")
    record = checkpoint.read_object(source / RECORD) if (source / RECORD).is_file() else {}
    if record.get("format") != "onnx" or not (source / "model.onnx").is_file():
        raise InputError(f"{source}: is no export for ONNX Runtime; make one with `fastprune export --format onnx`")
    check_files(source, record)
    text = config_of(source / "model.onnx", name, max_batch_size)
    Path(repository).mkdir(parents=True, exist_ok=True)
    check_output(place)
    with new_folder(place) as made:
        (made / "1").mkdir()
        shutil.copyfile(source / "model.onnx", made / "1" / "model.onnx")
        for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
            if (source / file).is_file():
                shutil.copyfile(source / file, made / file)
        (made / "config.pbtxt").write_text(text, encoding="utf-8")
    return place


def config_of(file: Path, name: str, max_batch_size: int) -> str:
    """The content of ``config.pbtxt``, from the inputs and outputs of the model's own file."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # of its own kinds, for a damaged file
        raise InputError(f"{file}: cannot be loaded ({str(error).splitlines()[0]}); export the model again") from error
    lines = [f"name: {json.dumps(name)}", 'backend: "onnxruntime"', f"max_batch_size: {max_batch_size}"]
    for kind, tensors in (("input", session.get_inputs()), ("output", session.get_outputs())):
        for tensor in tensors:
            # The first dimension is the batch, which Triton adds; those that have no number are open.
            sizes = ", ".join(str(size if isinstance(size, int) else -1) for size in tensor.shape[1:])
            lines += [
                f"{kind} {{",
                f"  name: {json.dumps(tensor.name)}",
                f"  data_type: {_TYPES[tensor.type]}",
                f"  dims: [ {sizes} ]",
                "}",
            ]
    return "\n".join([*lines, "dynamic_batching { }", "instance_group { count: 1 kind: KIND_CPU }", ""])
