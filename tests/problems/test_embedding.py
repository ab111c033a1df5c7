"""Embedding models: pruned on texts alone, judged on pairs, and loaded by sentence-transformers without fastprune."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from datasets import Dataset
from tiny_sentences import PAIRS, sentence_folder, texts, write, write_rows

import fastprune
from fastprune.cli.main import main
from fastprune.data import encode, make_batches
from fastprune.data.evaluation import evaluate_rows
from fastprune.data.preparation import table_task
from fastprune.errors import InputError
from fastprune.importance.fisher import estimate_fisher
from fastprune.model import checkpoint, sentence
from fastprune.model.architectures import describe
from fastprune.problem import problem_of

EMBEDDING = problem_of("embedding")
RANKED = [{"question": f"who {row['first']}", "passage": row["second"]} for row in PAIRS]


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_tokenizer):
    """Folders of sentence-transformers, one for each pooling."""
    folder = tmp_path_factory.mktemp("sentences")
    prompts = {"prompts": {"query": "who ", "passage": "it "}, "default_prompt_name": "query"}
    made = {"mean": sentence_folder(folder / "mean", tiny_tokenizer)}
    for mode in ("cls", "max"):
        pooling = {"embedding_dimension": 16, "pooling_mode": mode}
        made[mode] = sentence_folder(folder / mode, tiny_tokenizer, pooling=pooling, normalize=False)
        write(made[mode], config_sentence_transformers=prompts)
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    return {
        "train": write_rows(folder / "train.jsonl", [{"text": text} for text in texts()]),
        "pairs": write_rows(folder / "pairs.jsonl", PAIRS),
        "ranked": write_rows(folder / "ranked.jsonl", RANKED),
    }


def command(model, files, output, *more):
    options = ["--train-file", files["train"], "--text-column", "text", "--keep-ratio", "0.5", "--output-dir", output]
    return CliRunner().invoke(main, ["compress", *map(str, (model, *options, *more))], catch_exceptions=False)


@pytest.fixture(scope="module")
def pruned(models, files, tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("pruned"), {}
    scored = ("--text-column", "first", "--text-column-b", "second", "--label-column", "score")
    ranked = ("--text-column", "question", "--text-column-b", "passage", "--metric", "ndcg_at_10")
    for mode, model in models.items():
        columns = (
            ("--eval-file", files["pairs"], *scored) if mode == "mean" else ("--eval-file", files["ranked"], *ranked)
        )
        result = command(model, files, folder / mode, *columns, "--allow-untuned")
        assert result.exit_code == 0, result.output
        made[mode] = folder / mode
    return made


ELSEWHERE = """
import json, sys
sys.modules["fastprune"] = None  # makes `import fastprune` fail
from sentence_transformers import SentenceTransformer
texts = json.loads(sys.argv[1])
made = {}
for folder in sys.argv[2:]:
    model = SentenceTransformer(folder, device="cpu", trust_remote_code=True)
    made[folder] = model.encode(texts).tolist()
