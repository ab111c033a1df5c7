from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch import nn

from fastprune.data import Task, encode, glue_task, make_batches
from fastprune.data.evaluation import evaluate, evaluate_rows, majority_metric, refuse_untuned
from fastprune.data.questions import squad_scores
from fastprune.errors import InputError

CLASSES = Task("t", "classification", "accuracy", ("text",), "label")
SCORES = Task("t", "regression", "pearson_spearman", ("text",), "label")
WORDS = np.array(
    ["good", "bad", "film", "great", "dull", "it", "was", "not", "very", "odd", "zebra", "the", "king", "won"]
)


def table(count, labels, seed=0):
    rng = np.random.default_rng(seed)
    rows = [" ".join(rng.choice(WORDS, rng.integers(1, 20))) for _ in range(count)]
    return Dataset.from_dict({"text": rows, "label": list(labels)})


def logits_one_by_one(model, split):
    with torch.no_grad():
        batches = make_batches(split, 1, 0, by_length=False)
        return torch.cat([model(**batch).logits for batch in batches]).numpy()


@pytest.mark.parametrize("num_labels, average", [(2, "binary"), (3, "macro")])
def test_classification(tiny_tokenizer, tiny_bert, num_labels, average):
    model = tiny_bert(num_labels)
    labels = np.random.default_rng(0).integers(0, num_labels, 70)
    split = encode(table(70, labels), tiny_tokenizer, CLASSES, model.config)
    with torch.no_grad():  # so that a random model does not give all rows the same class
        model.classifier.bias -= torch.from_numpy(logits_one_by_one(model, split).mean(axis=0))
    predictions = logits_one_by_one(model, split).argmax(axis=1)
    assert len(set(predictions)) == num_labels
    got = evaluate(model, split, pad_token_id=0, progress=False)
    assert got == {
        "metric": accuracy_score(labels, predictions),
        "accuracy": accuracy_score(labels, predictions),
        "f1": pytest.approx(f1_score(labels, predictions, average=average)),
        "matthews_correlation": pytest.approx(matthews_corrcoef(labels, predictions)),
        "n": 70,
    }
    rows = evaluate_rows(model, split, pad_token_id=0, batch_size=7, progress=False)
    assert rows.metrics == pytest.approx(got) and rows.outcomes.tolist() == (predictions == labels).tolist()
    shuffled = split.select(np.random.default_rng(1).permutation(70))
    for batch_size in (1, 7, 100):
        again = evaluate(model, shuffled, pad_token_id=0, batch_size=batch_size, progress=False)
        assert again == pytest.approx(got)


