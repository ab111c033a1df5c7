"""A loss of accuracy is that of the model as it will be served: pruned and quantised."""

import functools
import json

import torch
from reviews import compress
from safetensors.torch import load_file
from test_one_method import one_call
from tiny_stages import run_stages
from torch import nn

from fastprune import compression, method
from fastprune.export.served import as_served
from fastprune.method import Served
from fastprune.search import accuracy_drop


class Contrary(nn.Module):
    """Answers the opposite of a classifier."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, **inputs):
        outputs = self.model(**inputs)
        outputs.logits = -outputs.logits
        return outputs


def test_the_served_form_is_held_within_the_loss_whatever_the_model_itself_does(material, monkeypatch):
    sizes = {}

    def of(model):
        sizes[len(sizes)] = model.num_parameters()
        return Contrary(model) if model.num_parameters() < largest else model

    largest = compress(material, keep_ratio=0.8, num_samples=128).model.num_parameters()
    monkeypatch.setattr(compression, "as_served", lambda *_: Served("contrary", of))
    curve = compress(material, max_accuracy_drop=0.05, num_samples=128).metrics["curve"]
    monkeypatch.undo()
    alone = compress(material, max_accuracy_drop=0.05, num_samples=128).metrics["curve"]
    assert (curve["form"], alone["form"]) == ("contrary", "")
    assert alone["keep_ratio"] < 0.7 < curve["keep_ratio"] and len(sizes) == len(curve["points"])
    assert all((metric > 0.5) == (size >= largest) for (_, metric), size in zip(curve["points"], sizes.values()))


def test_pruned_and_int8_is_judged_at_every_try_and_the_stages_agree(source, tmp_path, monkeypatch):
    """On the same rows what is handed over has just the metric that was tried."""
    coarse = functools.partial(accuracy_drop.smallest_keep_ratio, resolution=0.6)
    monkeypatch.setattr(method, "smallest_keep_ratio", coarse)
    budget = {"max_accuracy_drop": 0.9, "tuning": "none"}
    form = {"export": "onnx", "quantize": "int8", "output_dir": tmp_path / "out"}
    called = one_call(source, **budget, **form, validation=source["eval_file"])
    curve = called.metrics["curve"]
    assert curve["form"] == "onnx int8" and len(curve["points"]) == 1
    assert dict(curve["points"])[curve["keep_ratio"]] == called.metrics["exported"]["metric"]

    rows = {"set_apart": True, "validation_file": source["eval_file"]}
    made = run_stages(tmp_path / "made", **source, **budget, **rows, format="onnx", quantize="int8", device="cpu")
    metrics = json.loads((made["report"] / "metrics.json").read_text())
    assert metrics["curve"] == json.loads(json.dumps(curve))
    assert "each try as it will be served (onnx int8)" in (made["report"] / "report.html").read_text()
    state = called.model.state_dict()
    assert all(torch.equal(state[name], one) for name, one in load_file(made["pruned"] / "model.safetensors").items())


def test_what_answers_as_the_model_itself_is_not_exported_at_every_try():
    assert as_served("onnx", "", None, 0, None) is None
    assert as_served("openvino", "fp16", None, 0, None).name == "openvino fp16"
