"""A model as an ONNX file, by torch's own exporter; batch and length stay open."""

from __future__ import annotations

import ast
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import onnx
import torch
import transformers
from torch import Tensor, nn

from fastprune.errors import InputError
from fastprune.export.inputs import inputs_for
from fastprune.model.architectures import reads_mean
from fastprune.model.passes import first_token_alone

OPSET = 18
"""What is written by default: the oldest that torch's exporter writes, and so the one that most runtimes read."""

NEWEST_OPSET = 23

LARGEST = 2**31 - 2**20
"""Bytes of weights in one ONNX file: its format ends at 2 GiB, and the graph is in it too."""

ATTENTION = "eager"
"""Of the exported graph: ONNX Runtime is a tenth faster on it than on what sdpa becomes."""

_CLASSIFIERS = ("ForSequenceClassification", "ForImageClassification")


def write_onnx(model: transformers.PreTrainedModel, file: Path, opset: int = OPSET) -> None:
    """Export a dense or a pruned model.

    Inputs are those of :func:`fastprune.export.inputs.inputs_for`. Outputs have the names of transformers. A
    classifier's last layer is computed for the first token alone, which is all that is read of it.

    Raises
    ------
    InputError
        The opset cannot be written, or the model has more than 2 GB.
    """
    check_opset(opset)
    check_model(model)
    inputs = inputs_for(model.config)
    example = inputs.example()
    example = {name: example[name] for name in inputs.names}
    with torch.no_grad():
        outputs = [name for name, value in model(**example).items() if isinstance(value, Tensor)]
    implementation = model.config._attn_implementation
    model.set_attn_implementation(ATTENTION)
    classifier = type(model).__name__.endswith(_CLASSIFIERS) and not reads_mean(model)
    try:
        with first_token_alone(model) if classifier else nullcontext(), _quiet():
            torch.onnx.export(
                _Positional(model, inputs.names, outputs).eval(),
                tuple(example.values()),
                str(file),
                dynamo=True,
                external_data=False,
                verbose=False,
                opset_version=opset,
                input_names=list(inputs.names),
                output_names=outputs,
                dynamic_shapes={"values": (inputs.axes,) * len(inputs.names)},
            )
    finally:
        model.set_attn_implementation(implementation)
    written = onnx.load(file)
    _name_weights(written)
    _sum_before_norms(written)
    _forget(written)
    onnx.save(written, file)


def check_opset(opset: int) -> None:
    """Raise InputError for an opset that cannot be written."""
    if not OPSET <= opset <= NEWEST_OPSET:
        raise InputError(
            f"opset {opset} cannot be written: torch's exporter writes {OPSET} and newer, and ONNX Runtime is tried up "
            f"to {NEWEST_OPSET}; use one between them"
        )


def check_model(model: nn.Module) -> None:
    """Raise InputError for a model that cannot be written."""
    size = 4 * sum(weight.numel() for weight in model.parameters())
    if size > LARGEST:
        raise InputError(
            f"the model has {size / 1e9:.1f} GB of weights in float32, and an ONNX file holds at most 2 GB; keep less "
            "of it, or trim its vocabulary (`fastprune export --trim-vocabulary`)"
        )


class _Positional(nn.Module):
    """Takes the inputs by place and gives the named outputs as a tuple, which is what exporters know."""

    def __init__(self, model: nn.Module, inputs: Sequence[str], outputs: Sequence[str]):
        super().__init__()
        self.model, self.inputs, self.outputs = model, inputs, outputs

    def forward(self, *values):
        outputs = self.model(**dict(zip(self.inputs, values, strict=True)))
        return tuple(outputs[name] for name in self.outputs)


def _name_weights(written: onnx.ModelProto) -> None:
    """Call every node that reads a weight by the module that it comes from, such as ``bert.pooler.dense``."""
    weights = {weight.name for weight in written.graph.initializer}
    for node in written.graph.node:
        if node.op_type in ("MatMul", "Gemm", "Gather", "Conv") and weights & set(node.input):
            scopes = next((entry.value for entry in node.metadata_props if entry.key.endswith("name_scopes")), "")
            modules = [scope for scope in ast.literal_eval(scopes or "[]")[1:-1] if "." in scope]
            if modules:
                node.name = modules[-1].removeprefix("model.")


def _sum_before_norms(written: onnx.ModelProto) -> None:
    """Write the additions before the norms as Sum, which is the same.

    ONNX Runtime fuses an Add and a LayerNormalization into a kernel that takes several times as long as the two on a
    CPU (1.32: a fifth to two fifths of an int8 model's time), and leaves a Sum alone.
    """
    makers = {output: node for node in written.graph.node for output in node.output}
    for node in written.graph.node:
        if node.op_type == "LayerNormalization" and node.input[0] in makers:
            maker = makers[node.input[0]]
            if maker.op_type == "Add":
                maker.op_type = "Sum"


def _forget(written: onnx.ModelProto) -> None:
    """Drop what the exporter notes of each node, the places in source files among it: it is as long as the graph."""
    graph = written.graph
    for noted in (written, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        noted.ClearField("metadata_props")
        noted.ClearField("doc_string")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's advice."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
