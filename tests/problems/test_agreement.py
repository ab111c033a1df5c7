"""Rows without labels: what a model answers against what the dense model does."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from datasets import Dataset
from tiny_data import texts
from tiny_models import random_masks
from tiny_stages import run_stages
from transformers import BertForTokenClassification

from fastprune.cli.main import main
from fastprune.data import Split, Task, encode, make_batches
from fastprune.data.evaluation import evaluate_rows, refuse_untuned
from fastprune.data.preparation import parted, table_task
from fastprune.errors import InputError
from fastprune.model.architectures import describe
from fastprune.model.surgery import slice_model
from fastprune.problem import problem_of
from fastprune.sweep.reading import parse_config

LONG = "the king won a very good film . " * 8
TABLES = {
    "classification": {"text": texts(30, seed=3)},
    "regression": {"text": texts(30, seed=3)},
    "multi-label": {"text": texts(30, seed=3)},
    "token-classification": {"text": [text.split() for text in texts(30, seed=3)]},
    "question-answering": {"question": ["who won"] * 5, "context": [LONG, "it was dull", LONG[7:], "a film", "good"]},
}
TABLES["reranking"] = {"query": ["who won", "a film", "it"] * 10, "passage": texts(30, seed=3)}
TABLES["question-answering-or-none"] = TABLES["question-answering"]


def model_for(tiny_bert, config, problem):
    if problem == "token-classification":
        sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return BertForTokenClassification(config(4, **sizes, initializer_range=0.2)).eval()
    kind = "multi_label_classification" if problem == "multi-label" else None
    outputs = {"regression": 1, "reranking": 1, "question-answering": 2}.get(problem, 3)
    head = "question-answering" if "question" in problem else "classification"
    return tiny_bert(2 if head == "question-answering" else outputs, head, problem_type=kind, initializer_range=0.3)


@pytest.mark.parametrize("problem", TABLES)
def test_a_model_agrees_with_itself_and_less_with_another(tmp_path, tiny_tokenizer, tiny_bert, config, problem):
    dense = model_for(tiny_bert, config, problem)
    task = Task("t", problem, "agreement", tuple(TABLES[problem]), "", max_length=32)
    split = encode(Dataset.from_dict(TABLES[problem]), tiny_tokenizer, task, dense.config, for_evaluation=True)
    split.save(tmp_path / "split")
    split = Split.load(tmp_path / "split")
    own = evaluate_rows(dense, split, pad_token_id=0, progress=False)
    for batch_size in (1, 7):
        found = evaluate_rows(dense, split, pad_token_id=0, batch_size=batch_size, dense=own, progress=False)
        assert found.metrics["metric"] == pytest.approx(1) and found.metrics["divergence"] == pytest.approx(0, abs=1e-6)
    refuse_untuned(found.metrics["metric"], split, dense.config.num_labels)
    encoder = describe(dense)
    small = slice_model(encoder, random_masks(encoder))
    sliced = evaluate_rows(small, split, pad_token_id=0, dense=own, progress=False)
    assert sliced.metrics["agreement"] < 1 and sliced.metrics["divergence"] > 0.01
    examples = TABLES[problem][task.text_columns[0]]
    assert len(sliced.outcomes) == len(set(examples) if problem == "reranking" else examples)
    assert sliced.outcomes.mean() == pytest.approx(sliced.metrics["agreement"])


def test_agreement_and_divergence_of_classes(tiny_tokenizer, tiny_bert):
    dense, other = tiny_bert(3, initializer_range=0.3), tiny_bert(3, seed=5, initializer_range=0.3)
    task = Task("t", "classification", "agreement", ("text",), "")
    split = encode(Dataset.from_dict(TABLES["classification"]), tiny_tokenizer, task, dense.config, for_evaluation=True)
    own = evaluate_rows(dense, split, pad_token_id=0, progress=False)
    found = evaluate_rows(other, split, pad_token_id=0, dense=own, progress=False)
    with torch.no_grad():
        batches = make_batches(split, 30, 0, by_length=False)
        one, two = (torch.cat([model(**batch).logits for batch in batches]) for model in (dense, other))
    want = torch.nn.functional.kl_div(two.log_softmax(-1), one.log_softmax(-1), reduction="batchmean", log_target=True)
    assert found.metrics["divergence"] == pytest.approx(want.item(), rel=1e-4)
    assert found.outcomes.tolist() == (one.argmax(-1) == two.argmax(-1)).double().tolist()


def test_texts_alone_from_the_command_line(tmp_path, material):
    lines = (material / "train.tsv").read_text().splitlines()
    (tmp_path / "texts.tsv").write_text("".join(line.split("\t")[0] + "\n" for line in lines))
    given = ["compress", str(material / "model"), "--train-file", str(tmp_path / "texts.tsv"), "--text-column", "text"]
    given += ["--metric", "agreement", "--num-samples", "64", "--device", "cpu"]
    done = CliRunner().invoke(main, [*given, "--max-accuracy-drop", "0.1", "--output-dir", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["metric"], metrics["dense"]) == ("agreement", 1.0) and metrics["rows"] == 60
    assert 0.7 < metrics["pruned"] <= 1 and metrics["divergence"] > 0 and metrics["curve"]["dense"] == 1.0
    assert "agreement" in done.output
    for more, message in (
        (["--selection", "fisher"], "selection fisher reads labels"),
        (["--label-column", "label"], "reads no labels; leave label_column out"),
    ):
        done = CliRunner().invoke(main, [*given, "--keep-ratio", "0.5", "--output-dir", str(tmp_path / "other"), *more])
        assert done.exit_code == 2 and message in done.output and not (tmp_path / "other").exists()


@pytest.mark.filterwarnings("ignore:.*evaluation rows are also")
def test_texts_alone_through_the_stages(tmp_path, source):
    given = {name: value for name, value in source.items() if name not in ("label_column", "eval_file")}
    made = run_stages(tmp_path, **given, metric="agreement", keep_ratio=0.5)
    metrics = json.loads((made["report"] / "metrics.json").read_text())
    assert metrics["dense"] == 1.0 and 0 < metrics["pruned"] <= 1 and metrics["divergence"] > 0
    page = (made["report"] / "report.html").read_text()
    assert "agreement" in page and "divergence from the dense model" in page
    assert len(json.loads((made["evaluation"] / "served_rows.json").read_text())["texts"]) == 12


def test_the_configuration_needs_no_labels_either(tmp_path):
    model = "{name: a, source: s3://m, train_file: s3://t.csv, text_columns: [text], metric: agreement}"
    document = "name: x\nmodels: [%s]\nbudgets: [{keep_ratio: 0.5}]\n"
    assert parse_config(document % model, tmp_path / "x.yaml").models[0].eval_file == ""
    with pytest.raises(InputError, match="no data"):
        parse_config(document % model.replace("agreement", "accuracy"), tmp_path / "x.yaml")


def test_rows_that_nothing_is_known_of(tmp_path, material):
    shutil.copytree(material / "model", tmp_path / "model")
    with pytest.raises(InputError, match="where there are no labels, --metric agreement"):
        table_task(tmp_path / "model", ("text",), None)
    table = Dataset.from_dict({"text": ["it"] * 4, "label": [0, 1] * 2})
    with pytest.raises(InputError, match="there is no evaluation.*metric agreement"):
        parted(table, None, Task("t", "classification", "accuracy", ("text",), "label"), 0)
    with pytest.raises(InputError, match="drawn from, or compare with the dense model: metric cosine_to_dense$"):
        parted(table, None, Task("t", "embedding", "spearman", ("text",), "label"), 0)
    with pytest.raises(InputError, match="beside those that the sample is drawn from$"):
        parted(table, None, Task("t", "zero-shot", "accuracy", ("text",), "label"), 0)


def test_a_problem_of_labels_alone(tmp_path, tiny_bert):
    tiny_bert(2, id2label={0: "entailment", 1: "contradiction"}).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="metric 'agreement' is not one of"):
        table_task(tmp_path, ("text",), None, "agreement", problem_name="zero-shot")
    with pytest.raises(InputError, match="and --label-column$"):
        table_task(tmp_path, ("text",), None, problem_name="zero-shot")


def test_rerankers_agree_on_the_order_of_a_querys_passages(tiny_tokenizer, config):
    """Of four passages of one query all six pairs, of two of another the one; a third has nothing to order."""
    rows = [{"query": query, "passage": text} for query, text in zip("aaaabbc", texts(7, seed=3), strict=True)]
    task, problem = Task("t", "reranking", "agreement", ("query", "passage"), ""), problem_of("reranking")
    split = encode(Dataset.from_list(rows), tiny_tokenizer, task, config(1), for_evaluation=True)
    dense = [np.array([score]) for score in (4.0, 3.0, 2.0, 1.0, 0.0, 1.0, 5.0)]
    other = [np.array([score]) for score in (4.0, 3.0, 1.0, 2.0, 1.0, 0.0, 9.0)]
    found, outcomes = problem.likeness(split, other, dense)
    assert outcomes.tolist() == [5 / 6, 0.0] and found["agreement"] == pytest.approx(5 / 12)
    assert found["divergence"] == pytest.approx((1 + 1 + 1 + 1 + 16) / 7)
    alone = encode(Dataset.from_list(rows[3::2]), tiny_tokenizer, task, config(1), for_evaluation=True)
    with pytest.raises(InputError, match="no query has more than one passage"):
        problem.likeness(alone, dense[:2], dense[:2])
