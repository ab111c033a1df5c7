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
def add_version(folders, tmp_path, monkeypatch):
    """Registers the version of a number in a store of its own, with label names that hold the number."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("FASTPRUNE_LEDGER", raising=False)

    def add(uri, number):
        folder = variant(folders, tmp_path / number, number)
        config = json.loads((folder / "config.json").read_text())
        labels = {"id2label": {"0": f"rotten {number}", "1": f"fresh {number}"}}
        labels["label2id"] = {name: int(place) for place, name in labels["id2label"].items()}
        (folder / "config.json").write_text(json.dumps(config | labels))
        registration.register(uri, folder, NAME, json.loads((folder / "metrics.json").read_text()))

    return add


WRONG = [
    ("text/csv", b'text\n"a","b","c"\nx,y\n1,2,3,4\n', "Expected 3 fields in line 4, saw 4"),
    ("text/csv", b'text\n"never ended', "EOF inside string"),
    ("text/csv", b"", "No columns to parse"),
    ("text/csv", b"\xff\xfe", "valid UTF-8"),
    ("text/csv", b"stars\n5\n", "the first column is 'stars'; the text belongs there, named 'sentence'"),
    ("text/csv", b"text\n\nNA\n", "every row needs text"),
    ("application/vnd.apache.parquet", b"PAR1", "valid Parquet"),
    ("application/json", b'{"inputs": ["good"', "valid JSON"),
    ("application/json", b'{"inputs": ["\xff"]}', "valid JSON"),
    ("application/json", b"[3]", "Received a list"),
    ("application/json", b'{"texts": ["good"]}', "exactly one of the input fields"),
    ("application/json", b'{"inputs": null}', "NoneType"),
    ("application/json", b'{"inputs": []}', "missing inputs"),
    ("application/json", b'{"dataframe_split": {"columns": ["text"], "data": [["a", "b"]]}}', "1 columns passed"),
    ("application/json", b'{"dataframe_records": [{"stars": 5}]}', "the first column is 'stars'"),
    ("application/json", b'{"inputs": ["' + b"x" * 10_000, "valid JSON"),
]
"""What cannot be answered: its type, the bytes, and what is said of them."""


def check_that_errors_are_one_sentence(address, log):
    for kind, body, said in WRONG:
        told = requests.post(address, data=body, headers={"Content-Type": kind}, timeout=30)
        assert told.status_code == 400 and said in told.json()["message"], (body[:80], told.text)
        assert not any(word in told.text for word in ("stack_trace", "Traceback", "site-packages")), told.text
        assert "\n" not in told.json()["message"] and len(told.text) < 800, told.text
    assert log.read_text().count("a request could not be read") == 4  # and the stack trace, for who serves it


def answers_of(version, address, follower, log):
    """What the server says, once it serves the version."""
    until = time.monotonic() + 600  # it takes ten seconds on an idle machine
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


def test_mlflows_server_follows_a_promotion_and_a_rollback_and_needs_no_home(add_version, tmp_path):
    uri, [port] = f"sqlite:///{tmp_path}/mlflow.db", free_ports(1)
    add_version(uri, "1")
    promotion.promote(uri, NAME, "1", LENIENT, why="first")
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
        add_version(uri, "2")  # while the server of the first starts
        rows = answers_of("1", address, follower, log)
        assert {row["label"] for row in rows} <= {"rotten 1", "fresh 1"}
        assert json.loads(rows[0]["probabilities"]).keys() == {"rotten 1", "fresh 1"}
        check_that_errors_are_one_sentence(address, log)
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
