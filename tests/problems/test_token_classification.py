"""Tags of words: how they are read, their loss and curvature, F1 of entities, and the way to a served model."""

import json
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from tiny_models import FAMILIES, build, logits_of, random_batches, random_masks
from transformers import BertForTokenClassification

import fastprune
from fastprune.data import Task, encode, make_batches, read_table
from fastprune.data.preparation import table_task
from fastprune.errors import InputError
from fastprune.importance.fisher import estimate_fisher
from fastprune.model import checkpoint
from fastprune.model.architectures import describe, task_head_of
from fastprune.model.model_inputs import entities_of
from fastprune.model.surgery import slice_model
from fastprune.problem import problem_of
from fastprune.releases import serving
from fastprune.releases.pyfunc_model import PrunedModel

NAMES = ["O", "B-FILM", "I-FILM", "B-WHO"]
TASK = Task("table", "token-classification", "seqeval_f1", ("tokens",), "tags")
CONLL = """-DOCSTART- -X- O

# a film
the DT O
zebra NN B-FILM
film NN I-FILM

king NN B-WHO
# NN O
won VB O
"""


@pytest.fixture
def config(config):
    return config(4, id2label=dict(enumerate(NAMES)), label2id={name: n for n, name in enumerate(NAMES)})


def tagged(model, batch):
    """A batch with a tag for every token but the first and the last."""
    labels = torch.arange(batch["input_ids"].numel()).reshape(batch["input_ids"].shape) % model.config.num_labels
    last = batch["attention_mask"].sum(1) - 1
    labels[batch["attention_mask"] == 0] = labels[:, 0] = -100
    labels[torch.arange(len(last)), last] = -100
    return batch | {"labels": labels}


def test_conll_jsonl_and_numbers_give_one_split(tmp_path, tiny_tokenizer, config):
    (tmp_path / "t.conll").write_text(CONLL)
    rows = [(["the", "zebra", "film"], ["O", "B-FILM", "I-FILM"]), (["king", "#", "won"], ["B-WHO", "O", "O"])]
    records = [json.dumps({"tokens": words, "tags": tags}) for words, tags in rows]
    (tmp_path / "t.jsonl").write_text("\n".join(records))
    columns = {"tokens": [words for words, _ in rows], "tags": [[NAMES.index(tag) for tag in tags] for _, tags in rows]}
    named = Features(
        {"tokens": List(Value("string")), "tags": List(ClassLabel(names=["B-WHO", "O", "B-FILM", "I-FILM"]))}
    )
    others = columns | {"tags": [[1, 2, 3], [0, 1, 1]]}  # numbered as the table names them, not as the model does
    tables = [read_table(tmp_path / "t.conll"), read_table(tmp_path / "t.jsonl"), Dataset.from_dict(columns)]
    tables.append(Dataset.from_dict(others, features=named))
    splits = [encode(table, tiny_tokenizer, TASK, config, for_evaluation=True) for table in tables]
    assert len({split.digest for split in splits}) == 1
    [labels, _] = splits[0].features["labels"][:]
    pieces = tiny_tokenizer.convert_ids_to_tokens(splits[0].features["input_ids"][0])
    assert [(piece, tag) for piece, tag in zip(pieces, labels) if tag >= 0] == [("the", 0), ("z", 1), ("film", 2)]


def test_only_first_pieces_have_tags(tiny_tokenizer, config):
    table = Dataset.from_dict({"tokens": [["qqq", "won"], ["it"]], "tags": [[1, 3], [0]]})
    [batch] = make_batches(encode(table, tiny_tokenizer, TASK, config), 2, 0)
    assert batch["labels"].tolist() == [[-100, 1, -100, -100, 3, -100], [-100, 0, -100, -100, -100, -100]]


def test_cut_words_are_told_as_outside(tiny_tokenizer, config):
    table = Dataset.from_dict({"tokens": [["won"] * 20, ["it"] * 2], "tags": [[1] * 20, [0, 1]]})
    task = Task("table", "token-classification", "accuracy", ("tokens",), "tags", max_length=10)
    split = encode(table, tiny_tokenizer, task, config, for_evaluation=True)
    scores = np.zeros((12, 4))
    scores[:, 1] = 1
    metrics, rows = problem_of("token-classification").measure(split, [scores, scores])
    assert metrics["accuracy"] == 9 / 22 and rows.mean() == pytest.approx(9 / 22, abs=0.05)