print(json.dumps(made))
"""


def test_sentence_transformers_encodes_as_the_evaluation_does(models, pruned, tmp_path):
    folders = [*map(str, pruned.values()), *map(str, models.values())]
    rows = texts(12) + ["who won it " * 30]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, json.dumps(rows), *folders],
        cwd=tmp_path,
        env=environment | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    for folder, vectors in json.loads(result.stdout.splitlines()[-1]).items():
        kept = (checkpoint.load if folder in map(str, pruned.values()) else checkpoint.load_dense)(folder)
        tokenizer = checkpoint.load_tokenizer(folder)
        with torch.inference_mode():
            own = [EMBEDDING.row_outputs(kept, tokenizer, [text], EMBEDDING.length(kept.config)) for text in rows]
        given = torch.nn.functional.normalize(torch.tensor(vectors), dim=-1)
        torch.testing.assert_close(torch.stack(own), given, rtol=0, atol=1e-5)


def test_saved_again_by_itself_it_is_whole(pruned, tmp_path):
    """``save_pretrained`` writes the documents that are beside a saved model, and keeps them in memory."""
    for mode, folder in pruned.items():
        model, written = checkpoint.load(folder), 0
        for place in (tmp_path / mode / "once", tmp_path / mode / "twice"):
            model.save_pretrained(place)
            for name in model.config.sentence_documents:
                assert json.loads((place / name).read_text()) == json.loads((folder / name).read_text())
                written += 1
            assert "sentence_documents" not in json.loads((place / "config.json").read_text())
            model = checkpoint.load(place)
        assert written >= 6 and (tmp_path / mode / "twice" / "modules.json").is_file()


def test_a_path_of_a_document_stays_in_the_folder(models, pruned, tmp_path):
    hostile = {"../outside.json": {}}
    folder = tmp_path / "hostile"
    shutil.copytree(models["mean"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"sentence_documents": hostile}))
    assert "../outside.json" not in checkpoint.load_config(folder).sentence_documents
    model = checkpoint.load(pruned["mean"])
    model.config.sentence_documents = hostile
    with pytest.raises(ValueError, match="names '../outside.json', which lies outside the folder"):
        model.save_pretrained(tmp_path / "own")
    model.config.sentence_documents = hostile
    with pytest.raises(InputError, match="not a name inside"):
        sentence.write(tmp_path / "own", model.config)
    assert not (tmp_path / "outside.json").exists()


def test_a_folder_of_sentence_transformers_comes_out(pruned):
    for folder in pruned.values():
        assert {"modules.json", "1_Pooling", "sentence_bert_config.json", "manifest.json"} <= set(os.listdir(folder))
        config = json.loads((folder / "config.json").read_text())
        assert config["auto_map"] == {"AutoModel": "modeling_fastprune.PrunedBertModel"}
        assert "sentence_documents" not in config
        assert json.loads((folder / "metrics.json").read_text())["macs_kept"] <= 0.5


def test_no_label_of_the_sample_is_read(models, files, pruned, tmp_path):
    """Whatever is evaluated on, the model is the same."""
    columns = ("--text-column", "question", "--text-column-b", "passage", "--metric", "recall_at_1")
    result = command(
        models["mean"], files, tmp_path / "out", "--eval-file", files["ranked"], *columns, "--allow-untuned"
    )
    assert result.exit_code == 0, result.output
    digests = [
        json.loads((path / "manifest.json").read_text())["weights_sha256"]
        for path in (tmp_path / "out", pruned["mean"])
    ]
    assert digests[0] == digests[1]


def test_the_papers_method(models, files, tmp_path):
    columns = ("--text-column", "first", "--text-column-b", "second", "--label-column", "score", "--allow-untuned")
    paper = ("--selection", "fisher", "--tuning", "mask")
    result = command(models["mean"], files, tmp_path / "out", "--eval-file", files["pairs"], *columns, *paper)
    assert result.exit_code == 0, result.output


def test_a_plain_encoder_with_a_pooling_by_name(models, files, tmp_path, tiny_tokenizer):
    folder = sentence_folder(tmp_path / "plain", tiny_tokenizer)
    (folder / "modules.json").unlink()
    columns = ("--text-column", "first", "--text-column-b", "second", "--label-column", "score", "--allow-untuned")
    result = command(folder, files, tmp_path / "out", "--eval-file", files["pairs"], *columns, "--pooling", "cls")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "1_Pooling" / "config.json").read_text())["pooling_mode_cls_token"]
    assert checkpoint.load(tmp_path / "out").config.sentence_embedding["pooling"] == "cls"


def split_of(model, rows, *, for_evaluation=True, metric=None, columns=("first", "second"), label="score"):
    config, tokenizer = checkpoint.load_config(model), checkpoint.load_tokenizer(model)
    task = table_task(model, columns, label, metric)
    return encode(
        Dataset.from_list(rows), tokenizer, task, config, for_evaluation=for_evaluation, labelled=for_evaluation
    )


def test_scores_of_pairs(models):
    from scipy.stats import spearmanr

    model, tokenizer = checkpoint.load_dense(models["mean"]), checkpoint.load_tokenizer(models["mean"])
    vectors = {}
    with torch.inference_mode():
        for row in PAIRS:
            for text in (row["first"], row["second"]):
                vectors[text] = EMBEDDING.row_outputs(model, tokenizer, [text], 32)
    cosines = [float(vectors[row["first"]] @ vectors[row["second"]]) for row in PAIRS]
    split = split_of(models["mean"], PAIRS)
    evaluated = evaluate_rows(model, split, pad_token_id=tokenizer.pad_token_id, batch_size=4)
    assert len(split) < 2 * len(PAIRS)  # a text that comes twice is encoded once
    assert evaluated.metrics["spearman"] == pytest.approx(spearmanr(cosines, [row["score"] for row in PAIRS]).statistic)
    assert "average_precision" not in evaluated.metrics and len(evaluated.outcomes) == len(PAIRS)


def test_average_precision_of_scores_that_are_no_labels(models):
    split = split_of(models["mean"], PAIRS, metric="average_precision")
    with pytest.raises(InputError, match="average_precision is of labels 0 and 1, both of them; use spearman"):
        evaluate_rows(checkpoint.load_dense(models["mean"]), split, pad_token_id=0)


def test_a_query_with_several_passages(models):
    """The passages of all queries are ranked for each."""
    rows = [
        {"question": "who won it", "passage": "who won it", "relevant": 1},
        {"question": "who won it", "passage": "a dull movie", "relevant": 0},
        {"question": "a dull movie", "passage": "the king", "relevant": 1},
        {"question": "a dull movie", "passage": "a dull movie", "relevant": 1},
    ]
    model = checkpoint.load_dense(models["mean"])
    split = split_of(models["mean"], rows, metric="recall_at_1", columns=("question", "passage"), label="relevant")
    evaluated = evaluate_rows(model, split, pad_token_id=0)
    np.testing.assert_allclose(sorted(evaluated.outcomes), [0.5, 1])


def test_queries_and_passages_have_prompts_of_their_own(models, tiny_tokenizer):
    split = split_of(models["cls"], RANKED, metric="mrr_at_10", columns=("question", "passage"), label=None)
    decoded = {tiny_tokenizer.decode(ids, skip_special_tokens=True) for ids in split.features["input_ids"]}
    assert decoded == {text for row in RANKED for text in (f"who {row['question']}", f"it {row['passage']}")}
    sample = split_of(models["cls"], [{"first": "a film"}], for_evaluation=False)
    assert tiny_tokenizer.decode(sample.features["input_ids"][0], skip_special_tokens=True) == "who a film"


def test_every_text_of_a_row_is_an_example(models, tiny_tokenizer):
    sample = split_of(models["mean"], PAIRS, for_evaluation=False)
    assert len(sample) == len(PAIRS)  # the rows that were asked for, of twice as many examples
    assert EMBEDDING.examples_in(Dataset.from_list(PAIRS), sample.task) == 2 * len(PAIRS)


def test_the_fisher_is_the_curvature_of_the_distance(models):
    """Its mean over many signs is the sum of squares of the masks' Jacobian, from which each draw differs."""
    model = checkpoint.load_dense(models["mean"])
    split = split_of(models["mean"], [{"first": "a very good film"}], for_evaluation=False)
    encoder, batches = describe(model), make_batches(split, 1, 0)
    one = estimate_fisher(encoder, batches, "embedding", progress=False).head_grads
    again = estimate_fisher(encoder, batches + batches, "embedding", progress=False).head_grads
    assert one.abs().sum() > 0
    torch.testing.assert_close(again, one.repeat(2, 1, 1))  # a text has the same signs in whichever batch it is


