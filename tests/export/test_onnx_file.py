"""Every architecture as ONNX, in float32, int8 and OpenVINO: the logits are the model's own, also of empty blocks."""

import numpy as np
import onnx
import pytest
import torch
from tiny_models import build, random_batches

from fastprune.errors import InputError
from fastprune.export import onnx_file
from fastprune.export.inputs import inputs_for
from fastprune.export.measure import difference, run
from fastprune.export.onnx_file import write_onnx
from fastprune.export.quantization import halve, quantize_int8
from fastprune.export.runtimes import load_runtime
from fastprune.model.architectures import describe
from fastprune.model.masks import Masks
from fastprune.model.surgery import slice_model

LENGTHS = [[7, 3], [1], [12, 5, 2], [38]]


def uneven(encoder) -> Masks:
    """One head and odd filters; no heads; no filters."""
    heads, filters = torch.zeros(3, 4), torch.zeros(3, 24)
    heads[0, 2], heads[2, :3] = 1, 1
    filters[0, :5], filters[1, 3:10] = 1, 1
    return Masks(heads, filters)


def batches(model, problem="classification"):
    real = random_batches(model, problem, LENGTHS, seed=3)
    if model.config.model_type in ("bert", "electra"):
        real = [{**batch, "token_type_ids": torch.zeros_like(batch["input_ids"])} for batch in real]
    return [*real, *inputs_for(model.config).probes()]


def spread(model, given) -> float:
    return max(float(value.std()) for batch in given for value in run(model, batch).values())


@pytest.mark.parametrize("family", ["distilbert", "mpnet", "deberta-v2", "deit"])  # the others have BERT's layers
def test_a_family_as_onnx(family, tmp_path):
    encoder = describe(build(family))
    pruned = slice_model(encoder, uneven(encoder))
    file, int8 = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    write_onnx(pruned, file)
    quantize_int8(file, int8, bits=7)  # right on every processor
    given = batches(pruned)
    assert difference(pruned, load_runtime(file, pruned.config), given) < 1e-5
    assert difference(pruned, load_runtime(int8, pruned.config), given) < 0.25 * spread(pruned, given)


def test_a_classifier_of_the_mean_reads_every_token(tmp_path):
    model = build("modernbert, biases")
    write_onnx(model, tmp_path / "model.onnx")
    given = batches(model)
    assert difference(model, load_runtime(tmp_path / "model.onnx", model.config), given) < 1e-5


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_blocks_that_keep_nothing_lose_no_more_by_int8_than_the_dense_model_does(family, tmp_path):
    """The last layer keeps neither heads nor filters; float16 and OpenVINO read the same file."""
    import openvino

    model = build(family)
    encoder, masks = describe(model), uneven(describe(model))
    masks.heads[2] = 0
    pruned, lost = slice_model(encoder, masks), {}
    for name, one in (("dense", model), ("pruned", pruned)):
        file, int8 = tmp_path / f"{name}.onnx", tmp_path / f"{name}.int8.onnx"
        write_onnx(one, file)
        quantize_int8(file, int8, bits=7)  # right on every processor
        given = batches(one)
        assert difference(one, load_runtime(file, one.config), given) < 1e-5
        lost[name] = difference(one, load_runtime(int8, one.config), given)
    assert 0 < lost["pruned"] < 2 * lost["dense"] < 0.5
    halve(tmp_path / "pruned.onnx", tmp_path / "fp16.onnx")
    assert 0 < difference(pruned, load_runtime(tmp_path / "fp16.onnx", pruned.config), given) < 0.02
    for source in ("pruned.onnx", "pruned.int8.onnx"):
        openvino.save_model(openvino.convert_model(tmp_path / source), tmp_path / "model.xml", compress_to_fp16=False)
        bound = 1e-4 if source == "pruned.onnx" else 2 * lost["dense"]
        assert difference(pruned, load_runtime(tmp_path / "model.xml", pruned.config), given) < bound


def test_the_file_says_what_it_reads_and_names_its_weights(tmp_path):
    """Question answering, where the last layer is read whole."""
    model = build("bert", "question-answering", num_layers=1)
    write_onnx(model, tmp_path / "model.onnx", 20)
    written = onnx.load(tmp_path / "model.onnx")
    assert [opset.version for opset in written.opset_import if not opset.domain] == [20]
    shapes = [[axis.dim_param for axis in value.type.tensor_type.shape.dim] for value in written.graph.input]
    assert [value.name for value in written.graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
    assert shapes == [["batch", "length"]] * 3
    assert [value.name for value in written.graph.output] == ["start_logits", "end_logits"]
    names = {node.name for node in written.graph.node}
    assert {"bert.embeddings.word_embeddings", "bert.encoder.layer.0.attention.self.key", "qa_outputs"} <= names
    assert model.config._attn_implementation == "sdpa"
    runtime = load_runtime(tmp_path / "model.onnx", model.config)
    assert difference(model, runtime, batches(model, "question-answering")) < 1e-5


@pytest.mark.parametrize("opset", [11, 99])
def test_an_opset_that_cannot_be_written_is_refused(opset, tmp_path):
    with pytest.raises(InputError, match=rf"opset {opset} cannot be written: .* use one between them"):
        write_onnx(build(num_layers=1), tmp_path / "model.onnx", opset)
    assert not list(tmp_path.iterdir())


def test_a_model_that_no_onnx_file_holds_is_refused(tmp_path, monkeypatch):
    """More than 2 GB: here more than the bytes of a tiny model's weights less one."""
    model = build(num_layers=1)
    monkeypatch.setattr(onnx_file, "LARGEST", 4 * model.num_parameters())
    onnx_file.check_model(model)
    monkeypatch.setattr(onnx_file, "LARGEST", 4 * model.num_parameters() - 1)
    with pytest.raises(InputError, match="an ONNX file holds at most 2 GB; keep less"):
        write_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_batch_that_cannot_be_run_is_refused(tmp_path):
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Cast", ["input_ids"], ["logits"], to=1)],
        "cast",
        [onnx.helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["batch", "length"])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", "length"])],
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "model.onnx")
    runtime = load_runtime(tmp_path / "model.onnx", build(num_layers=1).config)
    assert np.array_equal(runtime(input_ids=torch.ones(2, 40, dtype=torch.int64))["logits"], np.ones((2, 40)))
    for shape, words in (((2, 0), "2 rows of 0 tokens"), ((0, 5), "0 rows"), ((1, 41), "has positions for 40")):
        with pytest.raises(InputError, match=words):
            runtime(input_ids=torch.ones(shape, dtype=torch.int64))


def test_a_damaged_file_is_refused(tmp_path):
    for name in ("model.onnx", "model.xml"):
        (tmp_path / name).write_bytes(b"no model")
        with pytest.raises(InputError, match=f"{name}: cannot be loaded .*; export the model again"):
            load_runtime(tmp_path / name, build(num_layers=1).config)