@pytest.mark.parametrize(
    "tags, want",
    [
        ("O B-a I-a O", {("a", 1, 2)}),
        ("B-a B-a I-b", {("a", 0, 0), ("a", 1, 1), ("b", 2, 2)}),
        ("I-a E-a I-a", {("a", 0, 1), ("a", 2, 2)}),
        ("S-a S-a E-b", {("a", 0, 0), ("a", 1, 1), ("b", 2, 2)}),
        ("NOUN NOUN VERB O", {("NOUN", 0, 1), ("VERB", 2, 2)}),
    ],
)
def test_entities_are_those_of_seqeval(tags, want):
    """The right values are seqeval 1.2.2's; 20,000 rows drawn at random were compared with it too."""
    assert entities_of(tags.split()) == want


def test_f1_is_that_of_seqeval(tiny_tokenizer, config):
    words = [["it"] * 5, ["it"] * 4]
    gold, told = [[0, 1, 2, 0, 3], [3, 2, 1, 2]], [[0, 1, 0, 0, 3], [3, 2, 1, 2]]
    split = encode(
        Dataset.from_dict({"tokens": words, "tags": gold}), tiny_tokenizer, TASK, config, for_evaluation=True
    )
    outputs = [np.vstack([np.zeros(4), np.eye(4)[row], np.zeros((3, 4))]) for row in told]
    metrics, rows = problem_of("token-classification").measure(split, outputs)
    assert metrics == {"seqeval_f1": pytest.approx(0.8), "accuracy": pytest.approx(8 / 9)}
    assert len(rows) == 2


@pytest.mark.parametrize("family", ["bert", "distilbert", "deberta-v2"])
def test_loss_fisher_and_task_head(family):
    model = build(family, "token-classification", num_layers=2, num_filters=6)
    batch = tagged(model, random_batches(model, "question-answering", [[5, 7]])[0])
    batch = {name: value for name, value in batch.items() if "positions" not in name}
    problem = problem_of("token-classification")
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        outputs = model(**batch)
    counted = (batch["labels"] >= 0).sum()
    torch.testing.assert_close(problem.loss(outputs, batch).sum() / counted, outputs.loss)
    alone = [{name: value[row : row + 1, :length] for name, value in batch.items()} for row, length in ((0, 5), (1, 7))]
    together, one_by_one = (
        estimate_fisher(describe(model), batches, "token-classification", progress=False)
        for batches in ([batch], alone)
    )
    torch.testing.assert_close(together.filter_grads, one_by_one.filter_grads, atol=1e-5, rtol=1e-4)
    [linear], _ = task_head_of(model)
    base = getattr(model, model.base_model_prefix)
    with torch.no_grad():
        torch.testing.assert_close(linear(base(**inputs).last_hidden_state), outputs.logits)


def test_the_score_reads_no_padding():
    model = build("bert", "token-classification")
    [batch] = random_batches(model, "regression", [[4, 9]])
    problem, draw = problem_of("token-classification"), torch.Generator().manual_seed(0)
    outputs = model(**{name: value for name, value in batch.items() if name != "labels"})
    outputs.logits.retain_grad()
    problem.score(outputs, batch, 4.0, draw).backward()
    assert (outputs.logits.grad.abs().sum(-1) > 0).equal(batch["attention_mask"].bool())


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded(tmp_path, family, tiny_tokenizer):
    encoder = describe(build(family, "token-classification"))
    model = slice_model(encoder, random_masks(encoder))
    batch = random_batches(model, "regression", [[4, 9]])[0]
    checkpoint.save(tmp_path / "out", model, tiny_tokenizer, {})
    told, wanted = (
        logits_of(one, batch)[batch["attention_mask"].bool()] for one in (checkpoint.load(tmp_path / "out"), model)
    )
    torch.testing.assert_close(told, wanted)


