"""Cross-encoders: pruned, judged by rankings, and loaded by sentence-transformers without fastprune."""

import json
import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from datasets import Dataset
from tiny_sentences import NEW, modules, write, write_rows

from fastprune.cli.main import main
from fastprune.data import encode
from fastprune.data.evaluation import evaluate_rows, refuse_untuned
from fastprune.data.preparation import table_task
from fastprune.errors import InputError
from fastprune.model import checkpoint
from fastprune.problem import problem_of

RERANKING = problem_of("reranking")
QUERIES = ("who won", "what is it", "a good film")
PASSAGES = ("the king won", "a dull movie", "it is a film", "very good", "not bad")
ROWS = [
    {"query": query, "passage": passage, "relevance": (first + second) % 3}
    for first, query in enumerate(QUERIES)
    for second, passage in enumerate(PASSAGES)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_bert, tiny_tokenizer):
    """As version 6 of sentence-transformers saves a CrossEncoder."""
    folder = tmp_path_factory.mktemp("cross") / "model"
    tiny_bert(num_labels=1).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return write(
        folder,
        modules=modules("Transformer", names=NEW),
        config_sentence_transformers={
            "model_type": "CrossEncoder",
            "activation_fn": "torch.nn.modules.linear.Identity",
        },
        sentence_bert_config={
            "transformer_task": "sequence-classification",
            "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
            "module_output_name": "scores",
        },
    )


@pytest.fixture(scope="module")
def pruned(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("pruned")
    rows = write_rows(root / "rows.jsonl", ROWS)
    columns = ("--text-column", "query", "--text-column-b", "passage", "--label-column", "relevance")
    files = ("--train-file", rows, "--eval-file", rows, "--problem", "reranking", "--allow-untuned")
    for name, more in (("default", ()), ("paper", ("--selection", "fisher", "--tuning", "mask"))):
        options = ["compress", folder, *files, *columns, *more, "--keep-ratio", "0.5", "--output-dir", root / name]
        result = CliRunner().invoke(main, list(map(str, options)), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert json.loads((root / name / "metrics.json").read_text())["metric"] == "ndcg_at_10"
    return root / "default"


ELSEWHERE = """
import json, sys
sys.modules["fastprune"] = None  # makes `import fastprune` fail
from sentence_transformers import CrossEncoder
model = CrossEncoder(sys.argv[1], device="cpu", trust_remote_code=True)
print(json.dumps(model.predict(json.loads(sys.argv[2])).tolist()))
"""


@pytest.mark.filterwarnings("ignore:.*evaluation rows are also among")
def test_sentence_transformers_scores_as_the_evaluation_does(pruned, tmp_path):
    pairs = [[row["query"], row["passage"]] for row in ROWS]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(pruned), json.dumps(pairs)],
        cwd=tmp_path,
        env=environment | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    model, tokenizer = checkpoint.load(pruned), checkpoint.load_tokenizer(pruned)
    with torch.inference_mode():
        own = [RERANKING.row_outputs(model, tokenizer, pair, 128).item() for pair in pairs]
    assert json.loads(result.stdout.splitlines()[-1]) == pytest.approx(own, abs=1e-5)


def split_of(folder, rows):
    config, tokenizer = checkpoint.load_config(folder), checkpoint.load_tokenizer(folder)
    task = table_task(folder, ("query", "passage"), "relevance", problem_name="reranking")
    return encode(Dataset.from_list(rows), tokenizer, task, config, for_evaluation=True)


def test_metrics(folder):
    """With relevance by its own scores a model ranks perfectly, and against them not."""
    model, tokenizer = checkpoint.load_dense(folder), checkpoint.load_tokenizer(folder)
    with torch.inference_mode():
        scores = [RERANKING.row_outputs(model, tokenizer, [row["query"], row["passage"]], 128).item() for row in ROWS]
    for sign, low, high in ((1, 1, 1), (-1, 0, 0.95)):
        rows = [row | {"relevance": 8.0 ** (sign * score)} for row, score in zip(ROWS, scores, strict=True)]
        evaluated = evaluate_rows(model, split_of(folder, rows), pad_token_id=0)
        assert low - 1e-6 <= evaluated.metrics["ndcg_at_10"] <= high + 1e-6
        assert len(evaluated.outcomes) == len(QUERIES)


@pytest.mark.parametrize(
    "rows, refused",
    [
        ([{"query": "who", "passage": "the king", "relevance": 1}], "no query has more than one passage"),
        ([ROWS[0] | {"relevance": 0}, ROWS[1] | {"relevance": 0}], "no passage is relevant to its query"),
    ],
)
def test_rows_that_tell_nothing(folder, rows, refused):
    with pytest.raises(InputError, match=refused):
        refuse_untuned(1.0, split_of(folder, rows), 1)


def test_a_query_without_passages(folder):
    with pytest.raises(InputError, match="row 2 is empty in column 'query' or 'passage'; fill it or drop the row"):
        split_of(folder, [ROWS[0], {"query": "who won", "passage": "", "relevance": 0}])


def test_a_classifier_is_no_reranker(tmp_path, tiny_bert):
    tiny_bert(num_labels=2).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="problem 'reranking' is for other models"):
        table_task(tmp_path, ("query", "passage"), "relevance", problem_name="reranking")
