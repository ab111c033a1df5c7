import copy

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from tiny_data import PAIR, QA, SCORE, SINGLE, texts
from tokenizers import Regex, pre_tokenizers
from transformers import BertConfig, DistilBertConfig, RobertaConfig

from fastprune.data import Task, draw_sample, encode, encoding, make_batches, read_table
from fastprune.errors import InputError

# Texts


def test_encodes_as_the_tokenizer_does(tiny_tokenizer, config):
    first, second = texts(2500, seed=1), texts(2500, seed=2)
    table = Dataset.from_dict({"first": first, "second": second, "label": [0, 1] * 1250})
    split = encode(table, tiny_tokenizer, PAIR, config())
    assert len(split) == 2500
    for row in (0, 999, 1000, 2499):
        want = tiny_tokenizer(first[row], second[row])
        got = split.features[row]
        assert [got[name] for name in want] == [want[name] for name in want]
        assert 1 in got["token_type_ids"]
        assert got["labels"] == row % 2
    assert split.mean_length == np.mean([len(ids) for ids in split.features["input_ids"]])


def test_encoding_writes_nothing(tmp_path, monkeypatch, tiny_tokenizer, config):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    table = Dataset.from_dict({"text": texts(20), "label": [0] * 20})
    draw_sample(encode(table, tiny_tokenizer, SINGLE, config()), 5, 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "model_config, longest",
    [
        (BertConfig(vocab_size=500), 60),
        (BertConfig(vocab_size=500, max_position_embeddings=40), 40),
        (RobertaConfig(vocab_size=500, max_position_embeddings=34, pad_token_id=1, type_vocab_size=1), 32),
        (DistilBertConfig(vocab_size=500, max_position_embeddings=50), 50),
    ],
)
def test_cuts_where_the_model_ends(tiny_tokenizer, model_config, longest):
    task = Task("long", "classification", "accuracy", ("text",), "label", max_length=60)
    table = Dataset.from_dict({"text": ["good " * 200], "label": [0]})
    split = encode(table, tiny_tokenizer, task, model_config)
    assert split.mean_length == longest
    # only BERT's second kind of token is known to the model
    assert ("token_type_ids" in split.features.column_names) == (model_config.model_type == "bert")


@pytest.mark.parametrize(
    "labels, label2id, classes",
    [
        ([0, 2, 1], None, [0, 2, 1]),
        (["0", "2", "1"], None, [0, 2, 1]),
        ([0.0, 2.0, 1.0], None, [0, 2, 1]),
        (["0.0", "2.0", "1.0"], None, [0, 2, 1]),
        ([False, True, True], None, [0, 1, 1]),
        (["LABEL_0", "LABEL_2", "label_1"], None, [0, 2, 1]),
        (["neg", "POS", "neutral"], {"neg": 0, "neutral": 1, "pos": 2}, [0, 2, 1]),
        (["LABEL_0", "LABEL_2", "neutral"], {"neg": 0, "neutral": 1, "pos": 2}, [0, 2, 1]),
        # stars: the model's names are numbers, and names win
        (["1", "3", "2"], {"1": 0, "2": 1, "3": 2}, [0, 2, 1]),
        ([1, 3, 2], {"1": 0, "2": 1, "3": 2}, [0, 2, 1]),
    ],
)
def test_class_labels(tiny_tokenizer, config, labels, label2id, classes):
    names = {} if label2id is None else {"label2id": label2id, "id2label": dict(enumerate(label2id))}
    table = Dataset.from_dict({"text": texts(3), "label": labels})
    split = encode(table, tiny_tokenizer, SINGLE, config(3, **names))
    assert split.features["labels"][:] == classes


def test_class_numbers_follow_names_where_both_know_them(tiny_tokenizer, config):
    label2id = {"CONTRADICTION": 0, "NEUTRAL": 1, "ENTAILMENT": 2}
    kind = ClassLabel(names=["entailment", "neutral", "contradiction"])
    features = Features(text=Value("string"), label=kind)
    table = Dataset.from_dict({"text": texts(3), "label": [0, 1, 2]}, features=features)
    named = config(3, label2id=label2id, id2label=dict(enumerate(label2id)))
    assert encode(table, tiny_tokenizer, SINGLE, named).features["labels"][:] == [2, 1, 0]
    assert encode(table, tiny_tokenizer, SINGLE, config(3)).features["labels"][:] == [0, 1, 2]


