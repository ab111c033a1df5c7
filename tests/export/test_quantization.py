"""Which weights stay in float32, on graphs made by hand."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fastprune.errors import InputError
from fastprune.export.quantization import bits_that_hold, halve, quantize_int8, weights_of, weights_that_hurt


def chain(tmp_path, spike):
    """Two maps after each other; what goes into the second has an entry of ``spike``."""
    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal((16, 16)).astype("float32") for _ in range(2))
    shift = np.zeros(16, "float32")
    shift[3], second[3] = spike, 0
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"], "layer.first"),
        helper.make_node("Add", ["a", "shift"], ["b"], "shift"),
        helper.make_node("MatMul", ["b", "second"], ["y"], "layer.second"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 16]) for name in ("x", "y")]
    weights = [numpy_helper.from_array(*pair) for pair in ((first, "first"), (second, "second"), (shift, "shift"))]
    graph = helper.make_graph(nodes, "chain", values[:1], values[1:], weights)
    file = tmp_path / "chain.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)
    return file


def outputs(file):
    import onnxruntime

    x = np.random.default_rng(1).standard_normal((64, 16)).astype("float32")
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def test_only_the_weight_that_hurts_stays_in_float32(tmp_path):
    file = chain(tmp_path, spike=2000.0)
    assert weights_of(file) == ["layer.first", "layer.second"]
    left = weights_that_hurt(file, tmp_path, outputs, bits=7)
    assert left == ["layer.second"]
    quantize_int8(file, tmp_path / "int8.onnx", left, bits=7)
    kinds = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
    assert kinds.count("MatMulInteger") == 1 and kinds.count("MatMul") == 1
    exact, moved = outputs(file), outputs(tmp_path / "int8.onnx")
    assert 0 < np.sqrt(np.mean((moved - exact) ** 2)) < 0.05 * exact.std()


def test_where_int8_does_no_harm_everything_is_quantised(tmp_path):
    file = chain(tmp_path, spike=0.0)
    assert weights_that_hurt(file, tmp_path, outputs, bits=7) == []  # 7: right on every processor
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chain.onnx"]


@pytest.mark.parametrize("as_far, left", [(0.0, ["layer.second"]), (1.9, ["layer.second"]), (2.1, [])])
def test_a_pruned_model_may_be_moved_half_as_far_as_pruning_has(tmp_path, as_far, left):
    """``as_far``: how far the dense model's outputs are, in units of what int8 moves them."""
    file = chain(tmp_path, spike=2000.0)
    quantize_int8(file, tmp_path / "int8.onnx", bits=7)
    exact = outputs(file)
    moved = np.sqrt(np.mean((outputs(tmp_path / "int8.onnx") - exact) ** 2))
    assert weights_that_hurt(file, tmp_path, outputs, exact + as_far * moved, bits=7) == left


@pytest.mark.parametrize("overflows, bits", [(True, 7), (False, 8)])
def test_weights_take_7_bits_where_the_processor_overflows(tmp_path, overflows, bits):
    """Stands in for the processor: products of weights beyond 7 bits are wrong, or nothing is."""
    file = chain(tmp_path, spike=0.0)

    def run(tried):
        weights = [numpy_helper.to_array(one) for one in onnx.load(tried).graph.initializer]
        large = any(one.dtype == np.int8 and np.abs(one.astype(int)).max() > 64 for one in weights)
        return outputs_by_weights(tried) + (100.0 if overflows and large else 0.0)

    def outputs_by_weights(tried):
        graph = onnx.load(tried).graph
        found = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        if "first" in found:
            return found["first"].astype("float64")
        scale = found["first_scale"]
        return found["first_quantized"].astype("float64") * scale

    assert bits_that_hold(file, tmp_path, run) == bits
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chain.onnx"]
    for wanted, most in ((8, 127), (7, 64)):
        quantize_int8(file, tmp_path / f"{wanted}.onnx", bits=wanted)
        weights = [numpy_helper.to_array(one) for one in onnx.load(tmp_path / f"{wanted}.onnx").graph.initializer]
        largest = max(np.abs(one.astype(int)).max() for one in weights if one.dtype == np.int8 and one.ndim == 2)
        assert most * 0.9 < largest <= most


def test_a_weight_too_large_for_float16_is_refused(tmp_path):
    with pytest.raises(InputError, match="shift holds values too large for float16"):
        halve(chain(tmp_path, spike=1e6), tmp_path / "half.onnx")
