"""Labels that a model of inference was never trained on: hypotheses, what is told, and what is served."""

import json
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
from datasets import ClassLabel, Dataset, Features, Value

import fastprune
from fastprune.data import Task, encode
from fastprune.data.evaluation import evaluate_rows
from fastprune.data.preparation import table_task
from fastprune.errors import InputError
from fastprune.problem import problem_of
from fastprune.releases import serving
from fastprune.releases.pyfunc_model import PrunedModel

NAMES = {0: "CONTRADICTION", 1: "neutral", 2: "entailment"}
TASK = Task("table", "zero-shot", "accuracy", ("text",), "label", max_length=32)
TEXTS = ["it was a good film", "a dull film", "good", "very dull", "it was good"]
LABELS = ["good", "dull", "good", "dull", "good"]


@pytest.fixture(scope="module")
def model(tiny_bert):
    label2id = {name: number for number, name in NAMES.items()}
    return tiny_bert(3, id2label=NAMES, label2id=label2id, initializer_range=0.3)


def test_a_hypothesis_for_each_label(tiny_tokenizer, model):
    table = Dataset.from_dict({"text": TEXTS, "label": LABELS})
    split = encode(table, tiny_tokenizer, TASK, model.config, for_evaluation=True)
    assert len(split) == 10 and split.features["labels"][:4] == [0, 2, 2, 0]  # dull, good; the second row is dull
    told = tiny_tokenizer.decode(split.features["input_ids"][1], skip_special_tokens=True)
    assert told.endswith("this example is good.") and told.startswith("it was a good film")
    sample = encode(table, tiny_tokenizer, TASK, model.config, rows=np.array([1, 4]), labelled=False)
    assert len(sample) == 2 and not sample.labelled
    numbered = Features({"text": Value("string"), "label": ClassLabel(names=["good", "dull"])})
    numbers = Dataset.from_dict({"text": TEXTS, "label": [0, 1, 0, 1, 0]}, features=numbered)
    assert (
        encode(numbers, tiny_tokenizer, TASK, model.config, for_evaluation=True).features["labels"][:]
        == (split.features["labels"][:])
    )


def test_the_most_entailed_label_is_told(tiny_tokenizer, model):
    split = encode(
        Dataset.from_dict({"text": TEXTS, "label": LABELS}), tiny_tokenizer, TASK, model.config, for_evaluation=True
    )
    outputs = [np.array([0.0, 9.0, score]) for score in (1, 2, 2, 1, 1, 2, 2, 1, 5, 2)]  # the last row is told dull
    metrics, rows = problem_of("zero-shot").measure(split, outputs)
    assert metrics == {"accuracy": 0.8} and rows.tolist() == [1, 1, 1, 1, 0]
    assert problem_of("zero-shot").constant(split, 3) == 0.6
    calmer = [*outputs[:8], np.array([0.0, 9.0, 2]), *outputs[9:]]  # dull and good are as likely: the first is told
    agreement, divergence = problem_of("zero-shot").compare(split, calmer, outputs)
    assert agreement.tolist() == [1] * 5 and (divergence > 0).tolist() == [False] * 4 + [True]
    other = [*outputs[:8], np.array([0.0, 9.0, 1]), *outputs[9:]]
    assert problem_of("zero-shot").compare(split, other, outputs)[0].tolist() == [1, 1, 1, 1, 0]
    kept = split.select([8, 9, 0, 1])
    assert len(kept.examples) == 2


@pytest.mark.parametrize("settings", [{"selection": "fisher", "tuning": "mask"}, {}], ids=["paper", "default"])
@pytest.mark.filterwarnings("ignore:.*evaluation rows are also")
def test_compressed_and_served(tmp_path, tiny_tokenizer, model, settings):
    model.save_pretrained(tmp_path / "dense")
    assert table_task(tmp_path / "dense", ("text",), "label").problem == "classification"
    assert table_task(tmp_path / "dense", ("text",), "label", problem_name="zero-shot").metric == "accuracy"
    table = Dataset.from_dict(
        {"text": ["good film", "dull film", "odd film"] * 20, "label": ["good", "dull", "odd"] * 20}
    )
    result = fastprune.compress(
        model, tiny_tokenizer, table, evaluation=table, task=TASK, keep_ratio=0.6, device="cpu", progress=False,
        allow_untuned=True, output_dir=tmp_path / "out", **settings,
    )  # fmt: skip
    assert result.metrics["metric"] == "accuracy" and result.metrics["rows"] == 60
    serving.check_answers(result.model, tmp_path / "out", result.manifest, [["good film", "good|dull"]])
    served = PrunedModel()
    artifacts = serving.artifacts_of(tmp_path / "out", problem_of("zero-shot"))
    settings = {"text_columns": ["text", "labels"], "max_length": 32}
    served.load_context(SimpleNamespace(artifacts=artifacts, model_config=settings))
    rows = pandas.DataFrame({"text": ["good film", "odd film"], "labels": ["odd | good|dull", "odd|good|dull"]})
    answers = served.predict(None, rows)
    assert list(json.loads(answers["probabilities"][0])) == ["odd", "good", "dull"]
    split = encode(
        Dataset.from_dict({"text": ["good film", "odd film", "dull film"], "label": ["good", "odd", "dull"]}),
        tiny_tokenizer, TASK, result.model.config, for_evaluation=True,
    )  # fmt: skip
    outcomes = evaluate_rows(result.model, split, pad_token_id=0, progress=False).outcomes
    assert outcomes[:2].tolist() == (answers["label"] == ["good", "odd"]).tolist()
    assert served.predict(None, pandas.DataFrame({"text": ["good"], "labels": [" | "]}))["label"][0] == ""


@pytest.mark.parametrize(
    "columns, message",
    [
        (
            {"text": ["it", "a"], "label": [0, 1]},
            "row 1 of column 'label' is 0, and the model is asked about labels by name",
        ),
        ({"text": ["it", "a"], "label": ["good", ""]}, "row 2 of column 'label' is ''"),
        ({"text": ["it", "a"]}, "there is no column 'label', whose labels are what the model is asked about"),
    ],
)
def test_labels_that_do_not_fit(tiny_tokenizer, model, columns, message):
    with pytest.raises(InputError, match=message):
        encode(Dataset.from_dict(columns), tiny_tokenizer, TASK, model.config, labelled=False)


def test_a_model_that_infers_nothing(tmp_path, tiny_bert):
    tiny_bert(3).save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="problem 'zero-shot' is for other models"):
        table_task(tmp_path / "model", ("text",), "label", problem_name="zero-shot")