@pytest.mark.parametrize(
    "labels, message",
    [
        ([0, 1, 2], "row 3 has the label 2 in column 'label'; the model's classes are 0 to 1"),
        ([0, -1, -1], "row 2 has the label -1 .* unlabelled test rows"),
        (["0", "maybe", "1"], r"row 2 has the label 'maybe' .*LABEL_0"),
        ([0, None, 1], "row 2 has no label in column 'label'"),
        (["0", "", "1"], "row 2 has no label"),
        ([0.0, 0.5, 1.0], "row 2 has the label 0.5"),
        ([[0], [1], [1]], r"row 1 of column .label. is a list"),
    ],
)
def test_labels_the_model_does_not_have(tiny_tokenizer, config, labels, message):
    table = Dataset.from_dict({"text": texts(3), "label": labels})
    with pytest.raises(InputError, match=message):
        encode(table, tiny_tokenizer, SINGLE, config())


def test_regression_labels(tiny_tokenizer, config):
    table = Dataset.from_dict({"text": texts(3), "label": ["0.5", "4", "1e0"]})
    split = encode(table, tiny_tokenizer, SCORE, config(1))
    assert split.features["labels"][:] == [0.5, 4.0, 1.0]
    assert make_batches(split, 3, 0)[0]["labels"].dtype == torch.float32
    with pytest.raises(InputError, match="the model has 2 outputs"):
        encode(table, tiny_tokenizer, SCORE, config(2))


@pytest.mark.parametrize("bad", ["high", "", "nan", None])
def test_regression_wants_numbers(tiny_tokenizer, config, bad):
    table = Dataset.from_dict({"text": texts(2), "label": ["1", bad]})
    with pytest.raises(InputError, match="row 2 of column 'label' is .*, not a number"):
        encode(table, tiny_tokenizer, SCORE, config(1))


def test_without_labels(tiny_tokenizer, config):
    table = Dataset.from_dict({"text": texts(3)})
    split = encode(table, tiny_tokenizer, SINGLE, config(), labelled=False)
    assert not split.labelled
    assert set(make_batches(split, 2, 0)[0]) == {"input_ids", "attention_mask", "token_type_ids"}
    with pytest.raises(InputError, match=r"no column 'label'; the columns are \['text'\]"):
        encode(table, tiny_tokenizer, SINGLE, config())


def test_errors_name_the_file(tmp_path, tiny_tokenizer, config):
    path = tmp_path / "train.csv"
    path.write_text("sentence,label\ngood,0\n,1\n")
    with pytest.raises(InputError) as caught:
        encode(read_table(path), tiny_tokenizer, SINGLE, config())
    assert str(caught.value) == f"{path}: no column 'text'; the columns are ['sentence', 'label']"
    task = Task("t", "classification", "accuracy", ("sentence",), "label")
    with pytest.raises(InputError) as caught:
        encode(read_table(path), tiny_tokenizer, task, config())
    assert str(caught.value).startswith(f"{path}: row 2 is empty in column 'sentence'")
    path.write_text("sentence,label\n")
    with pytest.raises(InputError, match="train.csv: the table has no rows"):
        encode(read_table(path), tiny_tokenizer, task, config())


def test_empty_and_null_texts(tiny_tokenizer, config):
    def encode_pair(second):
        table = Dataset.from_dict({"first": ["", "good"], "second": second, "label": [0, 1]})
        return encode(table, tiny_tokenizer, PAIR, config())

    assert len(encode_pair(["film", ""])) == 2
    with pytest.raises(InputError, match="row 1 is empty in column 'first' and 'second'"):
        encode_pair([" ", "film"])
    with pytest.raises(InputError, match="row 2 has no text in column 'second'"):
        encode_pair(["film", None])
    with pytest.raises(InputError, match="row 1 of column 'second' is 3, not text"):
        encode_pair([3, 4])
    for other in ([["a", "film"], ["b"]], [b"a", b"b"], [{"bytes": b"png", "path": None}] * 2):
        with pytest.raises(InputError, match="not text; the model reads texts: name a column of them"):
            encode_pair(other)


def test_tokenizer_of_another_model(tiny_tokenizer):
    table = Dataset.from_dict({"text": ["good film"], "label": [0]})
    with pytest.raises(InputError, match="beyond the model's 6; use the tokenizer that belongs to the model"):
        encode(table, tiny_tokenizer, SINGLE, BertConfig(vocab_size=6))


# Questions


def test_squad_file(questions):
    assert questions.column_names == ["id", "question", "context", "answers"]
    assert len(questions) == 35
    assert questions[34] == {
        "id": "short",
        "question": "who was good",
        "context": "The King was very good.",
        "answers": {"text": ["King"], "answer_start": [4]},
    }


