import bz2
import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from transformers import BertConfig, DistilBertConfig, RobertaConfig

from fastprune.data import (
    Split,
    Task,
    draw_sample,
    encode,
    glue_task,
    hold_out,
    load_glue,
    make_batches,
    read_table,
)
from fastprune.errors import InputError

PAIR = Task("pair", "classification", "accuracy", ("first", "second"), "label")
SINGLE = Task("single", "classification", "accuracy", ("text",), "label")
SCORE = Task("score", "regression", "pearson", ("text",), "label")
QA = glue_task("squad")


@pytest.fixture(scope="module")
def config(tiny_tokenizer):
    def make(num_labels=2, **options):
        return BertConfig(vocab_size=len(tiny_tokenizer), num_labels=num_labels, **options)

    return make


def texts(count, longest=12, seed=0):
    rng = np.random.default_rng(seed)
    words = np.array("good bad film great dull it was not very odd zebra".split())
    return [" ".join(rng.choice(words, rng.integers(1, longest + 1))) for _ in range(count)]


@pytest.fixture
def split(tiny_tokenizer, config):
    table = Dataset.from_dict({"text": texts(50), "label": np.random.default_rng(1).integers(0, 2, 50)})
    return encode(table, tiny_tokenizer, SINGLE, config())


# Reading


def test_tsv_as_glue_ships_it(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_bytes(
        '\ufeffQuality\t#1 String\t#2 String\n1\tsaid "yes\tNA\r\n0\tnull\t\n1\tx\u2028y\tnan\n\n'.encode()
    )
    table = read_table(path)
    assert table.column_names == ["Quality", "#1 String", "#2 String"]
    assert table["Quality"][:] == ["1", "0", "1"]
    assert table["#1 String"][:] == ['said "yes', "null", "x\u2028y"]
    assert table["#2 String"][:] == ["NA", "", "nan"]


def test_csv_with_quotes_and_line_breaks(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text('text,label\n"a ""good"", long\nfilm",1\nNA,0\n', encoding="utf-8")
    table = read_table(path)
    assert table["text"][:] == ['a "good", long\nfilm', "NA"]
    assert table["label"][:] == ["1", "0"]


@pytest.mark.parametrize("suffix, compress", [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_compressed(tmp_path, suffix, compress):
    path = tmp_path / f"train.tsv{suffix}"
    path.write_bytes(compress(b"text\tlabel\ngood\t1\n"))
    assert read_table(path)[:] == {"text": ["good"], "label": ["1"]}


def test_jsonl_keeps_null_apart_from_words(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "null", "label": 1}\n\n{"text": null, "label": 0}\n{"label": 1}\n')
    assert read_table(path)[:] == {"text": ["null", None, None], "label": [1, 0, 1]}


def test_every_format_gives_the_same_split(tmp_path, tiny_tokenizer, config):
    rows = list(zip(texts(20, seed=1), texts(20, seed=2), [0, 1] * 10, strict=True))
    header = ["first", "second", "label"]
    for suffix, mark in ((".csv", ","), (".tsv", "\t")):
        lines = [mark.join(map(str, row)) for row in (header, *rows)]
        (tmp_path / f"t{suffix}").write_text("\n".join(lines))
    records = [dict(zip(header, row, strict=True)) for row in rows]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, records)))
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "t.parquet")
    digests = {
        encode(read_table(tmp_path / f"t{suffix}"), tiny_tokenizer, PAIR, config()).digest
        for suffix in (".csv", ".tsv", ".jsonl", ".parquet")
    }
    assert len(digests) == 1


