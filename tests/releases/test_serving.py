"""What is evaluated is what is served; and no code is served but fastprune's own."""

import json
import shutil
import time
from types import SimpleNamespace

import pandas
import pytest
import torch
from tiny_releases import NAME

from fastprune.data import Task, encode, evaluation
from fastprune.errors import InputError, Unreachable
from fastprune.model import checkpoint, model_inputs
from fastprune.model.architectures import describe
from fastprune.model.masks import Masks
from fastprune.model.surgery import slice_model
from fastprune.problem import problem_of
from fastprune.problems import question_answering
from fastprune.releases import registration, serving
from fastprune.releases.pyfunc_model import PrunedModel
from fastprune.tracking import deadlines

TEXTS = ["good", "a very dull film and not good", "it was great", "film " * 200]
PAIRS = ["bad film", "it", "the king was very good", "dull"]
UNLIKE = {
    "left padding": ({"padding_side": "left"}, {}, ["text"]),
    "fewer positions than the tokenizer cuts at": ({}, {"max_position_embeddings": 20}, ["text"]),
    "a pair for one token type": ({}, {"type_vocab_size": 1}, ["text", "other"]),
    "left padding of a pair": ({"padding_side": "left"}, {}, ["text", "other"]),
}


@pytest.fixture
def unlike(tmp_path, tiny_bert, tiny_tokenizer):
    def make(tokenizer, config, columns):
        encoder = describe(tiny_bert(**config))
        masks = Masks.ones(encoder)
        masks.heads[0, :2] = 0
        model = slice_model(encoder, masks)
        folder = checkpoint.save(tmp_path / "pruned", model, tiny_tokenizer, {})
        for name in ("tokenizer_config.json",):
            content = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps(content | tokenizer))
        return folder, model, {"problem": "classification", "text_columns": columns, "max_length": 128}

    return make


def served(folder, settings, inputs=serving.INPUTS):
    model = PrunedModel()
    answers = problem_of(settings["problem"]).answers
    artifacts = {"model": str(folder), "inputs": str(inputs), "answers": str(answers)}
    model.load_context(SimpleNamespace(artifacts=artifacts, model_config=settings))
    return model


@pytest.mark.parametrize("case", UNLIKE)
def test_a_batch_is_served_what_each_row_is_evaluated_as(unlike, case):
    folder, model, settings = unlike(*UNLIKE[case])
    rows = [list(row) for row in zip(TEXTS, PAIRS)] if len(settings["text_columns"]) == 2 else [[t] for t in TEXTS]
    evaluated = torch.tensor(serving.logits(model, checkpoint.load_tokenizer(folder), rows, settings)).softmax(-1)
    table = pandas.DataFrame(rows, columns=["text", "text_pair"][: len(rows[0])])
    answers = served(folder, settings).predict(None, table)
    found = torch.tensor([list(json.loads(row).values()) for row in answers["probabilities"]])
    torch.testing.assert_close(found, evaluated, atol=1e-5, rtol=0)
    serving.check_answers(model, folder, settings, rows[:2])


def test_questions_are_served_the_answers_that_they_are_evaluated_by(
    tmp_path, tiny_bert, tiny_tokenizer, questions, monkeypatch
):
    """Long contexts in windows, and a short one, in one batch."""
    encoder = describe(tiny_bert(problem="question-answering", initializer_range=0.3))
    model = slice_model(encoder, Masks.ones(encoder))
    folder = checkpoint.save(tmp_path / "pruned", model, tiny_tokenizer, {})
    task = Task("q", "question-answering", "squad_f1", ("question", "context"), "answers", max_length=64)
    split, told = encode(questions, tiny_tokenizer, task, model.config, for_evaluation=True), {}
    scores = {"squad_f1": [0.0], "squad_exact_match": [0.0]}
    listens = staticmethod(lambda answers, _: told.update(answers) or scores)
    monkeypatch.setattr(question_answering.QuestionAnswering, "scores", listens)
    evaluation.evaluate(model, split, pad_token_id=tiny_tokenizer.pad_token_id)
    settings = {"problem": "question-answering", "text_columns": ["question", "context"], "max_length": 64}
    answers = served(folder, settings).predict(None, questions.to_pandas()[["question", "context"]])
    assert len(set(told.values())) > 1
    assert answers["answer"].tolist() == [told[name] for name in questions["id"]]


def test_served_answers_that_differ_are_refused(unlike, tmp_path, monkeypatch):
    folder, model, settings = unlike({}, {}, ["text"])
    source = serving.INPUTS.read_text()
    assert "max_length=longest, return_attention_mask" in source
    (tmp_path / "inputs.py").write_text(source.replace("max_length=longest, return_at", "max_length=5, return_at"))
    monkeypatch.setattr(serving, "INPUTS", tmp_path / "inputs.py")
    with pytest.raises(InputError, match="what would be served differs by"):
        serving.check_answers(model, folder, settings, [["a very dull film and not good"]])


