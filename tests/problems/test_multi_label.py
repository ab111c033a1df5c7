"""Several labels a row: how they are read, their loss and curvature, their metrics, and the way to a served model."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.metrics import average_precision_score, f1_score
from tiny_models import build, random_batches

import fastprune
from fastprune.data import Task, encode, make_batches
from fastprune.data.outcomes import jackknife_average_precision
from fastprune.data.preparation import table_task
from fastprune.errors import InputError
from fastprune.problem import problem_of
from fastprune.releases import serving

KIND = "multi_label_classification"
TASK = Task("table", "multi-label", "micro_f1", ("text",), "label")
PROBLEM = problem_of("multi-label")


@pytest.fixture
def three(config):
    return config(3, problem_type=KIND, id2label={0: "good", 1: "dull", 2: "long"})


@pytest.mark.parametrize(
    "labels",
    [
        [["good", "long"], [], ["dull"]],
        [[2, 0], [], [1]],
        ["good,long", "", "Dull"],
        ["0, 2", "", "1"],
        [[1, 0, 1], [0, 0, 0], [0, 1, 0]],
        [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
    ],
    ids=["names", "numbers", "text", "numbers in text", "zero or one", "floats"],
)
def test_labels_of_every_form(tiny_tokenizer, three, labels):
    split = encode(Dataset.from_dict({"text": ["it"] * 3, "label": labels}), tiny_tokenizer, TASK, three)
    assert split.features["labels"][:] == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    [batch] = make_batches(split, 4, 0)
    assert batch["labels"].dtype == torch.float32 and batch["labels"].shape == (3, 3)


@pytest.mark.parametrize(
    "labels, message",
    [
        ([["good"], ["bad"]], "row 2 has the label 'bad'"),
        ([0, 1], "row 1 of column 'label' is '0', and the model gives any number of labels"),
        (["good", None], "row 2 of column 'label' is 'None'"),
        ([["good"], [None]], "row 2 has no label"),
        ([[1, 0], [0, 0]], "row 2 of column 'label' has a number twice, .*hold one for each of the model's 3 labels"),
        ([[False, True], [True, True]], "row 2 of column 'label' has a number twice"),
    ],
)
def test_labels_that_do_not_fit(tiny_tokenizer, three, labels, message):
    with pytest.raises(InputError, match=message):
        encode(Dataset.from_dict({"text": ["it"] * 2, "label": labels}), tiny_tokenizer, TASK, three)


def test_two_labels_that_can_be_read_in_two_ways(tiny_tokenizer, config):
    table = Dataset.from_dict({"text": ["it"] * 2, "label": [[0, 1], [1, 0]]})
    with pytest.raises(InputError, match="can be read in two ways"):
        encode(table, tiny_tokenizer, TASK, config(2, problem_type=KIND))


def test_lists_are_no_labels_of_a_single_label(tiny_tokenizer, config):
    table = Dataset.from_dict({"text": ["it"], "label": [["good"]]})
    with pytest.raises(InputError, match="row 1 of column 'label' is a list.*\"multi_label_classification\""):
        encode(table, tiny_tokenizer, Task("t", "classification", "accuracy", ("text",), "label"), config(2))


def test_loss_and_score():
    model = build(problem_type=KIND)
    [batch] = random_batches(model, "regression", [[5, 7]])
    batch["labels"] = torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    outputs = model(**batch)
    torch.testing.assert_close(PROBLEM.loss(outputs, batch).mean(), outputs.loss)
    logits = torch.tensor([[0.3, -1.2, 2.0]], requires_grad=True)
    p, outer = torch.sigmoid(logits[0].detach() / 2), 0
    for number in range(3000):
        draw = torch.Generator().manual_seed(number)
        (gradient,) = torch.autograd.grad(PROBLEM.score(type("O", (), {"logits": logits}), {}, 2.0, draw), logits)
        outer = outer + gradient[0].outer(gradient[0]) / 3000
    torch.testing.assert_close(outer, torch.diag(p * (1 - p)), atol=0.02, rtol=0)


@pytest.mark.parametrize("metric", ["micro_f1", "macro_f1", "average_precision"])
def test_metrics_and_outcomes(tiny_tokenizer, config, metric):
    rng = np.random.default_rng(1)
    wanted = rng.random((60, 4)) < [0.5, 0.3, 0.1, 0.0]  # nobody has the last label
    scores = rng.normal(size=(60, 4)) + wanted
    table = Dataset.from_dict({"text": ["it"] * 60, "label": wanted.astype(int).tolist()})
    task = Task("table", "multi-label", metric, ("text",), "label")
    split = encode(table, tiny_tokenizer, task, config(4, problem_type=KIND))
    metrics, rows = PROBLEM.measure(split, list(scores))
    assert metrics == {
        "micro_f1": pytest.approx(f1_score(wanted, scores > 0, average="micro")),
        "macro_f1": pytest.approx(f1_score(wanted[:, :3], scores[:, :3] > 0, average="macro")),
        "average_precision": pytest.approx(average_precision_score(wanted[:, :3], scores[:, :3])),
    }
    assert rows.shape == (60,) and rows.mean() == pytest.approx(metrics[metric], abs=0.05)
    without = PROBLEM.measure(split.select(np.arange(1, 60)), list(scores[1:]))[0][metric]
    assert rows[0] == pytest.approx(60 * metrics[metric] - 59 * without)
    best = max(
        PROBLEM.measure(split, [np.where(np.arange(4) < given, 1.0, -1.0)] * 60)[0][metric] for given in range(1, 5)
    )
    assert PROBLEM.constant(split, 4) >= best - 1e-9 or metric == "average_precision"


@pytest.mark.parametrize("metric", ["micro_f1", "macro_f1", "average_precision"])
def test_rows_without_any_label(tiny_tokenizer, config, metric):
    table = Dataset.from_dict({"text": ["it"] * 3, "label": [[]] * 3})
    task = Task("table", "multi-label", metric, ("text",), "label")
    split = encode(table, tiny_tokenizer, task, config(4, problem_type=KIND))
    with pytest.raises(InputError, match="all evaluation rows have the same labels"):
        PROBLEM.measure(split, [np.zeros(4)] * 3)


def test_pseudo_values_of_average_precision():
    rng = np.random.default_rng(0)
    scores, wanted = rng.normal(size=40), rng.random(40) < 0.3
    whole = average_precision_score(wanted, scores)
    without = [average_precision_score(np.delete(wanted, row), np.delete(scores, row)) for row in range(40)]
    assert jackknife_average_precision(scores, wanted) == pytest.approx(40 * whole - 39 * np.array(without))


@pytest.mark.parametrize("settings", [{"selection": "fisher", "tuning": "mask"}, {}], ids=["paper", "default"])
def test_from_labels_to_served_labels(tmp_path, tiny_tokenizer, tiny_bert, settings):
    rng = np.random.default_rng(0)
    words = ["good", "dull", "long", "it", "was", "film"]
    texts = [list(rng.choice(words, 6)) for _ in range(400)]
    labels = [[word for word in words[:2] if word in text] for text in texts]
    table = Dataset.from_dict({"text": [" ".join(text) for text in texts], "label": labels})
    model = tiny_bert(2, problem_type=KIND, id2label={0: "good", 1: "dull"}, initializer_range=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for batch in make_batches(encode(table, tiny_tokenizer, TASK, model.config), 32, 0) * 4:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    model.save_pretrained(tmp_path / "dense")
    assert table_task(tmp_path / "dense", ("text",), "label") == TASK
    result = fastprune.compress(
        model, tiny_tokenizer, table.select(range(300)), evaluation=table.select(range(300, 400)), task=TASK,
        keep_ratio=0.5, device="cpu", progress=False, output_dir=tmp_path / "out", **settings,
    )  # fmt: skip
    assert result.metrics["dense"] > 0.9 and result.metrics["pruned"] > 0.75
    serving.check_answers(result.model, tmp_path / "out", result.manifest, [["it was good"], ["dull film"]])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["problem_type"] == KIND
