"""int8 and float16 by ONNX Runtime's own tools, and the weights that int8 would hurt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx

from fastprune.errors import InputError

QUANTIZATIONS = ("int8", "fp16")

HURTS = 0.05
"""How far int8 may move the outputs on the sample, as a fraction of their own spread (root mean squares)."""

OF_PRUNING = 0.5
"""Or as a fraction of how far pruning has moved them, where that is more: as squares add up, 12% further in all."""

_MAPS = ("MatMul", "Gemm")
_TABLES = ("Gather",)


def quantize_int8(source: Path, target: Path, left: Collection[str] = (), *, bits: int = 8) -> None:
    """Write a model with weights of 8 bits: linear maps by output channel, embeddings by table.

    What goes into the maps is quantised as it comes, by the range that a batch has (dynamic quantisation): no sample is
    needed, and a row's answer depends a little on what else is in its batch.

    Parameters
    ----------
    left : collection of str
        Nodes that stay in float32.
    bits : {8, 7}
        That the weights take of their 8: see :func:`bits_that_hold`.
    """
    _quantize(source, target, bits, nodes_to_exclude=list(left))


def bits_that_hold(source: Path, folder: Path, run: Callable[[Path], np.ndarray]) -> int:
    """How many bits of the weights this processor multiplies rightly: 8, or 7 where sums of two products overflow.

    Processors with AVX2 or AVX-512 and without VNNI add two products of 8 bits in 16 bits, which end at 32,767. Where a
    model's values are large enough for that, weights of 7 bits move the outputs far less than those of 8; anywhere else
    they move them more.
    """
    exact, moved = run(source), {}
    for bits in (8, 7):
        tried = folder / "tried.onnx"
        _quantize(source, tried, bits)
        try:
            moved[bits] = float(np.sqrt(np.mean((run(tried) - exact) ** 2)))
        finally:
            tried.unlink()
    return 7 if moved[7] < moved[8] / 2 else 8


def weights_of(source: Path) -> list[str]:
    """The nodes with weights that can be quantised, in order."""
    graph = onnx.load(source).graph
    weights = {weight.name for weight in graph.initializer}
    nodes = [node for node in graph.node if node.op_type in (*_MAPS, *_TABLES) and weights & set(node.input)]
    return [node.name for node in nodes if "." in node.name]  # the others gather shapes


def weights_that_hurt(
    source: Path, folder: Path, run: Callable[[Path], np.ndarray], dense: np.ndarray | None = None, *, bits: int = 8
) -> list[str]:
    """The fewest weights that must stay in float32 for the outputs to move by no more than ``HURTS`` of their spread.

    Each weight is quantised alone. What several do adds up as squares do, so the worst are left out until the sum of
    the rest is within the bound. Where all together move the outputs by less, none is tried.

    Parameters
    ----------
    source : Path
        In float32.
    folder : Path
        For files in between.
    run : callable
        The outputs of a file on the sample.
    dense : ndarray, optional
        Those of the dense model it was pruned from; the outputs may move ``OF_PRUNING`` as far as they are from these.
    """
    exact = run(source)
    spread = float(np.sqrt(np.mean((exact - exact.mean(0)) ** 2))) or 1.0
    most = HURTS
    if dense is not None:
        most = max(most, OF_PRUNING * float(np.sqrt(np.mean((exact - dense) ** 2))) / spread)

    def moved(**chosen) -> float:
        tried = folder / "tried.onnx"
        _quantize(source, tried, bits, **chosen)
        try:
            return float(np.sqrt(np.mean((run(tried) - exact) ** 2))) / spread
        finally:
            tried.unlink()

    if moved() <= most:
        return []
    alone = {name: moved(nodes_to_quantize=[name]) ** 2 for name in weights_of(source)}
    rest, left = sum(alone.values()), []
    for name, square in sorted(alone.items(), key=lambda item: -item[1]):
        if rest <= most**2:
            break
        rest -= square
        left.append(name)
    return left


def _quantize(source: Path, target: Path, bits: int, **chosen) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            str(source),
            str(target),
            op_types_to_quantize=[*_MAPS, *_TABLES],
            per_channel=True,
            weight_type=QuantType.QInt8,
            reduce_range=bits == 7,
            extra_options={"MatMulConstBOnly": True},
            **chosen,
        )


def halve(source: Path, target: Path) -> None:
    """Write a model in float16, for GPUs; what goes in and out stays as it was.

    Raises
    ------
    InputError
        A weight is too large for float16.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(source)
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(weight)
            if values.size and np.abs(values[np.abs(values) < 1e37]).max(initial=0) > np.finfo(np.float16).max:
                raise InputError(f"{weight.name} holds values too large for float16; export without --quantize fp16")
    onnx.save(convert_float_to_float16(model, keep_io_types=True, max_finite_val=65504.0), target)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without ONNX Runtime's advice to run its shape inference first: nothing of it is used here."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(level)
