"""A model is saved in the precision of its source, and evaluated as it is saved."""

import copy
import json

import pytest
import torch
from reviews import compress
from safetensors.torch import load_file
from tiny_stages import run_stages

import fastprune
from fastprune.model import checkpoint
from fastprune.model.precision import note_precision, precision_of, round_as_saved, stored_precision


@pytest.fixture
def halves(material, tmp_path):
    def make(dtype):
        folder = tmp_path / str(dtype)
        model = checkpoint.load_dense(material / "model")
        del model.config.source_dtype
        copy.deepcopy(model).to(dtype).save_pretrained(folder / "model")
        checkpoint.load_tokenizer(material / "model").save_pretrained(folder / "model")
        for name in ("train.tsv", "eval.tsv"):
            (folder / name).write_bytes((material / name).read_bytes())
        return folder

    return make


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_saved_in_the_precision_of_the_source(halves, tmp_path, dtype):
    folder = halves(dtype)
    assert stored_precision(folder / "model") == dtype
    result = compress(folder, output_dir=tmp_path / "out", num_samples=60)
    assert result.model.dtype == torch.float32
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {dtype}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == str(dtype).removeprefix("torch.") and "source_dtype" not in config
    before, after = (
        place.stat().st_size
        for place in (folder / "model" / "model.safetensors", tmp_path / "out" / "model.safetensors")
    )
    assert after < before
    loaded = fastprune.load(tmp_path / "out")
    assert loaded.dtype == torch.float32
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in result.model.state_dict().items())


def test_the_pipeline_freezes_in_the_precision_of_the_source(source, tmp_path):
    model = checkpoint.load_dense(source["source"])
    model.half().save_pretrained(tmp_path / "model")
    checkpoint.load_tokenizer(source["source"]).save_pretrained(tmp_path / "model")
    made = run_stages(tmp_path / "stages", **source | {"source": str(tmp_path / "model")}, keep_ratio=0.5)
    for name in ("model", "pruned"):
        assert stored_precision(made[name]) == torch.float16
    size = json.loads((made["report"] / "metrics.json").read_text())["megabytes"]
    assert size["pruned"] < size["dense"]
    assert size["dense"] == (tmp_path / "model" / "model.safetensors").stat().st_size / 1e6


def test_a_weight_that_the_precision_cannot_hold(tiny_bert):
    model = tiny_bert()
    note_precision(model, torch.float16)
    with torch.no_grad():
        model.classifier.weight[0, 0] = 1e6
    with pytest.warns(UserWarning, match="too large for torch.float16"):
        round_as_saved(model)
    assert precision_of(model) == torch.float32 and model.classifier.weight[0, 0] == 1e6


def test_mixed_files_are_float32(tmp_path, tiny_bert):
    model = tiny_bert()
    model.classifier.half()
    model.save_pretrained(tmp_path)
    assert stored_precision(tmp_path) == torch.float32 == stored_precision(tmp_path / "nowhere")
