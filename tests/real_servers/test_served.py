"""What is served by ``mlflow models serve``, and that it follows a promotion and a rollback."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
from tiny_releases import LENIENT, variant

from fastprune.releases import control, promotion, registration
from tests.servers import free_ports

NAME = "served"


@pytest.fixture
def two_versions(folders, tmp_path, monkeypatch):
    """A store with two versions that have label names of their own; the first is the champion."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("FASTPRUNE_LEDGER", raising=False)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for number in "12":
        folder = variant(folders, tmp_path / number, number)
        config = json.loads((folder / "config.json").read_text())
        labels = {"id2label": {"0": f"rotten {number}", "1": f"fresh {number}"}}
        labels["label2id"] = {name: int(place) for place, name in labels["id2label"].items()}
        (folder / "config.json").write_text(json.dumps(config | labels))
        registration.register(uri, folder, NAME, json.loads((folder / "metrics.json").read_text()))
    promotion.promote(uri, NAME, "1", LENIENT, why="first")
    return uri


def answers_of(version, address, follower, log):
    """What the server says, once it serves the version."""
    until = time.monotonic() + 120
    while time.monotonic() < until and follower.poll() is None:
        try:
            answered = requests.post(address, json={"inputs": ["the film was great", "not very good"]}, timeout=30)
            rows = answered.json()["predictions"]
            if rows[0]["label"].endswith(version):
                return rows
        except requests.ConnectionError:  # the one has ended, the next one loads
            pass
        time.sleep(0.2)
    raise AssertionError(log.read_text())


def test_mlflows_server_follows_a_promotion_and_a_rollback_and_needs_no_home(two_versions, tmp_path):
    uri, [port] = two_versions, free_ports(1)
    nowhere, log = tmp_path / "a file", tmp_path / "log"
    nowhere.write_text("")  # even root cannot make a folder below it
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_", "TORCH"))}
    follow = ["-m", "fastprune", "follow", NAME, "--every", "0.5", "--tracking-uri", uri, "--", sys.executable]
    serve = ["-m", "mlflow", "models", "serve", "-m", f"models:/{NAME}/{{version}}", "--env-manager", "local"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # MLflow asks it for uvicorn
    with open(log, "w") as output:
        follower = subprocess.Popen(
            [sys.executable, *follow, *serve, "--port", str(port)],
            env=kept | {"HOME": str(nowhere), "MLFLOW_TRACKING_URI": uri, "PATH": path},
            cwd=tmp_path,
            stdout=output,
            stderr=output,
        )
    address = f"http://127.0.0.1:{port}/invocations"
    try:
        rows = answers_of("1", address, follower, log)
        assert {row["label"] for row in rows} <= {"rotten 1", "fresh 1"}
        assert json.loads(rows[0]["probabilities"]).keys() == {"rotten 1", "fresh 1"}
        wrong = {"dataframe_split": {"columns": ["stars"], "data": [["five"]]}}
        told = requests.post(address, json=wrong, timeout=30)
        assert told.status_code == 400 and "the first column is 'stars'" in told.json()["message"], told.text
        assert "stack_trace" not in told.json() and "Traceback" not in told.text
        promotion.promote(uri, NAME, "2", why="better")
        answers_of("2", address, follower, log)
        control.rollback(uri, NAME, why="wrong answers")
        answers_of("1", address, follower, log)
    finally:
        follower.send_signal(signal.SIGTERM)
        follower.wait(timeout=60)
    assert follower.returncode == 143
    with pytest.raises(requests.ConnectionError):
        requests.post(address, json={"inputs": ["gone"]}, timeout=10)
