"""`compress --export`: the exported model lies in the folder, and is a candidate of its own."""

import json

import pytest
from click.testing import CliRunner

from fastprune.cli.main import main
from fastprune.errors import InputError
from fastprune.export import exporting
from fastprune.export.runtimes import load_candidate
from fastprune.model import checkpoint
from fastprune.problem import Problem
from fastprune.problems.classification import Classification


def compress(material, *arguments):
    data = ("--train-file", material / "train.tsv", "--eval-file", material / "eval.tsv", "-A", "text", "-Y", "label")
    given = ("compress", material / "model", *data, "--keep-ratio", "0.5", "--num-samples", "64", *arguments)
    return CliRunner().invoke(main, [str(one) for one in given])


def test_the_exported_model_is_a_candidate_of_its_own(material, tmp_path):
    done = compress(material, "--export", "onnx", "--quantize", "int8", "--output-dir", tmp_path / "out")
    assert done.exit_code == 0, done.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    exported = metrics["exported"]
    assert (exported["format"], exported["quantize"]) == ("onnx", "int8")
    assert abs(exported["metric"] - metrics["pruned"]) < 0.1 and 0.8 < exported["agreement"] <= 1
    assert exported["megabytes"] == (tmp_path / "out" / "onnx" / "model.onnx").stat().st_size / 1e6
    assert set(exported["latency_ms"]["batch_1"]) == {"dense", "exported"} and metrics["seconds"]["export"] > 0
    assert f"onnx        int8: accuracy {exported['metric']:.4f}" in done.output
    candidate = load_candidate(tmp_path / "out" / "onnx")
    record = json.loads((tmp_path / "out" / "onnx" / "export.json").read_text())
    assert candidate.what == "ONNX Runtime int8"
    assert record["weights_sha256"] == checkpoint.digest(checkpoint.load(tmp_path / "out"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--quantize", "int8", "--output-dir", "out"), "give export too"),
        (("--export", "onnx", "--dry-run"), "export is written within output_dir"),
    ],
)
def test_an_export_that_could_not_be_written_is_refused_first(material, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    done = compress(material, *arguments)
    assert done.exit_code == 2 and words in done.output and not list(tmp_path.iterdir())


def test_without_labels_the_exported_model_is_held_against_the_dense_one(material, tmp_path):
    data = ("--train-file", material / "train.tsv", "-A", "text", "--metric", "agreement", "--num-samples", "64")
    given = ("compress", material / "model", *data, "--keep-ratio", "0.3", "--export", "onnx")
    done = CliRunner().invoke(main, [str(one) for one in (*given, "--output-dir", tmp_path / "out")])
    assert done.exit_code == 0, done.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["exported"]["metric"] == metrics["exported"]["agreement"] == metrics["pruned"]


def test_a_problem_that_compares_no_two_models_is_exported_all_the_same(material, tmp_path, monkeypatch):
    monkeypatch.setattr(Classification, "compare", Problem.compare)
    done = compress(material, "--export", "onnx", "--output-dir", tmp_path / "out")
    assert done.exit_code == 0 and "agreement" not in done.output, done.output
    exported = json.loads((tmp_path / "out" / "metrics.json").read_text())["exported"]
    assert exported["agreement"] is None and exported["metric"] > 0


@pytest.mark.parametrize("kind", [InputError, RuntimeError])
def test_an_export_that_fails_does_not_cost_the_pruned_model(material, tmp_path, monkeypatch, kind):
    def fail(model, tokenizer, made, **_):
        (made / "model.onnx").write_bytes(b"half of it")
        raise kind("the exporter gave up")

    monkeypatch.setattr(exporting, "export_model", fail)
    done = compress(material, "--export", "onnx", "--output-dir", tmp_path / "out")
    told = done.output if kind is InputError else " ".join([str(done.exception), *done.exception.__notes__])
    assert done.exit_code == (2 if kind is InputError else 1)
    assert "the exporter gave up" in told and f"the pruned model is in {tmp_path / 'out'} without its export" in told
    assert not (tmp_path / "out" / "onnx").exists() and [path.name for path in tmp_path.iterdir()] == ["out"]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert "exported" not in metrics and metrics["pruned"] > 0
    assert checkpoint.load(tmp_path / "out").config.architectures
