"""Questions that may lack an answer: SQuAD 2.0's arithmetic, the score of none, and what is served."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from tiny_data import squad_file

import fastprune
from fastprune.data import Task, encode, glue_task, read_table
from fastprune.data.evaluation import evaluate_rows
from fastprune.data.preparation import table_task
from fastprune.data.questions import best_threshold, squad_v2_scores
from fastprune.errors import InputError
from fastprune.model import checkpoint
from fastprune.problem import problem_of
from fastprune.releases import serving
from fastprune.releases.pyfunc_model import PrunedModel

NAME = "question-answering-or-none"
TASK = Task("q", NAME, "squad_v2_f1", ("question", "context"), "answers", max_length=32)
LONG = "the king won a very good film . " * 8


@pytest.fixture
def table(tmp_path):
    asked = [("a", "who won", [("king", 4)]), ("b", "who won", [])]
    return read_table(squad_file(tmp_path / "dev.json", [(LONG, asked), ("it was dull", [("c", "who", [])])]))


@pytest.mark.parametrize(
    "answer, gold, exact, f1",
    [
        ("", [], 1, 1),
        ("king", [], 0, 0),
        ("", ["king"], 0, 0),
        ("the king", ["king won", "King"], 1, 1),
        ("king", ["king won"], 0, 2 / 3),
        ("the", ["a"], 1, 1),
        ("the", ["king"], 0, 0),
    ],
)
def test_official_scores_of_squad_2(answer, gold, exact, f1):
    """Of the official evaluate-v2.0.py, worked out by hand."""
    examples = Dataset.from_dict({"id": ["x"], "answers": [{"text": gold, "answer_start": [0] * len(gold)}]})
    got = squad_v2_scores({"x": answer}, examples)
    assert got == {"squad_v2_f1": [pytest.approx(f1)], "squad_v2_exact_match": [exact]}


def test_none_is_told_where_it_beats_the_best_span(tiny_tokenizer, tiny_bert, table):
    config = tiny_bert(problem="question-answering").config
    split = encode(table, tiny_tokenizer, TASK, config, for_evaluation=True)
    assert len(split) > len(split.examples) == 3
    windows, problem = split.features["example_id"][:], problem_of(NAME)
    outputs = [np.zeros((2, 40)) for _ in windows]
    for scores in outputs:
        scores[:, 0] = 4.0  # none: 8 in all windows
        scores[:, 5] = 3.0  # less than none: a token of the context, "king" of the first
    metrics, rows = problem.measure(split, outputs)
    assert metrics["squad_v2_f1"] == 2 / 3 and rows.tolist() == [0, 1, 1]
    outputs[0][:, 0] = 2.9  # in one window none is less: the least counts
    metrics, rows = problem.measure(split, outputs)
    assert windows[0] == "a" and rows.tolist() == [1, 1, 1]
    assert problem.constant(split, 2) == 2 / 3
    assert metrics["best_f1"] == metrics["best_exact_match"] == 1 and metrics["best_f1_threshold"] <= 0
    config.null_score_diff_threshold = 10.0  # always answer
    sure = encode(table, tiny_tokenizer, TASK, config, for_evaluation=True)
    assert problem.measure(sure, outputs)[1][1:].tolist() == [0, 0]


def official_best(scores, differences, has_answer, told):
    """``find_best_thresh`` of the official evaluate-v2.0.py."""
    lacking = sum(not has for has in has_answer.values())
    current = best = lacking
    threshold = 0.0
    for name in sorted(differences, key=lambda name: differences[name]):
        if name not in scores:
            continue
        current += scores[name] if has_answer[name] else -1 if told[name] else 0
        if current > best:
            best, threshold = current, differences[name]
    return best / len(has_answer), threshold


def test_the_best_threshold_is_that_of_the_official_evaluation(tiny_tokenizer, tiny_bert, tmp_path):
    """Spans and scores at random; a question whose windows have no span is never answered."""
    asked = [(f"q{number}", "who won", [("king", 4)] if number % 3 else []) for number in range(30)]
    table = read_table(squad_file(tmp_path / "dev.json", [(LONG, asked)]))
    config, draw, problem = tiny_bert(problem="question-answering").config, np.random.default_rng(0), problem_of(NAME)
    split = encode(table, tiny_tokenizer, TASK, config, for_evaluation=True)
    outputs = [draw.normal(size=(2, 40)) for _ in range(len(split))]
    for row, name in enumerate(split.features["example_id"]):
        if int(name[1:]) % 2:  # the answer, but not in all of them
            outputs[row][:, 5] += 4
    metrics = problem.measure(split, outputs)[0]
    found = problem._spans(split, outputs)
    differences, told = ({name: span[part] for name, span in found.items()} for part in (0, 1))
    has_answer = {name: bool(answers["text"]) for name, answers in zip(table["id"], table["answers"], strict=True)}
    for name, column in squad_v2_scores(told, table).items():
        scores, short = dict(zip(table["id"], column, strict=True)), name.removeprefix("squad_v2_")
        want, threshold = official_best(scores, differences, has_answer, told)
        assert metrics[f"best_{short}"] == pytest.approx(want) and metrics[f"best_{short}_threshold"] == threshold
        assert metrics[name] < want < 1
    sure = [{**feature, "null_score_diff_threshold": threshold} for feature in split.features]
    again = problem.measure(replace(split, features=Dataset.from_list(sure)), outputs)[0]
    assert again[name] == pytest.approx(want)


def test_the_threshold_of_never_answering_answers_nothing():
    wrong = np.array([-1.0, -1.0, -1.0])
    assert best_threshold(wrong, np.array([2.0, -3.0, 0.0]), 3) == (3.0, -4.0)
    assert best_threshold(wrong, np.array([2.0, 3.0, 4.0]), 3) == (3.0, 0.0)
    assert best_threshold(wrong[:0], wrong[:0], 2) == (2.0, 0.0)


@pytest.mark.parametrize("threshold", [0.0, -1e9], ids=["zero", "never answers"])
def test_served_answers_are_those_of_the_evaluation(tmp_path, tiny_tokenizer, tiny_bert, table, threshold, monkeypatch):
    model = tiny_bert(problem="question-answering", initializer_range=0.3, null_score_diff_threshold=threshold)
    result = fastprune.compress(
        model, tiny_tokenizer, table, evaluation=table, task=TASK, keep_ratio=0.6, device="cpu", progress=False,
        allow_untuned=True, output_dir=tmp_path / "out",
    )  # fmt: skip
    told = {}
    scores = staticmethod(lambda answers, examples: told.update(answers) or squad_v2_scores(answers, examples))
    monkeypatch.setattr(type(problem_of(NAME)), "scores", scores)
    split = encode(table, tiny_tokenizer, TASK, model.config, for_evaluation=True)
    rows = evaluate_rows(result.model, split, pad_token_id=0, progress=False).outcomes
    assert rows.mean() == pytest.approx(result.metrics["pruned"])
    served = PrunedModel()
    settings = {"text_columns": ["question", "context"], "max_length": 32}
    artifacts = serving.artifacts_of(tmp_path / "out", problem_of(NAME))
    served.load_context(SimpleNamespace(artifacts=artifacts, model_config=settings))
    answers = served.predict(None, table.to_pandas()[["question", "context"]])["answer"].tolist()
    assert answers == [told.get(name, "") for name in table["id"]]
    assert threshold == 0 or answers == ["", "", ""]
    serving.check_answers(result.model, tmp_path / "out", result.manifest, [["who won", LONG], ["who", "it"]])
    assert checkpoint.load(tmp_path / "out").config.null_score_diff_threshold == threshold


def test_the_name_must_be_given(tmp_path, tiny_tokenizer, tiny_bert, table):
    model = tiny_bert(problem="question-answering")
    model.save_pretrained(tmp_path / "model")
    assert table_task(tmp_path / "model", (), None).problem == "question-answering"
    assert table_task(tmp_path / "model", (), None, problem_name=NAME).metric == "squad_v2_f1"
    with pytest.raises(InputError, match=f"row 2 has no answer.*name the problem {NAME}"):
        encode(table, tiny_tokenizer, glue_task("squad"), model.config)
    with pytest.raises(InputError, match="problem 'classification' is for other models than a BertForQuestion"):
        table_task(tmp_path / "model", ("question",), "answers", problem_name="classification")
