"""Embedding models exported: judged by their vectors, with labels and without any."""

import json

import onnxruntime
import pytest
from click.testing import CliRunner
from safetensors import safe_open
from tiny_sentences import PAIRS, sentence_folder, texts, write_rows

from fastprune.cli.main import main


def call(*arguments):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_tokenizer):
    """A folder with a dense model, its data, and the model pruned on texts alone and exported at once."""
    folder = tmp_path_factory.mktemp("embedding")
    sentence_folder(folder / "dense", tiny_tokenizer)
    write_rows(folder / "texts.jsonl", [{"text": text} for text in texts()])
    write_rows(folder / "pairs.jsonl", PAIRS)
    given = ("--train-file", folder / "texts.jsonl", "--text-column", "text", "--keep-ratio", 0.5)
    call("compress", folder / "dense", *given, "--export", "onnx", "--output-dir", folder / "pruned")
    return folder


def test_vectors_are_held_against_the_dense_models(made):
    metrics = json.loads((made / "pruned" / "metrics.json").read_text())
    exported = metrics["exported"]
    assert exported["metric"] == exported["agreement"] == pytest.approx(metrics["pruned"], abs=1e-5)
    assert metrics["pruned"] < 0.999 and exported["standard_error"] > 0


def test_the_folder_is_what_text_embeddings_inference_reads(made):
    """By its own source: configuration, tokenizer and pooling in the folder, the model in ``onnx`` within it."""
    folder = made / "pruned"
    config = json.loads((folder / "config.json").read_text())
    for name in ("architectures", "model_type", "max_position_embeddings", "hidden_size", "num_hidden_layers"):
        assert config[name], name
    assert (folder / "tokenizer.json").is_file() and (folder / "1_Pooling" / "config.json").is_file()
    assert not (folder / "model.onnx").exists()  # it would be read first
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    assert {one.name for one in session.get_inputs()} <= {"input_ids", "attention_mask", "token_type_ids"}
    assert session.get_outputs()[0].name == "last_hidden_state"


def test_a_portable_folder_has_the_weights_that_text_embeddings_inference_asks_for(made, tmp_path):
    """By its own source (its Candle BERT): these fields, and these names and shapes with or without ``bert.``."""
    given = ("--train-file", made / "texts.jsonl", "--text-column", "text", "--keep-ratio", 0.4)
    call("compress", made / "dense", *given, "--layout", "portable", "--output-dir", tmp_path / "out")
    folder = tmp_path / "out"
    config = json.loads((folder / "config.json").read_text())
    fields = ("hidden_dropout_prob", "initializer_range", "layer_norm_eps", "pad_token_id", "hidden_act")
    assert all(config[name] is not None for name in fields) and config["model_type"] == "bert"
    hidden, filters, layers = (config[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    wanted = {
        "embeddings.word_embeddings.weight": [config["vocab_size"], hidden],
        "embeddings.position_embeddings.weight": [config["max_position_embeddings"], hidden],
        "embeddings.token_type_embeddings.weight": [config["type_vocab_size"], hidden],
        "embeddings.LayerNorm.weight": [hidden],
    }
    for layer in range(layers):
        for name, shape in {
            "attention.self.query": [hidden, hidden],
            "attention.self.key": [hidden, hidden],
            "attention.self.value": [hidden, hidden],
            "attention.output.dense": [hidden, hidden],
            "intermediate.dense": [filters, hidden],
            "output.dense": [hidden, filters],
        }.items():
            wanted[f"encoder.layer.{layer}.{name}.weight"] = shape
            wanted[f"encoder.layer.{layer}.{name}.bias"] = shape[:1]
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            wanted |= dict.fromkeys((f"encoder.layer.{layer}.{name}.{part}" for part in ("weight", "bias")), [hidden])
    with safe_open(folder / "model.safetensors", "pt") as file:
        found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (no mapping)
    assert filters < 24 and wanted.items() <= found.items()
    assert json.loads((folder / "1_Pooling" / "config.json").read_text())["pooling_mode_mean_tokens"]
    assert json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"] == 32
    assert (folder / "modules.json").is_file() and (folder / "tokenizer.json").is_file()
    assert not list(folder.glob("*.py"))


@pytest.mark.parametrize("model", ["dense", "pruned"])
def test_an_export_is_judged_on_pairs_or_on_texts_alone(made, tmp_path, model):
    pairs = ("--eval-file", made / "pairs.jsonl", "-A", "first", "-A", "second")
    for name, given in {
        "spearman": (*pairs, "--label-column", "score"),
        "ndcg_at_10": (*pairs, "--metric", "ndcg_at_10"),
        "cosine_to_dense": ("--eval-file", made / "texts.jsonl", "--text-column", "text"),
    }.items():
        call("export", made / model, *given, "--output-dir", tmp_path / name)
        record = json.loads((tmp_path / name / "export.json").read_text())
        plain, exported = record["metric"]["pytorch"], record["metric"]["exported"]
        assert plain["name"] == name and exported["value"] == pytest.approx(plain["value"], abs=1e-5)
        assert record["agreement"] == pytest.approx(1, abs=1e-5)


def test_bench_takes_models_of_one_problem(made, material, tmp_path):
    given = ("--eval-file", made / "texts.jsonl", "--text-column", "text")
    folders = [str(one) for one in (made / "pruned", made / "pruned" / "onnx", material / "model")]
    done = CliRunner().invoke(main, ["bench", *folders, *map(str, given)])
    assert done.exit_code == 2 and f"{folders[2]}: is no model for embedding, as {folders[0]} is" in done.output
    given = ("--eval-file", material / "eval.tsv", "--text-column", "text", "--label-column", "label")
    done = CliRunner().invoke(main, ["bench", folders[2], folders[1], *map(str, given)])
    assert done.exit_code == 2 and f"{folders[1]}: is no model for classification" in done.output, done.output


def test_bench_needs_no_labels(made):
    given = ("--eval-file", made / "texts.jsonl", "--text-column", "text", "--batches", 2, "--rounds", 1, "--json")
    told = call("bench", made / "dense", made / "pruned", made / "pruned" / "onnx", *given)
    dense, *others = json.loads(told.splitlines()[-1])["candidates"]
    assert dense["metric"]["value"] == pytest.approx(1) and dense["metric"]["name"] == "cosine_to_dense"
    pruned = json.loads((made / "pruned" / "metrics.json").read_text())["pruned"]
    for one in others:
        assert one["metric"]["value"] == one["agreement"] == pytest.approx(pruned, abs=0.05)
        assert one["agreement"] < 0.999