@pytest.mark.parametrize("mode, positions", [("mean", "every"), ("max", "every"), ("cls", "first")])
def test_which_tokens_are_read_on(models, mode, positions):
    assert EMBEDDING.read_positions(checkpoint.load_config(models[mode])) == positions


@pytest.mark.parametrize(
    "rows, options, refused",
    [
        (
            [{"first": "a", "second": "b", "third": "c", "score": 1}],
            {"columns": ("first", "second", "third")},
            "has 3 of",
        ),
        ([{"first": "a film", "second": " ", "score": 1}], {}, "row 1 is empty in column 'first' or 'second'"),
        (
            [{"question": "who won"}],
            {"columns": ("question", "passage"), "metric": "mrr_at_10", "label": None},
            "has 1 of",
        ),
        ([{"other": "a"}], {}, "no column 'first'"),
        ([{"first": "a", "second": "b", "score": "much"}], {}, "is 'much', not a number"),
    ],
)
def test_refused(models, rows, options, refused):
    with pytest.raises(InputError, match=refused):
        split_of(models["mean"], rows, **options)


def test_a_tokenizer_that_keeps_capitals(models, tmp_path, tiny_tokenizer):
    write(tmp_path, sentence_bert_config={"do_lower_case": True})
    assert checkpoint.load_tokenizer(models["mean"])
    folder = sentence_folder(tmp_path / "model", tiny_tokenizer)
    write(folder, sentence_bert_config={"do_lower_case": True})
    split_of(folder, PAIRS)  # the tiny tokenizer makes texts lower case itself
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    write(folder, tokenizer=tokenizer)
    with pytest.raises(InputError, match="do_lower_case is set"):
        split_of(folder, PAIRS)


