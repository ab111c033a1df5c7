"""``fastprune compress`` as a command, and what it refuses: exit status 2, a message that names it, nothing written."""

import json
import re
import subprocess
import sys

import pytest
import torch
from reviews import TASK, compress, files_under, run, table_arguments
from tiny_models import build, unsupported

import fastprune
from fastprune.errors import InputError
from fastprune.model import checkpoint
from fastprune.model.architectures import describe
from fastprune.model.masks import Masks
from fastprune.model.surgery import slice_model

NO_TABLE = dict.fromkeys(("train-file", "eval-file", "text-column", "label-column"))


def test_command(material, tmp_path):
    out = tmp_path / "new" / "out"
    result = run(material / "model", *table_arguments(material, **{"keep-ratio": 0.5}), "--output-dir", out)
    assert result.exit_code == 0, result.output
    metrics = json.loads((out / "metrics.json").read_text())
    want = compress(material, num_samples=100)
    assert {name: metrics[name] for name in ("dense", "pruned", "macs_kept", "params_kept", "heads", "filters")} == {
        name: want.metrics[name] for name in ("dense", "pruned", "macs_kept", "params_kept", "heads", "filters")
    }
    assert checkpoint.digest(fastprune.load(out)) == checkpoint.digest(want.model)
    assert re.search(r"accuracy +dense [01]\.\d{4} \+- 0\.\d{4} +pruned [01]\.\d{4} \+- 0\.\d{4}\n", result.output)
    assert str(out) in result.output and [path.name for path in out.parent.iterdir()] == ["out"]


