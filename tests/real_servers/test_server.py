"""A whole release against real servers: MLflow with authentication on PostgreSQL and S3."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import torch
from click.testing import CliRunner
from faults import LONG
from tiny_config import write_config
from tiny_releases import LENIENT, variant

import fastprune
from fastprune.cli.main import main
from fastprune.errors import InputError
from fastprune.model import checkpoint
from fastprune.releases import control, promotion, registration, verification
from fastprune.releases.policy import Policy
from fastprune.tracking import mlflow_store, runs
from tests import servers

NAME = "reviews"
AT_ONCE = 8 if LONG else 3
ROOT = Path(fastprune.__file__).parents[1]


def command(*arguments):
    """What ``fastprune`` prints."""
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done.output


def as_user(address, name):
    """Make a user who may read everything, and give the environment of that user."""
    admin = tuple(servers.MLFLOW_ADMIN.values())
    made = requests.post(
        f"{address}/api/2.0/mlflow/users/create",
        auth=admin,
        timeout=20,
        json={"username": name, "password": f"{name}s-password-1"},
    )
    assert made.ok, made.text
    return {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": f"{name}s-password-1"}


def act_as(monkeypatch, user):
    for name, value in user.items():
        monkeypatch.setenv(name, value)


def grant(address, kind, name):
    """Give the user ``reader`` EDIT on something."""
    done = requests.post(
        f"{address}/api/3.0/mlflow/users/permissions/grant",
        timeout=20,
        auth=tuple(servers.MLFLOW_ADMIN.values()),
        json={"username": "reader", "resource_type": kind, "resource_id": name, "permission": "EDIT"},
    )
    assert done.ok, done.text


def test_from_compression_to_rollback(server, s3, source, tmp_path):
    for name in ("train_file", "eval_file"):
        s3.upload_file(source[name], servers.BUCKET, f"data/{Path(source[name]).name}")
    for file in Path(source["source"]).iterdir():
        s3.upload_file(str(file), servers.BUCKET, f"models/tiny/{file.name}")
    for ratio in (0.5, 0.6):
        command(
            "compress",
            f"s3://{servers.BUCKET}/models/tiny",
            "--train-file",
            f"s3://{servers.BUCKET}/data/train.csv",
            "--eval-file",
            f"s3://{servers.BUCKET}/data/eval.csv",
            "--text-column",
            "sentence",
            "--label-column",
            "label",
            "--keep-ratio",
            ratio,
            "--num-samples",
            48,
            "--output-dir",
            tmp_path / f"at-{ratio}",
        )
        manifest = json.loads((tmp_path / f"at-{ratio}" / "manifest.json").read_text())
        assert manifest["source_model"] == f"s3://{servers.BUCKET}/models/tiny"
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "max_accuracy_drop: 1.0\nmax_megabytes: 5\nsame_evaluation_data: true\n"
        "required_tags: {owner: '.+'}\napprovers: [admin]\n"
    )
    assert "version 1" in command("register", tmp_path / "at-0.5", "--name", NAME, "--tag", "owner=ann")
    assert "version 2" in command("register", tmp_path / "at-0.6", "--name", NAME, "--tag", "owner=ann")
    command("promote", NAME, 1, "--policy", policy, "--why", "the first")
    command("promote", NAME, 2, "--policy", policy, "--why", "more accurate")
    assert "have their digests" in command("verify", NAME, "champion")

    with serving(f"models:/{NAME}@champion", tmp_path) as address:
        texts = ["the film was great", "not very good"]
        answer = requests.post(f"{address}/invocations", json={"inputs": texts}, timeout=60).json()["predictions"]
    model = checkpoint.load(tmp_path / "at-0.6")
    tokenizer = checkpoint.load_tokenizer(tmp_path / "at-0.6")
    with torch.inference_mode():
        expected = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(-1)
    for row, probabilities in zip(answer, expected, strict=True):
        assert row["label"] == model.config.id2label[int(probabilities.argmax())]
        told = list(json.loads(row["probabilities"]).values())
        torch.testing.assert_close(torch.tensor(told), probabilities, atol=1e-5, rtol=1e-4)

    command("rollback", NAME, "--why", "slower than promised")
    told = command("history", NAME)
    assert [line.split()[2] for line in told.splitlines()] == ["promote", "promote", "rollback"]
    assert "admin: slower than promised" in told
    assert mlflow_store.connect(server).get_model_version_by_alias(NAME, "champion").version in (1, "1")
    stored = [found["Key"] for found in s3.list_objects_v2(Bucket=servers.BUCKET, Prefix="mlflow/")["Contents"]]
    assert len([key for key in stored if key.endswith("model.safetensors")]) == 2, "the weights lie there once"


@contextmanager
def serving(uri, tmp_path):
    """``mlflow models serve``; gives its address."""
    [port], bin_folder = servers.free_ports(1), str(Path(sys.executable).parent)
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local", "--port", port]
    with servers.process(
        command,
        tmp_path / "serve.log",
        lambda: servers.answers(f"{address}/ping"),
        seconds=180,
        env={**os.environ, "PATH": os.pathsep.join([bin_folder, os.environ["PATH"]])},
    ):
        yield address


@pytest.fixture
def registered(server, folders, tmp_path):
    """A registered model of the test's own with two versions."""
    name = tmp_path.name
    for note in ("one", "two"):
        folder = variant(folders, tmp_path / note, f"{name} {note}")
        registration.register(server, folder, name, json.loads((folder / "metrics.json").read_text()), by="admin")
    return name


