"""A release from its compression to its reinstatement, by four people, against real servers; MLflow's own webhooks.

With ``FASTPRUNE_TRANSCRIPT=FILE`` what was typed and answered is written there.
"""

import base64
import hashlib
import hmac
import json
import os
import time
from pathlib import Path

import requests
from click.testing import CliRunner
from tiny_releases import LENIENT, variant

from fastprune.cli.main import main
from fastprune.releases import control, promotion, registration
from fastprune.stages.gate import gate
from fastprune.tracking import mlflow_store, runs
from tests import servers

NAME = "story"
ADMIN = tuple(servers.MLFLOW_ADMIN.values())
PEOPLE = ("pipeline", "bob", "cy", "zoe")


class Teller:
    """Runs commands as one user or another, and keeps what was typed and answered."""

    def __init__(self, address, monkeypatch):
        self.address, self.monkeypatch, self.lines = address, monkeypatch, []

    def made(self, user):
        answer = requests.post(
            f"{self.address}/api/2.0/mlflow/users/create",
            auth=ADMIN,
            timeout=30,
            json={"username": user, "password": f"{user}s-password-1"},
        )
        assert answer.ok, answer.text

    def granted(self, user, kind, name, permission):
        answer = requests.post(
            f"{self.address}/api/3.0/mlflow/users/permissions/grant",
            auth=ADMIN,
            timeout=30,
            json={"username": user, "resource_type": kind, "resource_id": name, "permission": permission},
        )
        assert answer.ok, answer.text

    def act(self, user):
        self.monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
        self.monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", f"{user}s-password-1")

    def __call__(self, user, *arguments, status=0):
        self.act(user)
        arguments = [str(argument) for argument in arguments]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == status, done.output
        typed = " ".join(f'"{word}"' if " " in word else word for word in arguments)
        refusal = done.stderr[done.stderr.find("Error:") :] if status else ""  # without progress bars
        said = (done.stdout + refusal).splitlines()
        self.lines += [f"{user}$ fastprune {typed}", *said, *([f"(exit status {status})"] if status else []), ""]
        return done.stdout

    def note(self, text):
        self.lines += [f"# {line}" for line in text.splitlines()]

    def write(self, hidden):
        """The transcript, without the paths of this machine."""
        if file := os.environ.get("FASTPRUNE_TRANSCRIPT"):
            text = "\n".join(self.lines)
            for path, name in hidden.items():
                text = text.replace(str(path), name)
            Path(file).write_text(text + "\n")