def parquet_bytes():
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["good"] * 100}), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("t.xlsx", b"x", "unknown file type '.xlsx'; use one of .csv, .tsv, .jsonl, .parquet, .json"),
        ("t.csv", b"", "is empty"),
        ("t.tsv.gz", gzip.compress(b""), "is empty"),
        ("t.tsv", b"text\tlabel\ngood\t1\nbad\n", "line 3 has 1 fields where the header has 2"),
        ("t.tsv", b"text\ttext\n", "two columns have the same name"),
        ("t.tsv", "text\ncaf\u00e9\n".encode("latin-1"), "its text UTF-8"),
        ("t.csv", b'text,label\n"good,1\n', "cannot be read as .csv"),
        ("t.csv.gz", gzip.compress(b"text\n" + bytes(range(65, 90)) * 9)[:-12], "cannot be read as .csv"),
        ("t.jsonl", b'{"text": 1}\n{"text": \n', "line 2 is not JSON"),
        ("t.jsonl", b"[1]\n", "line 1 is not a JSON object"),
        ("t.jsonl", b'{"label": 1}\n{"label": "x"}\n', "column 'label' mixes kinds"),
        ("t.parquet", parquet_bytes()[:-20], "cannot be read as .parquet"),
        ("t.parquet", b"PAR1 nothing PAR1", "cannot be read as .parquet"),
        ("t.json", b'[{"text": "x"}]', "not in SQuAD's format"),
        ("t.json", b'{"data": [{"title": "x"}]}', "not in SQuAD's format"),
        ("t.json", b'{"data": ', "cannot be read as .json"),
    ],
)
def test_unreadable_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_table(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_table(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="is a folder"):
        read_table(tmp_path)


# Tasks


def test_glue_tasks():
    assert glue_task("mnli").text_columns == ("premise", "hypothesis")
    assert glue_task("stsb").problem == "regression"
    assert (QA.max_length, QA.metric) == (384, "squad_f1")
    with pytest.raises(InputError, match="unknown task 'sst3'; use one of cola, sst2"):
        glue_task("sst3")


def test_glue_comes_from_the_hub(monkeypatch):
    asked = []

    def fetch(*source):
        asked.append(source)
        return {"train": 1, "validation": 2, "validation_matched": 3}

    monkeypatch.setattr("fastprune.data.tasks.load_dataset", fetch)
    assert load_glue("mnli") == (1, 3)
    assert load_glue("squad") == (1, 2)
    assert asked == [("nyu-mll/glue", "mnli"), ("rajpurkar/squad",)]

    def fail(*source):
        raise ConnectionError("no network")

    monkeypatch.setattr("fastprune.data.tasks.load_dataset", fail)
    with pytest.raises(InputError, match="'sst2'.*no network.*give local files"):
        load_glue("sst2")


@pytest.mark.parametrize(
    "options, message",
    [
        (("t", "classification", "pearson", ("a",), "l"), "metric 'pearson' is not one of accuracy"),
        (("t", "ranking", "accuracy", ("a",), "l"), "unknown problem 'ranking'"),
        (("t", "classification", "accuracy", ("a", "b", "c"), "l"), "3 are named"),
        (("t", "question-answering", "squad_f1", ("a",), "l"), "reads 2 text columns"),
    ],
)
def test_impossible_tasks(options, message):
    with pytest.raises(InputError, match=message):
        Task(*options)


# Encoding texts


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
        ([[0], [1], [1]], r"row 1 has the label \[0\]"),
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


def test_tokenizer_of_another_model(tiny_tokenizer):
    table = Dataset.from_dict({"text": ["good film"], "label": [0]})
    with pytest.raises(InputError, match="beyond the model's 6; use the tokenizer that belongs to the model"):
        encode(table, tiny_tokenizer, SINGLE, BertConfig(vocab_size=6))


# Encoding questions


def squad_file(path, entries):
    """Write (context, [(id, question, [(answer, start)])])."""
    paragraphs = [
        {
            "context": context,
            "qas": [
                {"id": i, "question": q, "answers": [{"text": t, "answer_start": s} for t, s in answers]}
                for i, q, answers in questions
            ],
        }
        for context, questions in entries
    ]
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    return path


NAMES = "ab cd ef gh ij kl mn op qr st uv wx yz".split()
LONG = " ".join(f"the film {name} was good ." for name in NAMES * 3)


@pytest.fixture
def questions(tmp_path):
    rng = np.random.default_rng(0)
    starts = [0] + [i + 1 for i, letter in enumerate(LONG) if letter == " "]
    asked = []
    for number, start in enumerate([0, *map(int, rng.choice(starts[1:-3], 33, replace=False))]):
        answer = " ".join(LONG[start:].split()[:3])
        asked.append((f"q{number}", "  who won ?", [(answer, start), ("x", LONG.index("x"))]))
    short = ("The King was very good.", [("short", "who was good", [("King", 4)])])
    return read_table(squad_file(tmp_path / "dev.json", [(LONG, asked), short]))


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


# Splits


def test_split_survives_saving(tmp_path, questions, split, tiny_tokenizer, config):
    asked = encode(questions, tiny_tokenizer, QA, config(), for_evaluation=True)
    for number, one in enumerate((split, asked)):
        one.save(tmp_path / f"{number}/split")
        loaded = Split.load(tmp_path / f"{number}/split")
        assert (loaded.task, loaded.digest) == (one.task, one.digest)
        assert loaded.features[:] == one.features[:]
        assert loaded.features.features == one.features.features
        assert (loaded.examples and loaded.examples[:]) == (one.examples and one.examples[:])


def test_damaged_split_is_refused(tmp_path, split):
    with pytest.raises(InputError, match="holds no complete encoded split"):
        Split.load(tmp_path)
    split.save(tmp_path)
    other = split.select(np.arange(len(split))[::-1])
    pq.write_table(other.features.with_format("arrow")[:], tmp_path / "features.parquet")
    with pytest.raises(InputError, match="not what was saved"):
        Split.load(tmp_path)
    path = tmp_path / "features.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="holds no complete encoded split"):
        Split.load(tmp_path)


def test_digest_tells_contents_apart(split, tiny_tokenizer, config):
    def digest(rows, labels, task=SINGLE):
        table = Dataset.from_dict({"text": rows, "label": labels})
        return encode(table, tiny_tokenizer, task, config()).digest

    rows = ["good film", "bad"]
    base = digest(rows, [0, 1])
    assert base == digest(rows, ["LABEL_0", "LABEL_1"])
    others = {digest(rows, [1, 1]), digest(rows[::-1], [0, 1]), digest(["good", "film bad"], [0, 1])}
    others.add(digest(rows, [0, 1], Task("other", "classification", "accuracy", ("text",), "label")))
    assert base not in others and len(others) == 4
    assert split.select(np.arange(len(split))).digest == split.digest


# Sampling


def test_sample_is_drawn_without_replacement(tiny_tokenizer, config):
    rows = [f"good {number}" for number in range(100)]
    whole = encode(Dataset.from_dict({"text": rows, "label": [0] * 100}), tiny_tokenizer, SINGLE, config())
    drawn = draw_sample(whole, 60, seed=3)
    assert len({tuple(ids) for ids in drawn.features["input_ids"]}) == len(drawn) == 60
    assert drawn.digest == draw_sample(whole, 60, seed=3).digest != draw_sample(whole, 60, seed=4).digest
    assert draw_sample(whole, 100, seed=3) is whole
    with pytest.raises(InputError, match="num_samples is 0"):
        draw_sample(whole, 0, seed=3)


def test_select_may_repeat_rows(split):
    twice = split.select([4, 4, 1])
    assert twice.features["input_ids"][:] == [split.features["input_ids"][row] for row in (4, 4, 1)]


def test_questions_are_drawn_whole(questions, tiny_tokenizer, config):
    asked = encode(questions, tiny_tokenizer, QA, config(max_position_embeddings=100), for_evaluation=True)
    drawn = draw_sample(asked, 10, seed=0)
    chosen = set(drawn.features["example_id"])
    assert len(chosen) == 10 and set(drawn.examples["id"]) == chosen
    assert len(drawn) == sum(example in chosen for example in asked.features["example_id"])
    rest, held = hold_out(asked, 0.2, seed=0)
    assert len(held.examples) == 7 and len(rest.examples) == 28
    assert not set(rest.examples["id"]) & set(held.examples["id"])


def test_hold_out_parts_in_order(split):
    rest, held = hold_out(split, 0.3, seed=0)
    assert (len(rest), len(held)) == (35, 15)
    whole = list(map(tuple, split.features["input_ids"]))
    for part in (rest, held):
        # each part's rows come in the order of the whole
        remaining = iter(whole)
        assert all(row in remaining for row in map(tuple, part.features["input_ids"]))
    together = [*rest.features["input_ids"], *held.features["input_ids"]]
    assert sorted(map(tuple, together)) == sorted(whole)
    for fraction in (0, 1, 1.5):
        with pytest.raises(InputError, match="between 0 and 1"):
            hold_out(split, fraction, seed=0)


# Batches


@pytest.mark.parametrize("by_length", [True, False])
@pytest.mark.parametrize("batch_size", [1, 8, 64])
def test_batches_hold_every_row_padded_on_the_right(split, batch_size, by_length):
    pad = 7
    batches = make_batches(split, batch_size, pad, by_length=by_length)
    seen = []
    for batch in batches:
        assert all(values.dtype == torch.int64 for values in batch.values())
        lengths = batch["attention_mask"].sum(dim=1)
        assert batch["input_ids"].shape[1] == lengths.max()
        for ids, types, length, label in zip(
            batch["input_ids"], batch["token_type_ids"], lengths, batch["labels"], strict=True
        ):
            assert (ids[length:] == pad).all() and (types[length:] == 0).all()
            seen.append((ids[:length].tolist(), int(label)))
    rows = list(zip(split.features["input_ids"], split.features["labels"], strict=True))
    if by_length:
        sizes = [len(ids) for ids, _ in seen]
        assert sizes == sorted(sizes, reverse=True)
        assert sorted(seen) == sorted(rows)
    else:
        assert seen == rows


def test_batch_size_of_nothing(split):
    with pytest.raises(InputError, match="batch_size is 0"):
        make_batches(split, 0, 0)