def reference_positions(input_ids, offsets, sequence_ids, cls_id, start_char, end_char):
    """Token positions as the transformers example script finds them, token by token."""
    first = 0
    while sequence_ids[first] != 1:
        first += 1
    last = len(input_ids) - 1
    while sequence_ids[last] != 1:
        last -= 1
    if not (offsets[first][0] <= start_char and offsets[last][1] >= end_char):
        return input_ids.index(cls_id), input_ids.index(cls_id)
    while first < len(offsets) and offsets[first][0] <= start_char:
        first += 1
    while offsets[last][1] >= end_char:
        last -= 1
    return first - 1, last + 1


def test_answers_become_token_positions(questions, tiny_tokenizer, config):
    split = encode(questions, tiny_tokenizer, QA, config(max_position_embeddings=100), for_evaluation=True)
    contexts = dict(zip(questions["id"], questions["context"], strict=True))
    answers = dict(zip(questions["id"], questions["answers"], strict=True))
    want = tiny_tokenizer(
        [q.lstrip() for q in questions["question"]],
        questions["context"][:],
        truncation="only_second",
        max_length=100,
        stride=33,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    assert len(split) == len(want["input_ids"]) > 2 * len(questions)
    found = set()
    for number, feature in enumerate(split.features):
        gold = answers[feature["example_id"]]
        text, start = gold["text"][0], gold["answer_start"][0]
        positions = feature["start_positions"], feature["end_positions"]
        offsets, owners = want["offset_mapping"][number], want.sequence_ids(number)
        assert feature["input_ids"] == want["input_ids"][number]
        assert positions == reference_positions(
            feature["input_ids"], offsets, owners, tiny_tokenizer.cls_token_id, start, start + len(text)
        )
        kept = feature["offset_mapping"]
        assert kept == [list(o) if owner == 1 else [-1, -1] for o, owner in zip(offsets, owners, strict=True)]
        if positions != (0, 0):
            found.add(feature["example_id"])
            assert contexts[feature["example_id"]][kept[positions[0]][0] : kept[positions[1]][1]] == text
    assert found == set(questions["id"])
    assert split.examples["id"][:] == questions["id"][:]


def test_training_features_have_no_offsets(questions, tiny_tokenizer, config):
    split = encode(questions, tiny_tokenizer, QA, config())
    assert split.examples is None
    assert "offset_mapping" not in split.features.column_names
    assert {"start_positions", "end_positions"} < set(make_batches(split, 4, 0)[0])
    bare = encode(questions.remove_columns("answers"), tiny_tokenizer, QA, config(), labelled=False)
    assert not bare.labelled
    assert bare.features["input_ids"][:] == split.features["input_ids"][:]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"id": ["x", "x"]}, "column 'id' has the same value twice"),
        ({"question": ["who", "good " * 200]}, "row 2 of column 'question' has 200 tokens"),
        ({"answers": [{"text": ["good"], "answer_start": [1]}] * 2}, "row 1: the answer 'good' is not at"),
        ({"answers": [{"text": ["good"], "answer_start": [-4]}] * 2}, "is not at character -4"),
        ({"answers": [{"text": [], "answer_start": []}] * 2}, "row 1 has no answer .*SQuAD 2.0"),
        ({"answers": ["good", "good"]}, "row 1 of column 'answers' does not hold lists"),
    ],
)
def test_impossible_questions(tiny_tokenizer, config, change, message):
    rows = {
        "id": ["x", "y"],
        "question": ["who", "what"],
        "context": ["a good film"] * 2,
        "answers": [{"text": ["good"], "answer_start": [2]}] * 2,
    }
    with pytest.raises(InputError, match=message):
        encode(Dataset.from_dict(rows | change), tiny_tokenizer, QA, config())


def test_questions_need_offsets(questions, config):
    class SlowTokenizer:
        is_fast = False

    with pytest.raises(InputError, match="SlowTokenizer gives no character offsets"):
        encode(questions, SlowTokenizer(), QA, config())


@pytest.mark.parametrize(
    "pattern, text, message",
    [
        ("a+b", "a" * 150_000, r"has not made tokens of its texts within 1 s; a regular expression in tokenizer\.json"),
        ("(a+)+b", "a" * 40, "the tokenizer cannot make tokens of its texts .*retry-limit"),
    ],
    ids=["slow", "endless"],
)
def test_a_tokenizer_whose_regular_expression_does_not_end(tiny_tokenizer, config, monkeypatch, pattern, text, message):
    monkeypatch.setattr(encoding, "PATIENCE", 1.0)
    monkeypatch.setattr(encoding, "PACE", 1e9)
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    table = Dataset.from_dict({"text": [text], "label": [0]})
    with pytest.raises(InputError, match=message):
        encode(table, tokenizer, SINGLE, config())