def test_who_may_only_read_cannot_promote(server, registered, monkeypatch):
    for version in "12":
        promotion.promote(server, registered, version, LENIENT, why=f"number {version}")
    reader = as_user(server, "reader")
    monkeypatch.setenv("LOGNAME", "zoe")  # the surroundings say nothing
    act_as(monkeypatch, reader)
    with pytest.raises(InputError, match="knows you as reader"):
        control.rollback(server, registered, why="I want it", by="admin")
    with pytest.raises(InputError, match="reader has no right"):
        control.rollback(server, registered, why="I want it")
    with pytest.raises(InputError, match="reader has no right"):
        control.freeze(server, registered, why="I want it")
    act_as(monkeypatch, servers.MLFLOW_ADMIN)
    control.rollback(server, registered, why="something to roll back")
    control.set_policy(server, registered, "approvers: [zoe]", why="zoe alone")
    act_as(monkeypatch, reader)
    with pytest.raises(InputError, match="reader has no right"):
        promotion.promote(server, registered, "2", reinstate=True, why="I want it")
    with pytest.raises(InputError, match="knows you as reader"):
        promotion.promote(server, registered, "2", reinstate=True, why="I want it", by="admin")
    assert [event.to_version for event in promotion.history(server, registered)] == ["1", "2", "1", None]
    assert mlflow_store.connect(server).get_model_version_by_alias(registered, "champion").version in (1, "1")
    assert verification.verify(server, registered, "1").difference < 1e-5

    experiment = mlflow_store.connect(server).get_experiment_by_name(runs.EXPERIMENT).experiment_id
    grant(server, "registered_model", registered)
    grant(server, "experiment", experiment)
    with pytest.raises(promotion.PolicyNotMet, match="approvers"):
        promotion.promote(server, registered, "2", reinstate=True, why="not zoe")
    with pytest.raises(InputError, match="policy belongs to who manages"):
        control.set_policy(server, registered, "approvers: [reader]", why="me alone")
    with pytest.raises(InputError, match="policy belongs to who manages"):
        promotion.promote(
            server, registered, "2", Policy(approvers=["reader"]), reinstate=True, override=True, why="by my own"
        )
    act_as(monkeypatch, servers.MLFLOW_ADMIN)
    control.set_policy(server, registered, "{approvers: [reader], approvals: 2}", why="reader may, if two approve")
    control.approve(server, registered, "2", why="fine")
    act_as(monkeypatch, reader)
    with pytest.raises(promotion.PolicyNotMet, match="approvals: 1 .admin."):
        promotion.promote(server, registered, "2", reinstate=True, why="one alone")
    control.approve(server, registered, "2", why="fine with me")
    promotion.promote(server, registered, "2", reinstate=True, why="now I may")
    told = [(event.action, event.by) for event in promotion.history(server, registered)]
    assert told == [
        ("promote", "admin"),
        ("promote", "admin"),
        ("rollback", "admin"),
        ("policy", "admin"),
        ("refused", "reader"),
        ("policy", "admin"),
        ("approve", "admin"),
        ("refused", "reader"),
        ("approve", "reader"),
        ("promote", "reader"),
    ]
    assert all(event.authenticated for event in promotion.history(server, registered))


def test_a_wrong_password_is_explained(server, registered, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    with pytest.raises(InputError, match="MLFLOW_TRACKING_PASSWORD"):
        promotion.promote(server, registered, "1", LENIENT, why="?")


def test_a_corrupted_object_is_not_promoted_nor_proved(server, registered, s3):
    client = mlflow_store.connect(server)
    model_id = client.get_model_version(registered, "1").source.removeprefix("models:/")
    keys = [
        found["Key"]
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=servers.BUCKET)
        for found in page.get("Contents", [])
        if model_id in found["Key"]
    ]
    for ending, refused in (
        ("model.safetensors", verification.verify),
        ("evidence.json", lambda *given: promotion.promote(*given, LENIENT, why="?")),
    ):
        [key] = [key for key in keys if key.endswith(ending)]
        content = s3.get_object(Bucket=servers.BUCKET, Key=key)["Body"].read()
        s3.put_object(Bucket=servers.BUCKET, Key=key, Body=content[:-3] + bytes(reversed(content[-3:-1])) + b"~")
        with pytest.raises(InputError, match="SHA-256"):
            refused(server, registered, "1")
        s3.put_object(Bucket=servers.BUCKET, Key=key, Body=content)
    assert [event.action for event in promotion.history(server, registered)] == ["refused"]


@pytest.mark.faults
def test_many_compressions_at_once(server, s3, source, tmp_path):
    """Each run is complete, and none is in the default experiment."""
    experiment, script = "at once", Path(__file__).with_name("one_compression.py")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "FASTPRUNE_ARTIFACT_ROOT": f"s3://{servers.BUCKET}/many",
    }
    begin = time.monotonic()
    running = []
    for seed in range(AT_ONCE):
        sweep = write_config(
            tmp_path / f"{seed}.yaml",
            source,
            seed=seed,
            num_samples=40,
            tracking={"uri": server, "experiment": experiment},
            release={"model_name": "many"},
        )
        running.append(
            subprocess.Popen(
                [sys.executable, script, sweep, tmp_path / str(seed)],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    errors = [process.communicate()[1] for process in running]
    failed = [error for process, error in zip(running, errors) if process.returncode]
    assert not failed, "\n\n".join(failed)
    client = mlflow_store.connect(server)
    found = client.get_experiment_by_name(experiment).experiment_id
    runs = client.search_runs([found])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == AT_ONCE and {run.info.status for run in runs} == {"FINISHED"}
    for parent in parents:
        children = [run.info.run_name for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
        assert len(children) == 10 and parent.data.metrics["pruned"] >= 0
    assert not client.search_runs(["0"])
    versions = client.search_model_versions("name='many'")
    assert sorted(int(version.version) for version in versions) == list(range(1, AT_ONCE + 1))
    print(f"{AT_ONCE} compressions at once: {time.monotonic() - begin:.0f} s")
