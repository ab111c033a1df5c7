"""The pruned model as MLflow serves it (models from code: MLflow copies this file beside the model).

It needs mlflow and transformers, not fastprune, and either torch (the model's folder carries the file that sizes its
layers) or onnxruntime, for the export in the folder ``onnx`` of the model's. Beside it lie ``model_inputs.py``, which
turns texts into the model's inputs just as they were at its evaluation, and the file of its problem, which turns
outputs into answers.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, SimpleNamespace

import mlflow.models
import numpy as np
import pandas as pd
import transformers
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel

BATCH = 32

LONGEST = 500
"""Characters of what is said of an error."""

SERVER = "__pyfunc_model_path__"
"""A variable that is set in MLflow's own server (``mlflow models serve``), and there alone."""

_log = logging.getLogger(__name__)


class BadInput(mlflow.MlflowException, ValueError):
    """What was asked cannot be answered; MLflow answers 400 with these words."""

    def __init__(self, message):
        super().__init__(message, error_code=INVALID_PARAMETER_VALUE)


class PrunedModel(PythonModel):
    """Texts or images in, a row of answers each out.

    ``predict`` takes a DataFrame, a Series or a list: one text a row, two named ``text`` and ``text_pair``, or the
    columns that the problem names. The columns of the answers are the problem's, those of the model's signature.
    A cell that holds anything but a text, or but the file of an image, is refused with :class:`BadInput`. Nothing is
    written outside of the folder for temporary files, so that the user's home may be read-only.
    """

    def load_context(self, context):
        self.settings = context.model_config
        self.inputs, self.problem = (load_code(name, context.artifacts[name]) for name in ("inputs", "answers"))
        folder, load = Path(context.artifacts["model"]), _load_pytorch
        if self.settings.get("serves") == "onnx":
            folder, load = folder / "onnx", _load_onnx
        self.tokenizer = getattr(self.problem, "reader", _tokenizer)(folder)
        self.config, self.call = load(folder)
        if os.environ.get(SERVER):
            say_errors_in_a_sentence()

    def predict(self, context, model_input: pd.DataFrame, params=None) -> pd.DataFrame:
        try:
            return self._answer(self._columns(model_input))
        except BadInput:
            raise
        except Exception as error:
            # MLflow would send any other exception's stack trace to whoever asked.
            _log.exception("a request could not be answered")
            raise mlflow.MlflowException(
                f"the model failed on this input ({type(error).__name__}); its log says more", INTERNAL_ERROR
            ) from None

    def _answer(self, table: pd.DataFrame) -> pd.DataFrame:
        firsts = range(0, len(table), BATCH)
        return pd.concat(
            [
                pd.DataFrame(self.problem.answer(self, self._rows(table[first : first + BATCH], first)))
                for first in firsts
            ],
            ignore_index=True,
        )

    def encode(self, rows) -> dict[str, list]:
        """The model's inputs of rows of texts, a list of numbers a row."""
        return self.inputs.tokenize(self.tokenizer, self.config, list(zip(*rows)), self.settings["max_length"])

    def run(self, encoded) -> SimpleNamespace:
        """What the model puts out for inputs of unlike lengths: arrays by the names of transformers."""
        pad = getattr(self.tokenizer, "pad_token_id", 0)  # an image processor has none
        return SimpleNamespace(**self.call(self.inputs.pad(encoded, pad)))

    def _columns(self, table: pd.DataFrame) -> pd.DataFrame:
        """Those that are read."""
        columns = list(self.problem.COLUMNS)
        what = columns[0] if len(columns) == 1 else "text"
        if not columns and len(self.settings["text_columns"]) == 2:
            columns = ["text", "text_pair"]
        if len(columns) < 2:
            columns, known = list(table.columns[:1]), [what, *self.settings["text_columns"]]
            if isinstance(columns[0], str) and columns[0] not in known:
                raise BadInput(f"the first column is {columns[0]!r}; the {what} belongs there, named {known[-1]!r}")
        if table.empty or table[columns].isna().any(axis=None):
            raise BadInput(f"every row needs {what} in {columns}, and there must be at least one row")
        return table[columns]

    def _rows(self, table: pd.DataFrame, before: int) -> list[tuple]:
        """The cells of a batch, behind so many rows, as the problem reads them."""
        take = getattr(self.problem, "cell", _text)
        columns: list[list] = []
        for column in table.columns:
            columns.append([])
            for row, cell in enumerate(table[column], start=before + 1):
                try:
                    columns[-1].append(take(self.inputs, cell))
                except ValueError as error:
                    raise BadInput(f"row {row} of column {column!r} {error}") from None
        return list(zip(*columns, strict=True))


def say_errors_in_a_sentence():
    """Change what MLflow's server answers in this process: of a table that it cannot read, it would send a stack trace.

    It has no setting for that, and it repeats all that was asked. The log has the stack trace.
    """
    whole = mlflow.MlflowException.serialize_as_json

    def serialize_as_json(error):
        if trace := error.json_kwargs.pop("stack_trace", ""):
            _log.error("a request could not be read\n%s", trace)
        asked, _, said = error.message.partition("\nError: ")
        words = " ".join((said if asked.startswith("Failed to predict data") else error.message).split())
        error.message = words if len(words) <= LONGEST else f"{words[:LONGEST]} ..."
        return whole(error)

    mlflow.MlflowException.serialize_as_json = serialize_as_json  # type: ignore[method-assign]


def _text(inputs, cell):
    """A cell that holds a text."""
    if not isinstance(cell, str):
        raise ValueError(
            f"holds a {type(cell).__name__}, not a text; give one text a row, as a DataFrame, a Series or a list of "
            "texts"
        )
    return cell


def _tokenizer(folder):
    return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _load_pytorch(folder):
    """The configuration of a model, and the call that runs it: arrays in, arrays out, by name."""
    import torch

    model = model_class(folder).from_pretrained(folder, dtype=torch.float32).eval()

    def call(inputs):
        with torch.inference_mode():
            outputs = model(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items() if isinstance(value, torch.Tensor)}

    return model.config, call


def _load_onnx(folder):
    """As :func:`_load_pytorch`, of an exported model, by ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    outputs = [output.name for output in session.get_outputs()]

    def call(inputs):
        given = {name: inputs[name] if name in inputs else np.zeros_like(inputs["input_ids"]) for name in names}
        return dict(zip(outputs, session.run(outputs, given)))

    return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False), call


def model_class(folder):
    """The class of the model in a folder, by the folder's own code; without any, one of transformers.

    transformers would first copy that code into the user's home (``trust_remote_code``).
    """
    architecture = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    if not (Path(folder) / "modeling_fastprune.py").is_file():
        return getattr(transformers, architecture)
    place = str(Path(folder).resolve())
    name = f"fastprune_model_{hashlib.sha256(place.encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [place]
        sys.modules[name] = package
    kept, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        code = importlib.import_module(f"{name}.modeling_fastprune")
    finally:
        sys.dont_write_bytecode = kept
    return getattr(code, architecture)


def load_code(name, path):
    """Run a file of this very version, whatever else is importable by its name."""
    loader = SourceFileLoader(f"fastprune_{name}", str(path))
    module = ModuleType(loader.name)
    loader.exec_module(module)
    return module


mlflow.models.set_model(PrunedModel())