def test_from_compression_to_reinstatement(server, s3, source, tmp_path, monkeypatch):
    tell = Teller(server, monkeypatch)
    for person in PEOPLE:
        tell.made(person)
    told = tmp_path / "told"
    monkeypatch.setenv("FASTPRUNE_HOOK", f"sh -c 'echo $0 >> {told}'")

    tell.note("the pipeline's key: the private half stays with the pipeline")
    key = tell("pipeline", "signing-key", tmp_path / "pipeline.pem").strip()
    monkeypatch.setenv("FASTPRUNE_SIGNING_KEY", str(tmp_path / "pipeline.pem"))
    data = ["--train-file", source["train_file"], "--eval-file", source["eval_file"], "--num-samples", 48]
    columns = ["--text-column", "sentence", "--label-column", "label"]
    for ratio in (0.5, 0.6):
        out = tmp_path / f"at-{ratio}"
        tell("pipeline", "compress", source["source"], *data, *columns, "--keep-ratio", ratio, "--output-dir", out)
    monkeypatch.delenv("FASTPRUNE_SIGNING_KEY")
    tell.note("zoe manages the registered model and its experiment; the others may edit them")
    tell.act("zoe")
    client = mlflow_store.connect(server)
    client.create_registered_model(NAME)
    if (experiment := client.get_experiment_by_name(runs.EXPERIMENT)) is None:
        found = client.create_experiment(runs.EXPERIMENT)
    else:
        found = experiment.experiment_id
    for person in PEOPLE[:3]:
        tell.granted(person, "registered_model", NAME, "EDIT")
    for person in PEOPLE if experiment else PEOPLE[:3]:
        tell.granted(person, "experiment", found, "EDIT")
    for ratio in (0.5, 0.6):
        tell("pipeline", "register", tmp_path / f"at-{ratio}", "--name", NAME, "--tag", f"owner={'ann'}")

    policy = tmp_path / "policy.yaml"
    policy.write_text(f"max_accuracy_drop: 0.5\nnot_worse_than_champion: 0.4\nsigned_by: [{key}]\napprovals: 2\n")
    tell.lines += ["$ cat policy.yaml", *policy.read_text().splitlines(), ""]
    tell("bob", "policy", "set", NAME, policy, "--why", "mine", status=3)
    tell("zoe", "policy", "set", NAME, policy, "--why", "agreed in June")
    tell("bob", "promote", NAME, 1, "--why", "the first", status=3)
    for person in ("bob", "cy"):
        tell(person, "approve", NAME, 1, "--why", "read the report")
    tell("bob", "approve", NAME, 1, "--why", "twice is better", status=3)
    tell("bob", "promote", NAME, 1, "--why", "the first")
    for person in ("bob", "cy"):
        tell(person, "approve", NAME, 2, "--why", "more accurate")
    tell("bob", "compare", NAME, 1, 2)
    tell("bob", "promote", NAME, 2, "--why", "more accurate", "--expect", 1)

    tell.note("three in the morning: both are called")
    tell("bob", "rollback", NAME, "--why", "wrong answers", "--expect", 2)
    tell("cy", "rollback", NAME, "--why", "wrong answers", status=3)
    tell.note("the next night: the scheduled run has made the same version again, and its gate judges it")
    (tmp_path / "summary").mkdir()
    summary = {"candidates": [0], "compressions": [{"version": "2"}], "failed": []}
    (tmp_path / "summary" / "summary.json").write_text(json.dumps(summary))
    tell.act("pipeline")
    text = policy.read_text()
    gate(summary=tmp_path / "summary", verdict=tmp_path / "verdict", model_name=NAME, policy=text, tracking_uri=server)
    verdict = json.loads((tmp_path / "verdict" / "verdict.json").read_text())
    assert "rolled_back: rolled back by bob" in verdict["promotion"]
    tell.lines += ["pipeline$ cat verdict/verdict.json", json.dumps(verdict), ""]
    assert "champion    1" in tell("cy", "status", NAME)

    tell.note("the data was wrong, not the model")
    tell("zoe", "promote", NAME, 2, "--reinstate", "--why", "the data was wrong", status=3)
    for person in ("bob", "cy"):
        tell(person, "approve", NAME, 2, "--why", "data mended")
    tell("zoe", "promote", NAME, 2, "--reinstate", "--why", "the data was wrong, not the model")
    assert f"signed by {key}" in tell("cy", "verify", NAME, "champion")
    tell("cy", "list", NAME)
    history = tell("cy", "history", NAME)
    actions = [line.split()[2] for line in history.splitlines()]
    assert actions == [
        "policy", "refused", "approve", "approve", "promote", "approve", "approve", "promote", "rollback", "refused",
        "refused", "approve", "approve", "promote"
    ]  # fmt: skip
    assert told.read_text().split() == actions
    assert all(event.authenticated for event in promotion.history(server, NAME))
    tell.write({tmp_path: "release", Path(source["source"]).parent: "reviews"})


def test_mlflows_own_webhook_tells_of_a_promotion_and_a_rollback_signed(server, folders, listener, tmp_path):
    url, got = listener
    name = f"hooked-{tmp_path.name}"[:60]
    client = mlflow_store.connect(server)
    hook = client.create_webhook(name, url, events=["model_version_alias.created"], secret="s3cret")
    try:
        for note in ("one", "two"):
            folder = variant(folders, tmp_path / note, f"{name} {note}")
            registration.register(server, folder, name, json.loads((folder / "metrics.json").read_text()))
        promotion.promote(server, name, "1", LENIENT, why="first")
        promotion.promote(server, name, "2", why="better")
        control.rollback(server, name, why="worse")
        until = time.monotonic() + 60
        while time.monotonic() < until and len(got) < 5:
            time.sleep(0.2)
    finally:
        client.delete_webhook(hook.webhook_id)
    told = [json.loads(body)["data"] for _, body in got]
    moves = [(one["alias"], str(one["version"])) for one in told if one["name"] == name]
    assert sorted(moves) == sorted(
        [("champion", "1"), ("previous", "1"), ("champion", "2"), ("previous", "2"), ("champion", "1")]
    )
    for headers, body in got:
        signed = f"{headers['X-MLflow-Delivery-Id']}.{headers['X-MLflow-Timestamp']}.{body.decode()}"
        mac = hmac.new(b"s3cret", signed.encode(), hashlib.sha256).digest()
        assert headers["X-MLflow-Signature"] == "v1," + base64.b64encode(mac).decode()
