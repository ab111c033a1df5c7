"""The commands of a cluster, from a config file to what the service gets; see kfp_server.py for what that is here."""

import json

import pytest
import yaml
from click.testing import CliRunner

from fastprune.pipelines.__main__ import main

CONFIG = """\
name: reviews
models:
  - name: sst2
    source: s3://models/sst2
    train_file: s3://data/train.tsv
    eval_file: s3://data/dev.tsv
    text_columns: [sentence]
    label_column: label
budgets:
  - {keep_ratio: 0.6}
  - {keep_ratio: 0.4, constraint: latency}
importance_shards: 2
schedule: {cron: "0 30 2 * * mon-fri", max_concurrency: 2, enabled: false}
cluster:
  image: registry.example.com/fastprune:0.1.0
  secrets: [{name: mlflow, env: {password: MLFLOW_TRACKING_PASSWORD}}]
  accelerators:
    v100: {resource: nvidia.com/gpu, node_selector: {gpu: v100}, tolerations: [{key: gpu, operator: Exists}]}
  stages:
    default: {cpu: "2", memory: 8Gi, retries: 2, caching: true, timeout_s: 3600}
    profile: {accelerator: v100}
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "sweep.yaml").write_text(CONFIG)
    return tmp_path / "sweep.yaml"


@pytest.fixture
def ask(server, monkeypatch):
    """A function that runs a command against the server."""
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)

    def invoke(*arguments):
        return CliRunner().invoke(main, list(map(str, arguments)))

    return invoke


def only(things):
    [thing] = things.values()
    return thing


def test_submit(server, ask, config):
    done = ask(
        "submit",
        config,
        "--name",
        "by hand",
        "--argument",
        "tracking_uri=http://mlflow:5000",
        "--service-account",
        "compressor",
    )
    assert done.exit_code == 0, done.output
    run, version = only(server.runs), only(server.versions)
    assert (run["display_name"], run["service_account"]) == ("by hand", "compressor")
    assert run["runtime_config"]["parameters"] == {"tracking_uri": "http://mlflow:5000"}
    assert run["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]
    assert only(server.pipelines)["display_name"] == only(server.experiments)["display_name"] == "reviews"
    assert f"{version['display_name']} (uploaded)" in done.output
    assert f"{server.url}/#/runs/details/{run['run_id']}" in done.output

    again = ask("submit", config, "--experiment", "other")
    assert f"{version['display_name']} (there already)" in again.output
    assert len(server.versions) == 1 and len(server.runs) == 2
    assert {found["display_name"] for found in server.experiments.values()} == {"reviews", "other"}
    second = list(server.runs.values())[1]
    assert second["display_name"].startswith("reviews 20") and second["runtime_config"].get("parameters", {}) == {}


def test_what_is_uploaded_is_what_the_config_says(server, ask, config):
    assert ask("submit", config).exit_code == 0
    spec, platform = yaml.safe_load_all(only(server.versions)["package"])
    assert {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()} == {
        "registry.example.com/fastprune:0.1.0"
    }
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors["exec-profile"]["nodeSelector"] == {"labels": {"gpu": "v100"}}


def test_caching_for_one_run(server, ask, config):
    def cached():
        spec, _ = yaml.safe_load_all(list(server.versions.values())[-1]["package"])
        return {
            bool(task["cachingOptions"])
            for component in (spec["root"], *spec["components"].values())
            for task in component.get("dag", {}).get("tasks", {}).values()
            if "executorLabel" in spec["components"][task["componentRef"]["name"]]
        }

    assert ask("submit", config).exit_code == 0 and cached() == {True, False}  # the stages on MLflow never are
    assert ask("submit", config, "--no-cache").exit_code == 0 and cached() == {False}
    assert len(server.versions) == 2 and len(server.pipelines) == 1


def test_a_schedule_from_first_to_last(server, ask, config):
    done = ask("schedule", config)
    assert done.exit_code == 0, done.output
    run = only(server.recurring_runs)
    id = run["recurring_run_id"]
    assert run["trigger"]["cron_schedule"]["cron"] == "0 30 2 * * mon-fri"
    assert (run["display_name"], run["max_concurrency"], run["no_catchup"], run["status"]) == (
        "reviews",
        "2",
        True,
        "DISABLED",
    )
    assert run["pipeline_version_reference"]["pipeline_version_id"] == only(server.versions)["pipeline_version_id"]
    assert done.output.startswith(f"new: reviews  {id}  0 30 2 * * mon-fri  disabled\nversion reviews-")
    assert ask("schedule", config).output.startswith(f"unchanged: reviews  {id}")

    assert ask("enable", "reviews").output == "enabled reviews\n" and run["status"] == "ENABLED"
    assert ask("schedules").output == f"reviews  {id}  0 30 2 * * mon-fri  enabled\n"
    assert json.loads(ask("schedules", "--json").output)["version_id"] == only(server.versions)["pipeline_version_id"]
    assert ask("disable", id).output == "disabled reviews\n" and run["status"] == "DISABLED"

    refused = ask("schedule", config, "--cron", "0 0 3 * * *")
    assert refused.exit_code == 2 and "--replace" in refused.output
    assert ask("schedule", config, "--cron", "0 0 3 * * *", "--replace").exit_code == 0
    assert only(server.recurring_runs)["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
    assert ask("schedule", config, "--name", "weekends", "--cron", "0 0 3 * * sat,sun").exit_code == 0
    assert ask("unschedule", "reviews").output == "deleted reviews\n"
    assert only(server.recurring_runs)["display_name"] == "weekends"
    assert ask("unschedule", "weekends").exit_code == 0
    assert ask("schedules").output == "there is no schedule\n"


@pytest.mark.parametrize(
    "line, wrong, message",
    [
        ("name: reviews", "nam: reviews", "sweep.yaml, line 1: nam: unknown key; did you mean name?"),
        ("{keep_ratio: 0.6}", "{keep_ratio: 6}", "sweep.yaml, line 10: budgets.0: keep_ratio"),
        ("0 30 2 * * mon-fri", "30 2 * * mon-fri", "line 13: schedule.cron: cron '30 2 * * mon-fri': 5 fields, not 6"),
        ("0 30 2 * * mon-fri", "0 30 2 * * fri-mon", "the day of the week, 'fri-mon'"),
        ("{accelerator: v100}", "{accelerator: a100}", "a100"),
        ("s3://data/dev.tsv", "data/dev.tsv", "sweep.yaml, line 6: models.0.eval_file"),
    ],
)
@pytest.mark.parametrize("command", ["submit", "schedule"])
def test_a_mistake_in_a_config_stays_here(server, ask, config, command, line, wrong, message):
    config.write_text(CONFIG.replace(line, wrong))
    done = ask(command, config)
    assert done.exit_code == 2 and message in done.output and "Traceback" not in done.output
    assert server.asked == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["submit", "CONFIG", "--argument", "sorce=x"], "sorce is unknown: the pipeline reviews takes tracking_uri"),
        (["submit", "CONFIG", "--argument", "tracking_uri"], "write it as NAME=VALUE"),
        (["submit", "gone.yaml"], "gone.yaml"),
        (["schedule", "CONFIG", "--cron", "0 2 * * *"], "cron '0 2 * * *': 5 fields, not 6"),
        (["schedule", "CONFIG", "--argument", "sorce=x"], "argument sorce is unknown"),
        (["schedules", "--ca-cert", "gone.pem"], "--ca-cert: gone.pem is no file"),
    ],
)
def test_a_mistake_in_an_option_stays_here(server, ask, config, arguments, message):
    done = ask(*(config if text == "CONFIG" else text for text in arguments))
    assert done.exit_code == 2 and message in done.output
    assert server.asked == []


def test_a_config_without_a_schedule(server, ask, config):
    config.write_text("\n".join(line for line in CONFIG.splitlines() if not line.startswith("schedule")))
    done = ask("schedule", config)
    assert done.exit_code == 2 and "has no schedule" in done.output and server.asked == []
    assert ask("schedule", config, "--cron", "0 0 2 * * *").exit_code == 0
    assert only(server.recurring_runs)["status"] == "ENABLED"


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["submit", "CONFIG"], 403, "namespace team-a"),
        (["schedule", "CONFIG"], 500, "ml-pipeline"),
        (["schedules"], 401, "KF_PIPELINES_TOKEN"),
        (["enable", "reviews"], 403, "namespace team-a"),
        (["disable", "reviews"], 500, "ml-pipeline"),
        (["unschedule", "reviews"], 401, "KF_PIPELINES_TOKEN"),
    ],
)
def test_a_service_that_refuses(server, ask, config, arguments, status, message):
    server.status = status
    done = ask(*(config if text == "CONFIG" else text for text in arguments), "--namespace", "team-a")
    assert done.exit_code == 2 and server.url in done.output and "Traceback" not in done.output
    assert message in " ".join(done.output.split())
    assert not server.pipelines and not server.runs and not server.recurring_runs


def test_who_one_is_comes_from_the_environment(server, ask, config, monkeypatch):
    server.token, server.multi_user = "secret", True
    assert "does not know who you are" in ask("schedules").output
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "secret")
    assert "several users" in ask("submit", config).output and not server.changes()
    monkeypatch.setenv("KF_PIPELINES_NAMESPACE", "team-a")
    done = ask("submit", config)
    assert done.exit_code == 0 and "secret" not in done.output
    assert only(server.experiments)["namespace"] == "team-a"


def test_a_schedule_that_is_not_there(server, ask):
    for command in ("enable", "disable", "unschedule"):
        done = ask(command, "nightly")
        assert done.exit_code == 2 and "has no schedule nightly. There are: none" in done.output