@pytest.mark.parametrize("settings", [{"selection": "fisher", "tuning": "mask"}, {}], ids=["paper", "default"])
def test_from_words_to_served_entities(tmp_path, tiny_tokenizer, config, settings):
    """Learned, compressed without labels of the sample, and served with the answers that it is evaluated by."""
    rng = np.random.default_rng(0)
    kinds = {"the": 0, "was": 0, "zebra": 1, "film": 2, "king": 3}
    words = [list(rng.choice(list(kinds), rng.integers(2, 9))) for _ in range(400)]
    table = Dataset.from_dict({"tokens": words, "tags": [[NAMES[kinds[word]] for word in row] for row in words]})
    for name, value in {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}.items():
        setattr(config, name, value)
    config.intermediate_size, config.max_position_embeddings, config.architectures = 64, 64, None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForTokenClassification(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for batch in make_batches(encode(table, tiny_tokenizer, TASK, config), 32, 0) * 3:
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
    model.eval().save_pretrained(tmp_path / "dense")
    assert table_task(tmp_path / "dense", (), None) == TASK
    sample = table if settings else table.remove_columns("tags")
    result = fastprune.compress(
        model, tiny_tokenizer, sample.select(range(300)), evaluation=table.select(range(300, 400)), task=TASK,
        keep_ratio=0.5, device="cpu", progress=False, output_dir=tmp_path / "out", **settings,
    )  # fmt: skip
    assert result.metrics["dense"] > 0.9 and result.metrics["pruned"] > 0.7
    texts = [["the zebra film was"], ["king"]]
    serving.check_answers(result.model, tmp_path / "out", result.manifest, texts)


def test_served_entities(tmp_path, tiny_tokenizer, config):
    for name, value in {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}.items():
        setattr(config, name, value)
    encoder = describe(BertForTokenClassification(config).eval())
    checkpoint.save(tmp_path / "out", slice_model(encoder, random_masks(encoder)), tiny_tokenizer, {})
    served = PrunedModel()
    artifacts = serving.artifacts_of(tmp_path / "out", problem_of("token-classification"))
    served.load_context(SimpleNamespace(artifacts=artifacts, model_config={"text_columns": ["text"], "max_length": 8}))
    answers = served.predict(None, pandas.DataFrame({"text": ["the  king won", "it " * 12]}))
    words = json.loads(answers["words"][0])
    assert [word["word"] for word in words] == ["the", "king", "won"]
    for entity in json.loads(answers["entities"][0]):
        assert entity["text"] == " ".join(["the", "king", "won"][entity["first"] : entity["last"] + 1])
    assert [word["tag"] for word in json.loads(answers["words"][1])][6:] == ["O"] * 6


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"tokens": [["a", "b"]], "tags": [["O"]]}, "row 1 has 2 words and 1 tags in column 'tags'"),
        ({"tokens": [["a"]], "tags": ["O"]}, "row 1 has 1 words and no list of tags"),
        ({"tokens": ["a b"], "tags": [["O", "O"]]}, "row 1 of column 'tokens' is 'a b', and not a list of words"),
        ({"tokens": [["a"], []], "tags": [["O"], []]}, "row 2 of column 'tokens'"),
        ({"tokens": [["a"], ["b", ""]], "tags": [["O"], ["O", "O"]]}, "row 2 of column 'tokens'"),
        ({"tokens": [["a"], ["b"]], "tags": [["O"], ["B-X"]]}, "row 2 has the label 'B-X'"),
    ],
)
def test_rows_that_do_not_fit(tiny_tokenizer, config, columns, message):
    with pytest.raises(InputError, match=message):
        encode(Dataset.from_dict(columns), tiny_tokenizer, TASK, config)


@pytest.mark.parametrize(
    "text, message",
    [("the O\nfilm NN O\n", "line 2 has 3 columns where the first has 2"), ("the\n", "line 1 has 1 columns")],
)
def test_conll_files_that_do_not_fit(tmp_path, text, message):
    (tmp_path / "t.conll").write_text(text)
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / "t.conll")


def test_evaluation_rows_of_one_tag_tell_nothing(tiny_tokenizer, config):
    table = Dataset.from_dict({"tokens": [["it"], ["was"]], "tags": [["O"], ["O"]]})
    split = encode(table, tiny_tokenizer, TASK, config, for_evaluation=True)
    with pytest.raises(InputError, match="all words of the evaluation rows have one tag"):
        problem_of("token-classification").check_evaluation(split)
