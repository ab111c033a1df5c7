"""The whole method through ``compress`` and the command line, on a classifier trained in a second."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from datasets import Dataset
from tiny_models import build
from transformers import ElectraConfig, ElectraForSequenceClassification

import fastprune
from fastprune import checkpoint
from fastprune.architectures import describe
from fastprune.cli import main
from fastprune.compression import choose_device, table_task
from fastprune.data import Task, encode, glue_task, make_batches
from fastprune.errors import InputError
from fastprune.evaluation import evaluate
from fastprune.masks import Masks, masked
from fastprune.surgery import slice_model

TASK = Task("reviews", "classification", "accuracy", ("text",), "label")
NEUTRAL = "the a and of in was is it film movie who when where what king".split()
STAGES = {"evaluate_dense", "importance", "search", "tuning", "evaluate_pruned"}
NO_TABLE = dict.fromkeys(("train-file", "eval-file", "text-column", "label-column"))
PAPER = {"selection": "fisher", "tuning": "mask"}


def reviews(count, seed):
    """Neutral words about one word that decides the label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    rows = []
    for label in labels:
        words = list(rng.choice(NEUTRAL, rng.integers(2, 12)))
        words.insert(
            rng.integers(0, len(words) + 1), rng.choice(["good", "great"] if label else ["bad", "dull"])
        )
        rows.append(" ".join(words))
    return Dataset.from_dict({"text": rows, "label": labels})


def write_tsv(table, path):
    rows = zip(table["text"], table["label"], strict=True)
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))


@pytest.fixture(scope="module")
def material(tmp_path_factory, tiny_tokenizer, tiny_bert):
    """A folder with a trained model, an untrained one, and data."""
    folder = tmp_path_factory.mktemp("material")
    model = tiny_bert(initializer_range=0.1)
    model.save_pretrained(folder / "untrained")
    tiny_tokenizer.save_pretrained(folder / "untrained")
    batches = make_batches(encode(reviews(1200, 0), tiny_tokenizer, TASK, model.config), 64, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.train()
        for batch in batches * 3:
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
    model.eval().save_pretrained(folder / "model")
    tiny_tokenizer.save_pretrained(folder / "model")
    write_tsv(reviews(300, 1), folder / "train.tsv")
    write_tsv(reviews(200, 2), folder / "eval.tsv")
    return folder


def compress(material, **options):
    settings = {
        "dataset": material / "train.tsv",
        "evaluation": material / "eval.tsv",
        "task": TASK,
        "keep_ratio": 0.5,
        "device": "cpu",
        "progress": False,
    } | PAPER
    return fastprune.compress(material / "model", **settings | options)


def files_under(folder):
    """What lies in a folder, with its content: to show that a failed command wrote nothing."""
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


# End to end


@pytest.mark.parametrize(
    "selection, tuning",
    [
        ("per_sample", "mask"),
        ("per_batch", "mask"),
        ("per_sample", "none"),
        ("per_sample", "weights"),
        ("surgeon", "mask"),
        ("surgeon", "weights"),
    ],
)
def test_compress(material, tmp_path, selection, tuning):
    chosen = (
        {"selection": "surgeon"} if selection == "surgeon" else {"selection": "fisher", "fisher": selection}
    )
    result = compress(material, **chosen, tuning=tuning, output_dir=tmp_path / "out", num_samples=128)
    metrics, manifest = result.metrics, result.manifest
    assert metrics["metric"] == "accuracy"
    assert metrics["dense"] > 0.95
    assert metrics["pruned"] > 0.85
    assert 0.49 < metrics["macs_kept"] <= 0.5
    assert 0.3 < metrics["params_kept"] < 0.9
    assert metrics["seconds"].keys() == STAGES | ({"rearrange"} if selection != "surgeon" else set())
    assert min(metrics["seconds"].values()) >= 0
    assert metrics["keep_ratio"] == 0.5
    assert metrics["heads"] == result.model.config.kept_heads and metrics["num_heads"] == 4
    assert metrics["filters"] == result.model.config.kept_filters and metrics["num_filters"] == 64
    assert metrics["latency_ms"].keys() >= {"dense", "pruned", "batch_size", "seq_len"}
    assert metrics["latency_ms"]["batch_size"] == 8

    # What is told is what is saved.
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest
    loaded = fastprune.load(tmp_path / "out")
    tokenizer = checkpoint.load_tokenizer(tmp_path / "out")
    split = encode(reviews(200, 2), tokenizer, TASK, loaded.config)
    assert evaluate(loaded, split, pad_token_id=0, progress=False)["metric"] == metrics["pruned"]
    assert metrics["params_kept"] == (
        loaded.num_parameters() / checkpoint.load_dense(material / "model").num_parameters()
    )

    if tuning == "weights":
        return
    # The masks on the dense model give the same logits.
    dense = checkpoint.load_dense(material / "model")
    batch = {name: value for name, value in make_batches(split, 16, 0)[0].items() if name != "labels"}
    with torch.no_grad(), masked(describe(dense), result.masks.heads, result.masks.filters):
        want = dense(**batch).logits
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, want, rtol=0, atol=1e-5)


