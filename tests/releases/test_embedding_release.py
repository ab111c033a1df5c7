"""An embedding model through the stages of the pipeline, into the registry, and served."""

import json

import pytest
import torch
from tiny_sentences import sentence_folder, texts, write_rows
from tiny_stages import run_stages

from fastprune.model import checkpoint
from fastprune.problem import problem_of
from fastprune.releases import registration


@pytest.mark.filterwarnings("ignore")
def test_from_a_folder_of_sentence_transformers_to_served_vectors(tmp_path, tiny_tokenizer):
    import mlflow

    (tmp_path / "stages").mkdir()
    source = sentence_folder(tmp_path / "model", tiny_tokenizer)
    train = write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in texts()])
    made = run_stages(
        tmp_path / "stages",
        source=str(source),
        train_file=str(train),
        text_columns=["text"],
        metric="cosine_to_dense",
        keep_ratio=0.5,
    )
    metrics = json.loads((made["report"] / "metrics.json").read_text())
    assert metrics["metric"] == "cosine_to_dense" and metrics["pruned"] < metrics["dense"]

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    rows = json.loads((made["evaluation"] / "served_rows.json").read_text())["texts"]
    assert registration.register(uri, made["pruned"], "tiny", metrics, rows=rows) == "1"
    mlflow.set_tracking_uri(uri)
    answers = mlflow.pyfunc.load_model("models:/tiny/1").predict(["the king won", "a dull film"])
    model, tokenizer = checkpoint.load(made["pruned"]), checkpoint.load_tokenizer(made["pruned"])
    with torch.inference_mode():
        expected = [
            problem_of("embedding").row_outputs(model, tokenizer, [text], 32)
            for text in ("the king won", "a dull film")
        ]
    torch.testing.assert_close(torch.tensor(answers["embedding"].tolist()), torch.stack(expected), check_dtype=False)
