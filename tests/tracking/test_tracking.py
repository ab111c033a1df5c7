import hashlib
import json
import logging
import socket
import threading
import time
from pathlib import Path

import pandas
import pytest
import torch
from click.testing import CliRunner
from reviews import run as compress_command
from reviews import table_arguments

from fastprune.cli.main import main
from fastprune.errors import InputError
from fastprune.model import checkpoint
from fastprune.model.architectures import describe
from fastprune.model.masks import Masks
from fastprune.model.surgery import slice_model
from fastprune.releases import serving
from fastprune.stages.register import register
from fastprune.tracking import mlflow_store, runs


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A SQLite store of this module's own."""
    return mlflow_store.tracking_uri(tmp_path_factory.mktemp("store"))


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def pruned(tmp_path, tiny_bert, tiny_tokenizer):
    """A function that saves a pruned model, and gives its folder and the model."""

    def make(**kind):
        encoder = describe(tiny_bert(**kind))
        masks = Masks.ones(encoder)
        masks.heads[0, :2], masks.filters[1, :40], masks.heads[2] = 0, 0, 0
        model = slice_model(encoder, masks)
        return checkpoint.save(tmp_path / "pruned", model, tiny_tokenizer, {}), model

    return make


def served(store, folder, **kind):
    import mlflow

    run = runs.start(store, "a run", {})
    settings = serving.settings_of({"text_columns": [], "max_length": 128} | kind, "pytorch")
    serving.log_version(store, run, folder, "tiny", settings=settings)
    return mlflow.pyfunc.load_model(f"runs:/{run}/tiny")


def test_the_store_is_absolute_and_the_environment_comes_first(tmp_path, monkeypatch):
    assert mlflow_store.tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert mlflow_store.tracking_uri(tmp_path) == "http://127.0.0.1:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs/of/mine.db")
    assert mlflow_store.tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/runs/of/mine.db"


def test_stages_are_nested_runs_and_a_failure_marks_both(store, tmp_path):
    from mlflow import MlflowClient

    client, parent = MlflowClient(store), runs.start(store, "a run", {"seed": 0})
    (tmp_path / "masks").write_text("masks")
    with runs.stage(store, parent, "search") as log:
        log.record(
            {
                "stage": "search",
                "seconds": 1.5,
                "settings": {"keep_ratio": 0.5},
                "metrics": {"macs_kept": 0.49, "heads": [1, 2]},
            }
        )
        log.artifacts.append(tmp_path / "masks")
    with pytest.raises(ZeroDivisionError), runs.stage(store, parent, "tune"):
        raise ZeroDivisionError

    run = client.get_run(parent)
    assert run.info.status == "FAILED" and run.data.params == {"seed": "0"}
    children = {
        child.info.run_name: child
        for child in client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    }
    assert children["tune"].info.status == "FAILED"
    search = children["search"]
    assert search.info.status == "FINISHED"
    metrics = {name: value for name, value in search.data.metrics.items() if not name.startswith("system/")}
    assert metrics == {"macs_kept": 0.49, "seconds": 1.5} and search.data.params == {"keep_ratio": "0.5"}
    assert [file.path for file in client.list_artifacts(search.info.run_id)] == ["masks"]
    assert search.data.tags["sha256.masks"] == hashlib.sha256(b"masks").hexdigest()


def test_a_dead_server_costs_seconds_and_a_warning(monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}"
    begin = time.perf_counter()
    with caplog.at_level(logging.WARNING):
        parent = runs.start(dead, "a run", {"seed": 0})
        with runs.stage(dead, parent, "search") as log:
            log.metrics["macs_kept"] = 0.5
    assert parent.startswith("spooled-")
    assert time.perf_counter() - begin < 20
    assert [record.message for record in caplog.records if "without tracking" in record.message]


def test_a_dead_database_is_explained(monkeypatch):
    pytest.importorskip("psycopg")
    import mlflow.store.db.utils

    monkeypatch.setattr(mlflow.store.db.utils, "MAX_RETRY_COUNT", 1)
    dead = "postgresql://ann:secret@127.0.0.1:1/mlflow"
    with pytest.raises(InputError, match="ann:[*]+@127.0.0.1:1/mlflow cannot be reached"), mlflow_store.explained(dead):
        mlflow_store.connect(dead).get_registered_model("tiny")