def test_manifest(material):
    first, again, other = (compress(material, num_samples=60, seed=seed).manifest for seed in (0, 0, 1))
    assert first == again
    assert first["source_model"] == str(material / "model")
    assert first["source_sha256"] == checkpoint.digest(checkpoint.load_dense(material / "model"))
    assert first["sample_sha256"] != other["sample_sha256"]
    assert first["evaluation_sha256"] == other["evaluation_sha256"] != first["sample_sha256"]
    assert (first["seed"], first["keep_ratio"]) == (0, 0.5)
    assert (first["selection"], first["fisher"], first["tuning"]) == ("fisher", "per_sample", "mask")
    assert first["sample_size"] == 60
    assert [len(row) for row in first["kept_heads"]] and len(first["kept_filters"]) == 3
    assert 0.49 < first["macs_after"] / first["macs_before"] <= 0.5
    assert {"fastprune", "torch", "transformers", "numpy", "scipy", "python"} <= first["versions"].keys()


def test_manifest_names_what_the_model_keeps(material):
    result = compress(material, num_samples=60, tuning="none")
    assert result.manifest["kept_heads"] == result.masks.kept_heads
    assert list(map(len, result.manifest["kept_filters"])) == result.model.config.kept_filters


def test_a_model_and_tables_in_memory(material, tiny_tokenizer):
    model = checkpoint.load_dense(material / "model")
    before = checkpoint.digest(model)
    result = compress(material, num_samples=100)
    in_memory = fastprune.compress(
        model,
        tiny_tokenizer,
        reviews(300, 1),
        evaluation=reviews(200, 2),
        task=TASK,
        keep_ratio=0.5,
        num_samples=100,
        device="cpu",
        progress=False,
        **PAPER,
    )
    assert checkpoint.digest(model) == before
    assert checkpoint.digest(in_memory.model) == checkpoint.digest(result.model)


@pytest.mark.parametrize("num_samples, batch_size", [(10_000, 32), (5, 32), (20, 1), (33, 32)])
def test_sample_and_batch_sizes(material, num_samples, batch_size):
    """More samples than rows, fewer than a batch, batches of one, a last batch of one."""
    result = compress(material, num_samples=num_samples, batch_size=batch_size)
    assert result.manifest["sample_size"] == min(num_samples, 300)
    assert result.metrics["macs_kept"] <= 0.5 and result.metrics["pruned"] > 0.5


def test_batch_size_hardly_matters(material):
    """Per-sample Fisher and tuning do not depend on how the sample is cut into batches."""
    one, other = (
        compress(material, num_samples=64, batch_size=size, tuning="none").masks for size in (64, 7)
    )
    assert torch.equal(one.heads, other.heads)
    assert (one.filters != other.filters).float().mean() < 0.02


@pytest.mark.parametrize("settings", [PAPER, {}], ids=["paper", "default"])
@pytest.mark.parametrize("problem", ["regression", "question-answering"])
def test_other_problems(tmp_path, tiny_bert, tiny_tokenizer, problem, settings):
    if problem == "regression":
        task, model = Task("score", problem, "pearson", ("text",), "label"), tiny_bert(1)
        table = Dataset.from_dict({"text": reviews(40, 0)["text"], "label": np.linspace(0, 5, 40)})
    else:
        task, model = glue_task("squad"), tiny_bert(2, problem)
        context = "the king won a great film in the end"
        table = Dataset.from_dict(
            {
                "id": [str(n) for n in range(6)],
                "question": ["who won"] * 6,
                "context": [context] * 6,
                "answers": [{"text": ["king"], "answer_start": [4]}] * 6,
            }
        )
    result = fastprune.compress(
        model,
        tiny_tokenizer,
        table,
        evaluation=table,
        task=task,
        keep_ratio=0.5,
        device="cpu",
        allow_untuned=True,
        progress=False,
        output_dir=tmp_path / "out",
        **settings,
    )
    assert result.metrics["metric"] == task.metric
    assert type(fastprune.load(tmp_path / "out")) is type(result.model)


