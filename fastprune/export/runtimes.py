"""Anything that can be served, as a torch module that :func:`fastprune.data.evaluation.evaluate` takes.

A candidate is a folder: a dense model, one that fastprune pruned, or one that ``fastprune export`` wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers.utils import ModelOutput

from fastprune.errors import InputError
from fastprune.export.inputs import inputs_for
from fastprune.model import checkpoint, sentence
from fastprune.store import storage
from fastprune.store.bounded import read_json

RECORD = "export.json"
"""What an exported folder says of itself."""

Call = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


class Runtime(nn.Module):
    """A file that another runtime runs, with the inputs and outputs of a model of transformers."""

    def __init__(self, config: transformers.PreTrainedConfig, names: list[str], call: Call):
        super().__init__()
        self.config, self.names, self.call = config, names, call
        self.inputs = inputs_for(config)
        self.nothing = nn.Parameter(torch.empty(0))  # it runs on the CPU

    def forward(self, **inputs: Tensor) -> ModelOutput:
        given = self.inputs.complete(inputs)
        outputs = self.call({name: given[name].numpy() for name in self.names})
        return ModelOutput({name: torch.from_numpy(np.asarray(value)) for name, value in outputs.items()})


@dataclass(frozen=True)
class Candidate:
    """A folder that can be run.

    Attributes
    ----------
    name : str
        As given.
    what : str
        Such as ``PyTorch``, or ``ONNX Runtime int8``.
    folder : Path
    model : Module
        Runs a batch.
    megabytes : float
        Of its weights on disk.
    """

    name: str
    what: str
    folder: Path
    model: nn.Module
    megabytes: float

    @property
    def config(self) -> transformers.PreTrainedConfig:
        return self.model.config  # type: ignore[return-value]


def load_candidate(folder: str | Path, *, threads: int = 1) -> Candidate:
    """Load a dense, a pruned or an exported folder.

    Raises
    ------
    InputError
        It is none of these, or damaged.
    """
    path = Path(folder)
    if (path / RECORD).is_file():
        record = checkpoint.read_object(path / RECORD)
        name = record.get("file")
        if not isinstance(name, str) or not (path / name).is_file() or Path(name).name != name:
            raise InputError(f"{path / RECORD}: names no file of the folder; export the model again")
        check_files(path, record)
        model = load_runtime(path / name, read_config(path), threads=threads)
        kind = "OpenVINO" if record.get("format") == "openvino" else "ONNX Runtime"
        what = " ".join(filter(None, (kind, record.get("quantize"))))
        return Candidate(str(folder), what, path, model, megabytes_of(path))
    return Candidate(str(folder), "PyTorch", path, load_model(folder), megabytes_of(path))


def check_files(folder: Path, record: Mapping) -> None:
    """Raise InputError for a file of an export that is not the one that was written."""
    for name, digest in record.get("sha256", {}).items():
        file = folder / Path(name).name
        if not file.is_file() or storage.sha256_of(file) != digest:
            raise InputError(f"{file}: is not the file that was exported (SHA-256); copy it or export the model again")


def load_model(folder: str | Path) -> transformers.PreTrainedModel:
    """A model of torch, pruned or dense, from a folder of this machine."""
    if not Path(folder).is_dir():
        raise InputError(
            f"{folder}: there is no such folder; give one with a model (of the hub or of s3:// fetch it first)"
        )
    config = Path(folder) / "config.json"
    if config.is_file():
        raw = read_json(config)
        named = raw.get("architectures") if isinstance(raw, dict) else None
        if isinstance(named, list) and named and str(named[0]).startswith("Pruned"):
            return checkpoint.load(folder)
    if checkpoint.is_portable(Path(folder)):
        return checkpoint.load(folder)
    return checkpoint.load_dense(folder)


def read_config(folder: Path) -> transformers.PreTrainedConfig:
    """The configuration of a folder of any kind, with what sentence-transformers has beside a dense one."""
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: there is no config.json; copy the whole folder, or make it again")
    checkpoint.read_object(folder / "config.json")
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if not sentence.embedding_of(config):
        sentence.attach(config, folder)
    return config


def load_runtime(file: Path, config: transformers.PreTrainedConfig, *, threads: int = 1) -> Runtime:
    """An ``.onnx`` file in ONNX Runtime, or an ``.xml`` in OpenVINO, on this CPU.

    Raises
    ------
    InputError
        The runtime cannot read the file.
    """
    load = _openvino if file.suffix == ".xml" else _onnx_runtime
    try:
        names, call = load(file, threads)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # each runtime has its own kinds for a damaged file
        raise InputError(f"{file}: cannot be loaded ({str(error).splitlines()[0]}); export the model again") from error
    return Runtime(config, names, call)


def _onnx_runtime(file: Path, threads: int) -> tuple[list[str], Call]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    names = [given.name for given in session.get_inputs()]
    return names, lambda inputs: dict(zip(outputs, session.run(None, dict(inputs)), strict=True))


def _openvino(file: Path, threads: int) -> tuple[list[str], Call]:
    import openvino

    compiled = openvino.Core().compile_model(
        str(file),
        "CPU",
        {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"},
    )
    outputs = [output.get_any_name() for output in compiled.outputs]
    names = [given.get_any_name() for given in compiled.inputs]
    return names, lambda inputs: dict(zip(outputs, compiled(dict(inputs)).values(), strict=True))


def megabytes_of(folder: Path) -> float:
    """Of the files with weights in a folder."""
    return sum(file.stat().st_size for file in weight_files(folder)) / 1e6


def weight_files(folder: Path) -> list[Path]:
    """The files with weights in a folder."""
    return sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".onnx", ".xml", ".bin"))