def test_a_server_of_errors_is_given_up(monkeypatch, caplog):
    """A server that answers every request with 500: the client's own default is to retry for minutes."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(30)
    answered = []

    def refuse():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                answered.append(1)  # before whoever counts has the answer
                connection.sendall(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    thread = threading.Thread(target=refuse, daemon=True)
    thread.start()
    uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
    run = runs.start(uri, "a run", {})
    runs.log(uri, run, parameters={"seed": 0})
    runs.end(uri, run)
    listener.close()
    assert len(answered) == 3  # the rest asked nothing
    assert "without tracking" in caplog.text


def test_one_failure_costs_no_more_than_what_failed(store, tmp_path, caplog):
    """A full disk, a lost artifact store: the store itself answers, and the rest is tracked."""
    parent = runs.start(store, "a run", {})
    with runs.stage(store, parent, "search") as log:
        log.artifacts.append(tmp_path / "not there")
    assert "the record lacks this" in caplog.text and "without tracking" not in caplog.text
    client = mlflow_store.connect(store)
    [child] = client.search_runs([client.get_run(parent).info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert child.info.status == "FINISHED"


def test_a_refused_registration_fails_its_step_and_says_what_to_do(store, compression):
    run = runs.start(store, "a run", {})
    with pytest.raises(InputError) as refused, runs.stage(store, run, "register"):
        register(**compression, model_name="tiny", run_id=run, tracking_uri=store)
    said = str(refused.value)
    assert "has no " in said and f"fastprune register {compression['pruned']} --name tiny" in said
    assert not compression["released"].exists()
    found = mlflow_store.connect(store).get_run(run)
    assert found.info.status == "FAILED"
    assert found.data.metrics == {"pruned": 0.9, "seconds.tune": 2.0, "validation_metric": 0.9}


def test_a_registration_without_any_store_says_that_it_was_none(compression, caplog):
    register(**compression, model_name="tiny")
    assert json.loads((compression["released"] / "released.json").read_text())["version"] == ""
    assert "not registered: no MLflow is named" in caplog.text


def test_no_store_tracks_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with runs.stage("", runs.start("", "a run", {}), "search"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_served_classifier_gives_labels_and_probabilities(store, pruned, tiny_tokenizer):
    folder, model = pruned(num_labels=3)
    served_model = served(store, folder, problem="classification", text_columns=["sentence"])
    texts = ["good film", "a very dull movie", "great"]
    with torch.inference_mode():
        expected = model(**tiny_tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(-1)
    for given in (
        texts,
        pandas.Series(texts),
        pandas.DataFrame({"sentence": texts}),
        pandas.DataFrame({"text": texts, "id": [1, 2, 3]}),
    ):
        answers = served_model.predict(given)
        assert answers["label"].tolist() == [model.config.id2label[index] for index in expected.argmax(-1).tolist()]
        torch.testing.assert_close(torch.tensor(answers["probability"].tolist()), expected.max(-1).values)
    assert served_model.metadata.signature.outputs.input_names() == ["label", "probability", "probabilities"]
    assert served_model.predict(served_model.input_example)["label"][0] in model.config.id2label.values()
    with pytest.raises(Exception, match="first column is 'id'"):
        served_model.predict(pandas.DataFrame({"id": ["1"], "sentence": ["good"]}))
    with pytest.raises(Exception, match="every row needs text"):
        served_model.predict(["good", None])


def test_pairs_are_read_by_name(store, pruned, tiny_tokenizer):
    folder, model = pruned()
    served_model = served(store, folder, problem="classification", text_columns=["first", "second"])
    answer = served_model.predict(pandas.DataFrame({"text_pair": ["very bad"], "text": ["good film"]}))
    with torch.inference_mode():
        expected = model(**tiny_tokenizer("good film", "very bad", return_tensors="pt")).logits.softmax(-1).max()
    assert answer["probability"][0] == pytest.approx(expected.item(), abs=1e-6)


def test_a_served_regression_gives_values(store, pruned, tiny_tokenizer):
    folder, model = pruned(num_labels=1)
    answer = served(store, folder, problem="regression", text_columns=["text"]).predict(["good film"])
    with torch.inference_mode():
        expected = model(**tiny_tokenizer("good film", return_tensors="pt")).logits.item()
    assert answer["value"][0] == pytest.approx(expected, abs=1e-6)


def test_served_answers_are_spans_of_the_context(store, pruned):
    folder, _ = pruned(problem="question-answering")
    context = "the king won. " * 40
    answers = served(store, folder, problem="question-answering", max_length=64).predict(
        pandas.DataFrame({"question": ["who won?", "when?"], "context": [context, "a dull film"]})
    )
    assert all(answers["answer"]) and answers["answer"][0] in context and answers["answer"][1] in "a dull film"


def test_a_registered_model_carries_no_pickle(store, pruned, tmp_path):
    import mlflow

    folder, _ = pruned()
    run = runs.start(store, "a run", {})
    manifest = {"problem": "classification", "text_columns": ["text"], "max_length": 128}
    serving.log_version(store, run, folder, "plain", settings=serving.settings_of(manifest, "pytorch"))
    mlflow.set_tracking_uri(store)
    local = mlflow.artifacts.download_artifacts(f"runs:/{run}/plain", dst_path=str(tmp_path / "local"))
    files = [file.name for file in Path(local).rglob("*") if file.is_file()]
    assert "model.safetensors" in files and "pyfunc_model.py" in files
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".bin", ".pt"))]
    assert "torch==" in Path(local, "requirements.txt").read_text()


def test_the_compressions_of_a_sweep_are_grouped(store):
    from mlflow import MlflowClient

    sweep = runs.start(store, "a sweep", {"keep_ratio": "0.3, 0.5"})
    members = {runs.start(store, f"at {ratio}", {}, parent=sweep) for ratio in (0.3, 0.5)}
    client = MlflowClient(store)
    found = client.search_runs([client.get_run(sweep).info.experiment_id], f"tags.`mlflow.parentRunId` = '{sweep}'")
    assert {f"{sweep}.{run.info.run_id}" for run in found} == members


def test_a_compression_by_hand_is_tracked_and_its_version_belongs_to_its_run(material, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri, out = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "out"
    track = ("--track", "--tracking-uri", uri)
    arguments = table_arguments(material)
    done = compress_command(material / "model", *arguments, "--output-dir", out, "--json", *track)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    client = mlflow_store.connect(uri)
    [run] = client.search_runs([client.get_experiment_by_name("fastprune").experiment_id])
    assert run.info.run_name == "compress model" and run.info.status == "FINISHED"
    assert run.data.metrics["pruned"] == told["pruned"] and run.data.params["keep_ratio"] == "0.6"
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"manifest.json", "metrics.json"}
    done = CliRunner().invoke(main, ["register", str(out), "--name", "tiny", "--tracking-uri", uri])
    assert done.exit_code == 0, done.output
    assert client.get_model_version("tiny", "1").run_id == run.info.run_id
    failed = compress_command(material / "model", *arguments, "--output-dir", out, *track)
    assert failed.exit_code == 2 and len(client.search_runs([run.info.experiment_id])) == 1  # refused before it began