def test_the_sample_needs_no_labels_by_default(material, tmp_path):
    (tmp_path / "texts.tsv").write_text(
        "".join(line.split("\t")[0] + "\n" for line in (material / "train.tsv").read_text().splitlines())
    )
    settings = {"selection": "surgeon", "tuning": "weights", "num_samples": 50}
    without, with_labels = (
        compress(material, dataset=path, **settings).model
        for path in (tmp_path / "texts.tsv", material / "train.tsv")
    )
    assert checkpoint.digest(without) == checkpoint.digest(with_labels)


# The command line


def run(*arguments):
    return CliRunner().invoke(main, ["compress", *map(str, arguments)])


def table_arguments(material, **options):
    settings = (
        {
            "train-file": material / "train.tsv",
            "eval-file": material / "eval.tsv",
            "text-column": "text",
            "label-column": "label",
            "num-samples": 100,
            "device": "cpu",
        }
        | PAPER
        | options
    )
    return [part for name, value in settings.items() if value is not None for part in (f"--{name}", value)]


def test_command(material, tmp_path):
    out = tmp_path / "new" / "out"
    result = run(material / "model", *table_arguments(material), "--keep-ratio", 0.5, "--output-dir", out)
    assert result.exit_code == 0, result.output
    metrics = json.loads((out / "metrics.json").read_text())
    want = compress(material, num_samples=100)
    assert {
        name: metrics[name] for name in ("dense", "pruned", "macs_kept", "params_kept", "heads", "filters")
    } == {
        name: want.metrics[name]
        for name in ("dense", "pruned", "macs_kept", "params_kept", "heads", "filters")
    }
    assert checkpoint.digest(fastprune.load(out)) == checkpoint.digest(want.model)
    assert re.search(r"accuracy +dense 0\.\d+ +pruned 0\.\d+|accuracy +dense 1\.0+ +pruned", result.output)
    assert str(out) in result.output and [path.name for path in out.parent.iterdir()] == ["out"]


def test_dry_run_writes_nothing(material, tmp_path):
    before = files_under(material)
    result = run(
        material / "model", *table_arguments(material), "--dry-run", "--output-dir", tmp_path / "out"
    )
    assert result.exit_code == 0, result.output
    assert not list(tmp_path.iterdir()) and files_under(material) == before
    assert re.search(r"heads +\[\d, \d, \d\] of 4", result.output) and "MACs kept" in result.output
    assert "pruned" not in result.output.replace("params", "") and "latency" not in result.output


def test_help_and_version_in_a_process_of_their_own(tmp_path):
    for arguments, wanted in (
        (["compress", "--help"], "--keep-ratio"),
        (["--version"], fastprune.__version__),
    ):
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
        changed_table(
            work / f"{which}.tsv", lambda lines: [*lines[:3], lines[3].split("\t")[0] + "\t", *lines[4:]]
        )
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
        fastprune.compress(model, dataset=work / "train.tsv", evaluation=work / "eval.tsv", task=TASK)


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
    config = ElectraConfig(
        vocab_size=20,
        hidden_size=8,
        embedding_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    ElectraForSequenceClassification(config).save_pretrained(work / "electra")
    refused(work, "'electra' is not supported", "bert, roberta", model="electra")


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
        fastprune.compress(model, tiny_tokenizer, material / "train.tsv", evaluation=material / "eval.tsv", task=TASK)



@pytest.mark.parametrize("option", ["selection", "tuning"])
def test_unknown_method(material, option):
    with pytest.raises(InputError, match=f"{option}.*'luck' is not known; use one of"):
        compress(material, num_samples=10, **{option: "luck"})


@pytest.mark.parametrize("missing", ["dataset", "evaluation"])
def test_compress_needs_data(material, missing):
    with pytest.raises(InputError, match=missing):
        compress(material, **{missing: None})


def test_device():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda")


def test_task_of_a_table(tmp_path):
    for problem, columns, want in (
        ("classification", ("a", "b"), ("accuracy", ("a", "b"), "y")),
        ("regression", ("a",), ("pearson", ("a",), "y")),
        ("question-answering", (), ("squad_f1", ("question", "context"), "y")),
    ):
        build(problem=problem).save_pretrained(tmp_path / problem)
        task = table_task(tmp_path / problem, columns, "y")
        assert task.problem == problem and (task.metric, task.text_columns, task.label_column) == want