def test_real_rows_are_served_what_they_are_evaluated_as(made, tmp_path, monkeypatch):
    folder = tmp_path / "one"
    shutil.copytree(made / "one", folder)
    columns = registration.read_manifest(folder)["text_columns"]
    table = pandas.DataFrame({name: [" ".join(["film"] * words) for words in range(1, 30)] for name in columns})
    table.to_csv(tmp_path / "rows.csv", index=False)
    rows = registration.real_rows(folder, str(tmp_path / "rows.csv"))
    assert len(rows) == 12 and len(rows[-1][0].split()) == 29
    seen = []
    monkeypatch.setattr(serving, "check_answers", lambda *given: seen.extend(given[3]))
    manifest = registration.read_manifest(folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    registration.gather(folder, manifest, metrics, registration.seal(folder, manifest), rows)
    assert seen[-12:] == rows
    table.rename(columns={columns[0]: "other"}).to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(InputError, match=f"no column '{columns[0]}', which the model reads"):
        registration.real_rows(folder, str(tmp_path / "rows.csv"))


@pytest.mark.parametrize("cell", [["good", "bad"], {"text": "good"}, 3, 2.5, b"good"])
def test_a_cell_that_is_no_text_is_refused_by_name(unlike, cell):
    folder, _, settings = unlike({}, {}, ["text"])
    with pytest.raises(ValueError, match=f"row 2 of column 'text' holds a {type(cell).__name__}, not a text"):
        served(folder, settings).predict(None, pandas.DataFrame({"text": ["good", cell]}))


def test_a_row_longer_than_the_limits_is_cut(tiny_tokenizer, tiny_bert):
    config = tiny_bert(max_position_embeddings=20).config
    found = model_inputs.tokenize(tiny_tokenizer, config, [["film " * 50, "good"]], 30)
    assert [len(row) for row in found["input_ids"]] == [20, 3]
    assert model_inputs.pad(found, 7)["input_ids"][1].tolist() == [*found["input_ids"][1], *[7] * 17]


def test_a_snapshot_of_links_is_registered_by_content(made, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    shutil.copytree(made / "one", blobs)
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    metrics = json.loads((snapshot / "metrics.json").read_text())
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert registration.register(uri, snapshot, NAME, metrics) == "1"
    (blobs / "model.safetensors").unlink()
    with pytest.raises(InputError, match="leads nowhere"):
        registration.register(uri, snapshot, NAME, metrics)


def point(folder, file, key, name):
    """Let a file name code of somebody else's."""
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(config | {key: {"AutoModel": name}}))


@pytest.mark.parametrize(
    "harm, message",
    [
        (lambda folder: (folder / "modeling_fastprune.py").open("a").write("\nprint('hostile')\n"), "modeling_fastpr"),
        (lambda folder: (folder / "more.py").write_text("print('hostile')"), "more.py: code that is not of fastprune"),
        (lambda folder: point(folder, "config.json", "auto_map", "a/b--c.Model"), "auto_map has AutoModel run 'a/b--"),
        (lambda folder: point(folder, "config.json", "custom_pipelines", "c.Pipe"), "config.json: custom_pipelines"),
        (
            lambda folder: point(folder, "tokenizer_config.json", "auto_map", "c.Words"),
            "tokenizer_config.json: auto_map",
        ),
    ],
)
def test_code_of_somebody_elses_is_not_registered_nor_run(made, tmp_path, capfd, harm, message):
    folder = tmp_path / "one"
    shutil.copytree(made / "one", folder)
    harm(folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    with pytest.raises(InputError, match=message):
        registration.register(f"sqlite:///{tmp_path}/mlflow.db", folder, NAME, metrics)
    assert "hostile" not in capfd.readouterr().out


def test_code_that_version_0_1_0_saved_is_known():
    assert "01c6e7f6ec9b1ef0e589fd0d7264b48bfce5b6f72f1c2c81e0cb3125a3c23d18" in serving._EARLIER


def test_a_store_that_takes_files_for_ever_costs_a_stated_time(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("mlflow.pyfunc.log_model", lambda **_: time.sleep(60))
    monkeypatch.setattr(deadlines, "run", lambda: 0.5)
    metrics = json.loads((folders["report"] / "metrics.json").read_text())
    begin = time.monotonic()
    with pytest.raises(Unreachable, match="MLflow at .* cannot be reached .no answer within"):
        registration.register(f"sqlite:///{tmp_path}/mlflow.db", folders["pruned"], NAME, metrics)
    assert time.monotonic() - begin < 40  # most of it makes the store
