"""The whole method through ``compress``."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from reviews import PAPER, TASK, compress, reviews
from tiny_models import build

import fastprune
from fastprune.data import Task, encode, glue_task, make_batches
from fastprune.data.evaluation import evaluate
from fastprune.data.preparation import table_task
from fastprune.environment import choose_device
from fastprune.model import checkpoint
from fastprune.model.architectures import describe
from fastprune.model.masks import masked

STAGES = ["prepare", "evaluate_dense", "importance", "budget", "search", "rearrange", "tune", "evaluate_pruned"]


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
    chosen = {"selection": "surgeon"} if selection == "surgeon" else {"selection": "fisher", "estimator": selection}
    result = compress(material, **chosen, tuning=tuning, output_dir=tmp_path / "out", num_samples=128)
    metrics, manifest = result.metrics, result.manifest
    assert metrics["metric"] == "accuracy"
    assert metrics["dense"] > 0.95
    assert metrics["pruned"] > 0.85
    assert 0.49 < metrics["macs_kept"] <= 0.5
    assert 0.3 < metrics["params_kept"] < 0.9
    assert list(metrics["seconds"]) == STAGES
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
    assert (first["selection"], first["estimator"], first["tuning"]) == ("fisher", "per_sample", "mask")
    assert first["sample_size"] == 60 and 60 * 5 < first["sample_tokens"] < 60 * 20
    assert first["effort"] == "default"
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
    one, other = (compress(material, num_samples=64, batch_size=size, tuning="none").masks for size in (64, 7))
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
        compress(material, dataset=path, **settings).model for path in (tmp_path / "texts.tsv", material / "train.tsv")
    )
    assert checkpoint.digest(without) == checkpoint.digest(with_labels)


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