@pytest.mark.filterwarnings("ignore:the GPU's memory has ended")
def test_smaller_batches_where_a_gpus_memory_ends(tiny_tokenizer, tiny_bert):
    model, sizes = tiny_bert(2), []
    split = encode(table(30, [0, 1] * 15), tiny_tokenizer, CLASSES, model.config)
    whole = evaluate_rows(model, split, pad_token_id=0, batch_size=8, progress=False)

    def end(_, args, given):
        sizes.append(len(given["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.register_forward_pre_hook(end, with_kwargs=True)
    again = evaluate_rows(model, split, pad_token_id=0, batch_size=8, progress=False)
    assert sizes == [8, 4, *[2] * 15] and again.metrics == whole.metrics
    np.testing.assert_allclose(np.stack(again.outputs), np.stack(whole.outputs), rtol=1e-4, atol=1e-5)


def test_evaluates_without_dropout_and_restores_the_mode(tiny_tokenizer, tiny_bert):
    model = tiny_bert()
    split = encode(table(30, [0, 1] * 15), tiny_tokenizer, CLASSES, model.config)
    want = evaluate(model, split, pad_token_id=0, progress=False)
    model.train()
    assert evaluate(model, split, pad_token_id=0, device="cpu", progress=False) == want
    assert model.training


def test_regression(tiny_tokenizer, tiny_bert):
    model = tiny_bert(1)
    labels = np.random.default_rng(0).uniform(0, 5, 40).astype(np.float32)
    split = encode(table(40, labels), tiny_tokenizer, SCORES, model.config)
    predictions = logits_one_by_one(model, split)[:, 0]
    got = evaluate(model, split, pad_token_id=0, batch_size=9, progress=False)
    pearson, spearman = pearsonr(predictions, labels).statistic, spearmanr(predictions, labels).statistic
    assert got["pearson"] == pytest.approx(pearson, abs=1e-5)
    assert got["spearman"] == pytest.approx(spearman, abs=1e-3)
    assert got["metric"] == pytest.approx((got["pearson"] + got["spearman"]) / 2)

    nn.init.zeros_(model.classifier.weight)
    assert evaluate(model, split, pad_token_id=0, progress=False)["metric"] == 0.0


def test_nan_in_a_weight(tiny_tokenizer, tiny_bert):
    model = tiny_bert()
    split = encode(table(10, [0, 1] * 5), tiny_tokenizer, CLASSES, model.config)
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="not finite; look for NaN in its weights"):
        evaluate(model, split, pad_token_id=0, progress=False)


def test_nothing_to_evaluate_on(tiny_tokenizer, tiny_bert):
    model = tiny_bert()
    split = encode(table(4, [0, 1] * 2), tiny_tokenizer, CLASSES, model.config, labelled=False)
    with pytest.raises(InputError, match="the split has no labels to evaluate on"):
        evaluate(model, split, pad_token_id=0)
    asked = encode(questions(), tiny_tokenizer, glue_task("squad"), model.config)
    with pytest.raises(InputError, match="for_evaluation=True"):
        evaluate(model, asked, pad_token_id=0)


# Question answering


def questions(count=12, words=120, seed=0):
    rng = np.random.default_rng(seed)
    rows = {"id": [], "question": [], "context": [], "answers": []}
    for number in range(count):
        chosen = rng.choice(WORDS, words)
        first = rng.integers(0, words - 4)
        start = len(" ".join(chosen[:first])) + (first > 0)
        rows["id"].append(f"q{number}")
        rows["question"].append("who won")
        rows["context"].append(" ".join(chosen))
        rows["answers"].append({"text": [" ".join(chosen[first : first + 3])], "answer_start": [start]})
    return Dataset.from_dict(rows)


def slow_best_answers(model, split):
    """The transformers example's post-processing, with plain loops over features without padding."""
    candidates = {example: [] for example in split.examples["id"]}
    contexts = dict(zip(split.examples["id"], split.examples["context"], strict=True))
    batches = make_batches(split, 1, 0, by_length=False)
    for feature, batch in zip(split.features, batches, strict=True):
        with torch.no_grad():
            out = model(**batch)
        start, end = out.start_logits[0].numpy(), out.end_logits[0].numpy()
        offsets = feature["offset_mapping"]
        for i in np.argsort(start)[-1:-21:-1]:
            for j in np.argsort(end)[-1:-21:-1]:
                if offsets[i][0] >= 0 and offsets[j][0] >= 0 and i <= j < i + 30:
                    text = contexts[feature["example_id"]][offsets[i][0] : offsets[j][1]]
                    candidates[feature["example_id"]].append((start[i] + end[j], text))
    return {example: max(found)[1] for example, found in candidates.items() if found}


@pytest.mark.parametrize("batch_size", [1, 5])
def test_question_answering(tiny_tokenizer, tiny_bert, batch_size):
    model = tiny_bert(problem="question-answering", seed=2)
    split = encode(questions(), tiny_tokenizer, glue_task("squad"), model.config, for_evaluation=True)
    assert len(split) > len(split.examples)
    scores = squad_scores(slow_best_answers(model, split), split.examples)
    want = {name: sum(column) / 12 for name, column in scores.items()}
    got = evaluate(model, split, pad_token_id=0, batch_size=batch_size, progress=False)
    assert got == pytest.approx(want | {"metric": want["squad_f1"], "n": 12})
    assert 0 < got["squad_f1"] < 1
    rows = evaluate_rows(model, split, pad_token_id=0, progress=False).outcomes
    assert len(rows) == 12 and rows.mean() == pytest.approx(got["metric"])


class Oracle(nn.Module):
    """Points at the answers that it was told, and at [CLS] in windows that lack them."""

    def __init__(self, split):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))
        names = ("input_ids", "start_positions", "end_positions")
        rows = zip(*(split.features[name] for name in names), strict=True)
        self.spans = {tuple(ids): (start, end) for ids, start, end in rows}

    def forward(self, input_ids, attention_mask, **_):
        start, end = torch.zeros(2, *input_ids.shape)
        for row, (ids, mask) in enumerate(zip(input_ids, attention_mask, strict=True)):
            first, last = self.spans[tuple(ids[mask.bool()].tolist())]
            # Beyond the text, the best scores of all, which must not count.
            start[row, len(ids[mask.bool()]) :] = end[row, len(ids[mask.bool()]) :] = 100.0
            start[row, first], end[row, last] = 9.0, 9.0
        return SimpleNamespace(start_logits=start, end_logits=end)


