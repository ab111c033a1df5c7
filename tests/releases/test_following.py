"""A server learns of promotions and rollbacks; what it says of errors, and that it needs no home to write to."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pandas
import pytest
from mlflow import MlflowException
from tiny_releases import LENIENT, NAME

from fastprune.problem import problem_of
from fastprune.releases import control, promotion, pyfunc_model
from fastprune.releases.serving import artifacts_of
from fastprune.tracking import mlflow_store

SERVER = "import sys, time; open(sys.argv[2], 'a').write(sys.argv[1] + '\\n'); time.sleep(600)"


def wait_for(told):
    until = time.monotonic() + 30
    while not told():
        assert time.monotonic() < until, "30 s have passed"
        time.sleep(0.1)


def begun(file, count):
    def lines():
        return file.read_text().split() if file.exists() else []

    wait_for(lambda: len(lines()) >= count)
    return lines()


def test_a_server_follows_promotions_and_rollbacks(store, tmp_path):
    promotion.promote(store, NAME, "1", LENIENT, why="first")
    command = [sys.executable, "-m", "fastprune", "follow", NAME, "--every", "0.2", "--tracking-uri", store, "--"]
    file, log = tmp_path / "begun", tmp_path / "log"
    with open(log, "w") as output:
        follower = subprocess.Popen([*command, sys.executable, "-c", SERVER, "{version}", str(file)], stderr=output)
    try:
        assert begun(file, 1) == ["1"]
        promotion.promote(store, NAME, "2", why="better")
        assert begun(file, 2) == ["1", "2"]
        mlflow_store.connect(store).delete_registered_model_alias(NAME, "champion")
        wait_for(lambda: "version 2 goes on" in log.read_text())
        control.rollback(store, NAME, why="worse")
        assert begun(file, 3) == ["1", "2", "1"]
        children = subprocess.run(["pgrep", "-f", str(file)], capture_output=True, text=True, check=True).stdout.split()
        assert len(children) == 2  # the follower and one server
    finally:
        follower.send_signal(signal.SIGTERM)
        follower.wait(timeout=60)
    assert follower.returncode == 143 and "the champion moved from version 1 to version 2" in log.read_text()
    assert not subprocess.run(["pgrep", "-f", str(file)], capture_output=True, check=False).stdout


def test_a_server_that_ends_ends_the_command_with_its_status(store):
    promotion.promote(store, NAME, "1", LENIENT, why="first")
    command = [sys.executable, "-m", "fastprune", "follow", NAME, "--tracking-uri", store, "--", "sh", "-c", "exit 7"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 7


@pytest.fixture
def served(folders):
    model = pyfunc_model.PrunedModel()
    settings = {"problem": "classification", "text_columns": ["sentence"], "max_length": 128}
    artifacts = artifacts_of(folders["pruned"], problem_of("classification"))
    model.load_context(SimpleNamespace(artifacts=artifacts, model_config=settings))
    return model


def test_an_error_has_no_stack_trace(served, monkeypatch, caplog):
    with pytest.raises(MlflowException) as told:
        served.predict(None, pandas.DataFrame({"text": ["good", 3]}))
    answer = json.loads(told.value.serialize_as_json())
    assert answer["error_code"] == "INVALID_PARAMETER_VALUE" and "stack_trace" not in answer
    assert answer["message"].startswith("row 2 of column 'text' holds a int, not a text; give one text a row")
    monkeypatch.setattr(served, "run", lambda encoded: 1 / 0)
    with pytest.raises(MlflowException) as told:
        served.predict(None, pandas.DataFrame({"text": ["good"]}))
    answer = json.loads(told.value.serialize_as_json())
    assert answer["error_code"] == "INTERNAL_ERROR" and "stack_trace" not in answer
    assert "ZeroDivisionError" in answer["message"] and told.value.__cause__ is None
    assert "could not be answered" in caplog.text and "1 / 0" in caplog.text


def test_a_home_that_cannot_be_written_to_is_enough(folders, tmp_path):
    script = (
        "import sys, pandas; from types import SimpleNamespace\n"
        "from fastprune.releases.pyfunc_model import PrunedModel; from fastprune.problem import problem_of\n"
        "from fastprune.releases.serving import artifacts_of\n"
        "model = PrunedModel(); artifacts = artifacts_of(sys.argv[1], problem_of('classification'))\n"
        "settings = {'problem': 'classification', 'text_columns': ['sentence'], 'max_length': 128}\n"
        "model.load_context(SimpleNamespace(artifacts=artifacts, model_config=settings))\n"
        "print(model.predict(None, pandas.DataFrame({'text': ['good']})).label[0])\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    nowhere = tmp_path / "a file"
    nowhere.write_text("")  # even root cannot make a folder below it
    done = subprocess.run(
        [sys.executable, "-c", script, str(folders["pruned"])],
        env=environment | {"HOME": str(nowhere)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("LABEL_0", "LABEL_1")
    assert not list(folders["pruned"].rglob("__pycache__"))