def test_dry_run_writes_nothing(material, tmp_path):
    before = files_under(material)
    result = run(material / "model", *table_arguments(material), "--dry-run", "--output-dir", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert not list(tmp_path.iterdir()) and files_under(material) == before
    assert re.search(r"heads +\[\d, \d, \d\] of 4", result.output) and "MACs kept" in result.output
    assert "pruned" not in result.output.replace("params", "") and "latency" not in result.output


def test_help_and_version_in_a_process_of_their_own(tmp_path):
    for arguments, wanted in ((["compress", "--help"], "--keep-ratio"), (["--version"], fastprune.__version__)):
        result = subprocess.run(
            [sys.executable, "-m", "fastprune", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
        )
        assert result.returncode == 0 and wanted in result.stdout


# Bad input


def changed_table(path, change):
    lines = path.read_text().splitlines()
    path.write_text("\n".join(change(lines)) + "\n")


@pytest.fixture
def work(material, tmp_path):
    """Copies that a test may damage."""
    for name in ("train.tsv", "eval.tsv"):
        (tmp_path / name).write_bytes((material / name).read_bytes())
    for name in ("model", "untrained"):
        (tmp_path / name).mkdir()
        for file in (material / name).iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    return tmp_path


def refused(work, *named, model="model", extra=(), output_dir="out", **options):
    """The command must end with status 2, a message that names all of ``named``, and no file written."""
    before = files_under(work)
    result = run(work / model, *table_arguments(work, **options), "--output-dir", work / output_dir, *extra)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output and "Error: " in result.output
    message = result.output.split("Error: ", 1)[1]
    for part in named:
        assert part in message
    assert files_under(work) == before


@pytest.mark.parametrize("which", ["train", "eval"])
class TestBadData:
    def test_no_labels(self, work, which):
        changed_table(work / f"{which}.tsv", lambda lines: [line.split("\t")[0] for line in lines])
        refused(work, f"{which}.tsv", "no column 'label'", "['text']")

    def test_empty_labels(self, work, which):
        changed_table(work / f"{which}.tsv", lambda lines: [*lines[:3], lines[3].split("\t")[0] + "\t", *lines[4:]])
        refused(work, f"{which}.tsv", "row 3 has no label in column 'label'")

    @pytest.mark.parametrize("label", ["2", "-1", "fresh", "0.5"])
    def test_a_label_out_of_range(self, work, which, label):
        changed_table(work / f"{which}.tsv", lambda lines: [*lines, f"good film\t{label}"])
        refused(work, f"{which}.tsv", "row ", f"'{label}'", "0 to 1")

    @pytest.mark.parametrize("option", ["text-column", "label-column"])
    def test_wrong_column_name(self, work, which, option):
        refused(work, "train.tsv", "no column 'sentence'", "['text', 'label']", **{option: "sentence"})

    def test_an_empty_file(self, work, which):
        (work / f"{which}.tsv").write_text("")
        refused(work, f"{which}.tsv", "empty")

    def test_a_header_alone(self, work, which):
        (work / f"{which}.tsv").write_text("text\tlabel\n")
        refused(work, f"{which}.tsv", "no rows")

    def test_no_such_file(self, work, which):
        refused(work, "nowhere.tsv", "no such file", **{f"{which}-file": work / "nowhere.tsv"})

    def test_no_file_given(self, work, which):
        refused(work, "--train-file", "--eval-file", **{f"{which}-file": None})


@pytest.mark.parametrize("keep_ratio", ["0", "1", "1.5", "60", "-0.2", "nan"])
def test_a_budget_out_of_range(work, keep_ratio):
    refused(work, "keep_ratio", "between 0 and 1", f"got {float(keep_ratio)}", **{"keep-ratio": keep_ratio})


def test_a_budget_too_small_to_keep_anything(work):
    refused(work, "keep_ratio 1e-05 keeps nothing at all", "raise keep_ratio", **{"keep-ratio": 1e-5})


def test_a_budget_that_is_no_number(work):
    refused(work, "--keep-ratio", "'half'", **{"keep-ratio": "half"})


def test_a_model_that_was_not_fine_tuned(work):
    refused(work, "accuracy", "not fine-tuned", model="untrained")
    result = run(work / "untrained", *table_arguments(work), "--output-dir", work / "out", "--allow-untuned")
    assert result.exit_code == 0 and (work / "out" / "metrics.json").exists()


def test_nan_in_a_weight(work):
    model = checkpoint.load_dense(work / "model")
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight[0, 0] = float("nan")
    model.save_pretrained(work / "model")
    refused(work, "bert.encoder.layer.1.output.dense.weight", "[32, 64]", "NaN")
    with pytest.raises(InputError, match="layer.1.output.dense.weight"):
        fastprune.compress(model, dataset=work / "train.tsv", evaluation=work / "eval.tsv", task=TASK, keep_ratio=0.5)


def test_an_output_folder_that_exists(work):
    (work / "out").mkdir()
    (work / "out" / "mine.txt").write_text("mine")
    refused(work, str(work / "out"), "exists")
    refused(work, str(work / "out"), "exists", extra=["--dry-run"])


def test_truncated_weights(work):
    file = work / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    refused(work, str(work / "model"), "truncated")


def test_no_such_model(work):
    refused(work, "nowhere", model="nowhere")


def test_no_tokenizer(work):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (work / "model" / name).unlink()
    refused(work, str(work / "model"), "tokenizer")


def test_an_unsupported_architecture(work):
    unsupported().save_pretrained(work / "albert")
    refused(work, "'albert' cannot be pruned", "bert, roberta", model="albert")


def test_a_model_that_is_pruned_already(work):
    encoder = describe(checkpoint.load_dense(work / "model"))
    model = slice_model(encoder, Masks.ones(encoder))
    checkpoint.save(work / "pruned", model, checkpoint.load_tokenizer(work / "model"), {})
    refused(work, "already pruned", "manifest.json", model="pruned")


def test_a_tokenizer_of_another_model(work):
    build().save_pretrained(work / "small")
    for file in (work / "model").glob("tokenizer*"):
        (work / "small" / file.name).write_bytes(file.read_bytes())
    refused(work, "train.tsv", "beyond the model's 50", model="small")


@pytest.mark.parametrize(
    "options, named",
    [
        ({"text-column": None}, "--text-column"),
        ({"label-column": None}, "--label-column"),
        ({"metric": "bleu"}, "'bleu'"),
        ({"task": "sst2"}, "--task"),
        (NO_TABLE | {"task": "sst3"}, "'sst3'"),
        (NO_TABLE | {"task": "sst2", "max-length": 64}, "--task"),
        (NO_TABLE | {"task": "sst2", "metric": "f1"}, "--task"),
        ({"device": "cuda:77"}, "cuda:77"),
        ({"device": "abacus"}, "abacus"),
        ({"num-samples": 0}, "--num-samples"),
        ({"tuning": "luck"}, "--tuning"),
        ({"selection": "luck"}, "--selection"),
    ],
)
def test_wrong_options(work, options, named):
    refused(work, named, **options)


def test_neither_output_nor_dry_run(work):
    result = run(work / "model", *table_arguments(work))
    assert result.exit_code == 2 and "--output-dir" in result.output


def test_a_model_in_memory_in_half_precision(material, tiny_tokenizer):
    model = checkpoint.load_dense(material / "model").bfloat16()
    with pytest.raises(InputError, match="bfloat16.*float32"):
        fastprune.compress(
            model, tiny_tokenizer, material / "train.tsv", evaluation=material / "eval.tsv", task=TASK, keep_ratio=0.5
        )


@pytest.mark.parametrize("option", ["selection", "tuning"])
def test_unknown_method(material, option):
    with pytest.raises(InputError, match=f"{option}.*'luck' is not known; use one of"):
        compress(material, num_samples=10, **{option: "luck"})


@pytest.mark.parametrize("missing", ["dataset", "evaluation"])
def test_compress_needs_data(material, missing):
    with pytest.raises(InputError, match=missing):
        compress(material, **{missing: None})