def test_in_memory(models):
    model = checkpoint.load_dense(models["mean"])
    del model.config.sentence_embedding, model.config.sentence_documents
    task = table_task(models["mean"], ("text", "first", "second"), "score")
    given = {"tokenizer": checkpoint.load_tokenizer(models["mean"]), "task": task, "keep_ratio": 0.5, "progress": False}
    data = {"dataset": {"text": texts()}, "evaluation": PAIRS, "allow_untuned": True}
    with pytest.raises(InputError, match="name its pooling"):
        fastprune.compress(model, **data, **given)
    result = fastprune.compress(model, **data, **given, pooling="mean")
    assert result.model.config.sentence_embedding["pooling"] == "mean"
    assert not hasattr(model.config, "sentence_embedding")


def test_texts_alone(models, files, tmp_path):
    """Without an evaluation file a part of the texts is set apart, and judged by its likeness to the dense model's."""
    result = command(models["max"], files, tmp_path / "out")
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["metric"] == "cosine_to_dense" and metrics["rows"] == 8
    assert metrics["dense"] == pytest.approx(1, abs=1e-5) and 0 < metrics["pruned"] < 0.999


def test_the_smallest_model_that_is_like_the_dense_one(models, files, tmp_path):
    options = ["compress", models["mean"], "--train-file", files["train"], "--text-column", "text"]
    result = CliRunner().invoke(
        main, [*map(str, options), "--max-accuracy-drop", "0.1", "--output-dir", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    tried = dict(map(tuple, metrics["curve"]["points"]))
    assert 0.9 <= tried[metrics["keep_ratio"]] < 1


def test_a_drop_is_measured_on_labelled_rows(models, files, tmp_path):
    given = ["--train-file", files["train"], "--text-column", "text", "--eval-file", files["pairs"]]
    pairs = ["--text-column", "first", "--text-column-b", "second", "--label-column", "score"]
    command_line = [
        "compress",
        models["mean"],
        *given,
        *pairs,
        "--max-accuracy-drop",
        0.1,
        "--output-dir",
        tmp_path / "out",
    ]
    result = CliRunner().invoke(main, list(map(str, command_line)))
    assert result.exit_code == 2
    assert "no column 'score', and the drop of spearman is measured on labelled rows: give them apart" in result.output


def test_a_score_without_rows_to_measure_on(models, files, tmp_path):
    result = command(models["mean"], files, tmp_path / "out", "--metric", "mrr_at_10")
    assert (
        result.exit_code == 2 and "there is no evaluation, and mrr_at_10 is measured on labelled rows" in result.output
    )