def test_right_positions_give_the_full_score(tiny_tokenizer, tiny_bert):
    config = tiny_bert(problem="question-answering").config
    split = encode(questions(), tiny_tokenizer, glue_task("squad"), config, for_evaluation=True)
    got = evaluate(Oracle(split), split, pad_token_id=0, batch_size=64, progress=False)
    assert got == {"metric": 1.0, "squad_f1": 1.0, "squad_exact_match": 1.0, "n": 12}


@pytest.mark.parametrize(
    "answer, gold, exact, f1",
    [
        ("The  Panthers'", ["panthers"], 1, 1),
        ("an apple, a day", ["Apple day"], 1, 1),
        ("Santa Clara, California", ["Santa Clara", "California"], 0, 0.8),
        ("308", ["309", "308 points"], 0, 2 / 3),
        ("denver denver broncos", ["denver broncos broncos"], 0, 2 / 3),
        ("well-known", ["well known"], 0, 0),
        ("theatre", ["atre"], 0, 0),
        # the official F1 of two answers that normalise to nothing is 0, though they match exactly
        ("the", ["a"], 1, 0),
    ],
)
def test_official_squad_scores(answer, gold, exact, f1):
    examples = Dataset.from_dict(
        {"id": ["x", "unanswered"], "answers": [{"text": gold, "answer_start": [0] * len(gold)}] * 2}
    )
    got = squad_scores({"x": answer}, examples)
    assert got == {"squad_f1": [pytest.approx(f1), 0], "squad_exact_match": [exact, 0]}


# Baselines


@pytest.mark.parametrize(
    "metric, labels, expected",
    [
        ("accuracy", [0, 0, 0, 1], 0.75),
        ("accuracy", [2, 1, 2, 0], 0.5),
        ("f1", [1, 1, 1, 0], 2 * 0.75 / 1.75),
        ("f1", [0, 0, 0, 1], 0.0),
        ("matthews_correlation", [0, 0, 0, 1], 0.0),
    ],
)
def test_majority_and_untuned(tiny_tokenizer, tiny_bert, metric, labels, expected):
    task = Task("films", "classification", metric, ("text",), "label")
    classes = max(labels) + 1
    split = encode(table(4, labels), tiny_tokenizer, task, tiny_bert(classes).config)
    assert majority_metric(split, classes) == pytest.approx(expected)
    refuse_untuned(expected + 0.11, split, classes)
    refuse_untuned(expected + 0.03, split, classes, tolerance=0.02)
    for bad in (expected, expected + 0.005, expected - 0.1, float("nan")):
        with pytest.raises(InputError, match="'films'.*not fine-tuned.*fine-tune it first"):
            refuse_untuned(bad, split, classes)


def test_constant_answers_are_worth_nothing_elsewhere(tiny_tokenizer, tiny_bert):
    scores = encode(table(3, [0.5, 1, 2]), tiny_tokenizer, SCORES, tiny_bert(1).config)
    asked = encode(questions(3), tiny_tokenizer, glue_task("squad"), tiny_bert().config)
    for split in (scores, asked):
        assert majority_metric(split, 2) == 0.0
        with pytest.raises(InputError, match="not fine-tuned"):
            refuse_untuned(0.06, split, 2)


def test_f1_is_of_the_models_classes_where_the_rows_lack_one(tiny_tokenizer, tiny_bert):
    """Of three classes the rows have two: model and baseline are both held to the mean over classes."""
    task = Task("films", "classification", "f1", ("text",), "label")
    split = encode(table(4, [1, 1, 1, 0]), tiny_tokenizer, task, tiny_bert(3).config)
    assert majority_metric(split, 3) == pytest.approx(2 * 0.75 / 1.75 / 2)
    refuse_untuned(0.6333, split, 3)
    with pytest.raises(InputError, match="not fine-tuned"):
        refuse_untuned(0.6333, split, 2)


def test_rows_of_one_class_are_told_as_such(tiny_tokenizer, tiny_bert):
    task = Task("films", "classification", "accuracy", ("text",), "label")
    split = encode(table(4, [1, 1, 1, 1]), tiny_tokenizer, task, tiny_bert(2).config)
    with pytest.raises(InputError, match="all evaluation rows are of one class, 1"):
        refuse_untuned(1.0, split, 2)
