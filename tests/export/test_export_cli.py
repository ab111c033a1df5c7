"""`fastprune export` and `bench` from saved folders: what lies there afterwards, and what is refused."""

import json
import shutil

import pytest
import transformers
from click.testing import CliRunner
from tiny_models import random_masks

from fastprune.cli.main import main
from fastprune.export.rows import task_of
from fastprune.model import checkpoint
from fastprune.model.architectures import describe
from fastprune.model.surgery import slice_model

MANIFEST = {"task": "reviews", "problem": "classification", "text_columns": ["text"], "max_length": 32}


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folders(material, tmp_path_factory):
    """A pruned folder, and its int8 export with the answer of the command."""
    folder = tmp_path_factory.mktemp("export")
    encoder = describe(checkpoint.load_dense(material / "model"))
    masks = random_masks(encoder)
    masks.heads[1] = 0
    checkpoint.save(
        folder / "pruned", slice_model(encoder, masks), checkpoint.load_tokenizer(material / "model"), MANIFEST
    )
    done = call(
        *("export", folder / "pruned", "--quantize", "int8", "--output-dir", folder / "int8"),
        *("--eval-file", material / "eval.tsv", "--train-file", material / "train.tsv", "--label-column", "label"),
        "--trim-vocabulary",
    )
    assert done.exit_code == 0, done.output
    return folder, done.output


def test_an_exported_folder_says_what_was_checked(folders):
    folder, said = folders
    files = {path.name for path in (folder / "int8").iterdir()}
    assert files == {"model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json", "export.json"}
    record = json.loads((folder / "int8" / "export.json").read_text())
    assert (record["format"], record["quantize"], record["opset"]) == ("onnx", "int8", 18)
    assert record["source"] == str(folder / "pruned")
    whole = checkpoint.load(folder / "pruned").config.vocab_size
    assert record["vocabulary"] == {"kept": len(checkpoint.load_tokenizer(folder / "int8")), "of": whole}
    assert 10 < record["vocabulary"]["kept"] < whole
    assert record["megabytes"]["source"] == (folder / "pruned" / "model.safetensors").stat().st_size / 1e6
    assert record["megabytes"]["exported"] == (folder / "int8" / "model.onnx").stat().st_size / 1e6 < 0.15
    values = {name: one["value"] for name, one in record["metric"].items()}
    assert abs(values["pytorch"] - values["exported"]) <= 0.05 and record["agreement"] >= 0.9
    assert record["metric"]["exported"]["rows"] == 200 and 0 <= record["metric"]["exported"]["standard_error"] < 0.04
    assert all(record["latency"]["batch_8"][name]["p50_ms"] > 0 for name in ("pytorch", "exported"))
    assert "of 200 rows" in said and "saved in" in said
    config = transformers.AutoConfig.from_pretrained(folder / "int8")
    assert config.kept_heads[1] == 0 and not hasattr(config, "auto_map")


def test_bench_holds_all_kinds_against_the_first(material, folders, tmp_path):
    folder, _ = folders
    done = call(
        *("bench", material / "model", folder / "pruned", folder / "int8", "--eval-file", material / "eval.tsv"),
        *(
            "--label-column",
            "label",
            "--batches",
            3,
            "--rounds",
            1,
            "--cpu-time",
            "--json",
            "--html",
            tmp_path / "pages" / "bench.html",
        ),
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])["candidates"]
    assert [one["what"] for one in told] == ["PyTorch", "PyTorch", "ONNX Runtime int8"]
    assert told[0]["agreement"] == 1 and all(0.3 < one["agreement"] <= 1 for one in told)
    assert all(set(one["batch"]) == {"1", "8"} for one in told) and told[0]["batch"]["8"]["speedup"] == 1
    assert all(one["batch"]["1"]["p50_ms"] <= one["batch"]["1"]["p95_ms"] for one in told)
    page = (tmp_path / "pages" / "bench.html").read_text()
    assert "ONNX Runtime int8" in page and page.count("<tr>") == 4 and "<svg" in page


def test_a_model_of_another_kind_of_folder_is_refused(material, folders, tmp_path):
    folder, _ = folders
    damaged = shutil.copytree(folder / "pruned", tmp_path / "damaged")
    content = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty").mkdir()
    for source, words in (
        (tmp_path / "missing", "there is no such folder"),
        ("someone/something", "there is no such folder; give one with a model (of the hub or of s3:// fetch it first)"),
        (tmp_path / "empty", "cannot be read as a model"),
        (damaged, "truncated or damaged"),
        (folder / "int8", "cannot be read as a model"),
    ):
        done = call("export", source, "--quantize", "int8", "--output-dir", tmp_path / "out")
        assert done.exit_code == 2 and words in done.output, done.output
    done = call("export", folder / "pruned", "--opset", 9, "--output-dir", tmp_path / "out")
    assert done.exit_code == 2 and "opset 9 cannot be written" in done.output
    done = call(
        *("bench", folder / "pruned", "--eval-file", material / "eval.tsv", "-Y", "label"),
        *("--threads", 2, "--cpu-time"),
    )
    assert done.exit_code == 2 and "there are 2: use one" in done.output
    done = call("bench", folder / "pruned", folder / "pruned", "--eval-file", material / "eval.tsv", "-Y", "label")
    assert done.exit_code == 2 and "each once" in done.output
    again = folder / "int8" / ".." / "pruned"
    done = call("bench", folder / "pruned", again, "--eval-file", material / "eval.tsv", "-Y", "label")
    assert done.exit_code == 2 and "each once" in done.output
    assert not (tmp_path / "out").exists()


def test_a_damaged_export_is_refused(material, folders, tmp_path):
    """One byte of the weights is another; there is no configuration."""
    for name, words in (
        ("model.onnx", "is not the file that was exported"),
        ("config.json", "there is no config.json"),
    ):
        folder = shutil.copytree(folders[0] / "int8", tmp_path / name)
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).unlink()
        if name == "model.onnx":
            (folder / name).write_bytes(content)
        done = call("bench", folder, "--eval-file", material / "eval.tsv", "--label-column", "label")
        assert done.exit_code == 2 and words in done.output, done.output


def test_rows_to_quantise_by_need_no_labels(material, folders, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("fastprune.export.exporting.export", lambda *given, sample, **more: seen.append(sample) or {})
    monkeypatch.setattr("fastprune.cli.export.summary", str)
    (tmp_path / "texts.tsv").write_text("text\nthe film was good\ndull\n")
    for model, more in ((folders[0] / "pruned", ()), (material / "model", ("-A", "text"))):
        given = ("--quantize", "int8", "--train-file", tmp_path / "texts.tsv", *more)
        done = call("export", model, *given, "--output-dir", tmp_path / "out")
        assert done.exit_code == 0 and len(seen.pop()) == 2, done.output


def test_a_target_that_is_not_installed_is_named(folders, tmp_path, monkeypatch):
    folder, _ = folders
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    done = call("export", folder / "pruned", "--format", "openvino", "--output-dir", tmp_path / "out")
    assert done.exit_code == 2 and "pip install 'fastprune[openvino]'" in done.output


def test_the_rows_of_an_exported_folder_are_those_of_the_pruned_one(folders):
    folder, _ = folders
    assert task_of(folder / "int8", (), "label") == task_of(folder / "pruned", (), "label")
