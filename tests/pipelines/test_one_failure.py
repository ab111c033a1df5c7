"""A compression that fails costs its own branch alone: on this machine, and in what a cluster is told."""

import json

import pytest
import yaml
from click.testing import CliRunner
from kfp import dsl
from killing import kill_at
from tiny_config import SWEEP, write_config

import fastprune
from fastprune.pipelines import kubeflow
from fastprune.pipelines.__main__ import main
from fastprune.stages import failures
from fastprune.stages.failures import Failure
from fastprune.sweep.graph import parameters, run_of
from fastprune.sweep.reading import parse_config
from fastprune.sweep.stages import STAGES

BUDGETS = [0.8, 0.7, 0.6, 0.5, 0.4]
IMPOSSIBLE = 0.0001
RELEASE = "release: {policy: policy.yaml}\ntracking: {uri: postgresql://mlflow}\n"


def run(tmp_path, source, monkeypatch, budgets, **given):
    """``fastprune run`` of a sweep under a policy that accepts everything."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("FASTPRUNE_ARTIFACT_ROOT", str(tmp_path / "artifacts"))
    (tmp_path / "policy.yaml").write_text("max_accuracy_drop: 1.0")
    config = write_config(
        tmp_path / "c.yaml",
        source,
        budgets=[{"keep_ratio": ratio} for ratio in budgets],
        release={"policy": "policy.yaml"},
        **given,
    )
    work = str(tmp_path / "work")
    return CliRunner().invoke(main, ["run", str(config), "--output-dir", str(tmp_path / "out"), "--work-dir", work])


def check_five_results(folder, failed):
    """The output folder of the model: five models, and the failed compression named."""
    for ratio in BUDGETS:
        place = folder / f"macs-{str(ratio).replace('.', '-')}"
        if place.name == failed:
            continue
        metrics = json.loads((place / "metrics.json").read_text())
        assert metrics["macs_kept"] <= ratio and "<svg" in (place / "report.html").read_text()
        assert fastprune.load(place / "model").config.kept_heads == metrics["heads"]
    assert [path.name for path in (folder / failed).iterdir()] == ["failed.json"]


def test_an_impossible_budget_of_six_costs_itself_alone(tmp_path, source, monkeypatch):
    import mlflow

    done = run(tmp_path, source, monkeypatch, [*BUDGETS, IMPOSSIBLE])
    assert done.exit_code == 1, done.output
    line = f"1 of 6 compressions failed: bert/macs-0-0001: search: keep_ratio {IMPOSSIBLE} keeps nothing at all"
    assert line in " ".join(done.output.split())
    assert "What did not fail is in" in done.output
    folder = tmp_path / "out" / "bert"
    check_five_results(folder, "macs-0-0001")
    summary = json.loads((folder / "summary.json").read_text())
    assert [one["compression"] for one in summary["failed"]] == ["bert/macs-0-0001"]
    assert summary["failed"][0]["stage"] == "search" and len(summary["compressions"]) == 5
    page = (folder / "summary.html").read_text()
    assert "1 of 6 compressions failed" in page and "<td>bert/macs-0-0001</td><td>search</td>" in page

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    picked = summary["compressions"][summary["picked"]]
    assert picked["label"] == "MACs 0.4"  # the cheapest that there is
    assert str(client.get_model_version_by_alias("tiny-bert", "champion").version) == picked["version"]
    assert len(client.search_model_versions("name='tiny-bert'")) == 5
    runs = client.search_runs([client.get_experiment_by_name("fastprune").experiment_id])
    compressions = {run.info.run_name: run.info.status for run in runs if run.info.run_name.startswith("macs")}
    assert compressions.pop("macs-0-0001") == "FAILED" and set(compressions.values()) == {"FINISHED"}
    [model] = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert model.info.status == "FAILED"


def test_a_killed_step_costs_its_compression_alone_and_is_made_up_for_by_the_next_run(tmp_path, source, monkeypatch):
    import mlflow

    killer = kill_at(tmp_path / "killer", 0.6)
    with monkeypatch.context() as context:
        context.syspath_prepend(killer)
        done = run(tmp_path, source, context, [0.7, 0.6])
    assert done.exit_code == 1, done.output
    assert "1 of 2 compressions failed: bert/macs-0-6: tune: the process was killed" in " ".join(done.output.split())
    folder = tmp_path / "out" / "bert"
    assert fastprune.load(folder / "macs-0-7" / "model") and not (folder / "macs-0-6" / "model").exists()
    first = (folder / "macs-0-7" / "model" / "model.safetensors").read_bytes()
    made = len(list((tmp_path / "artifacts" / "artifacts").iterdir()))
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("fastprune").experiment_id])
    assert {one.info.run_name: one.info.status for one in runs}["macs-0-6"] == "FAILED"
    assert [one.info.status for one in runs if one.info.run_name == "tune"].count("KILLED") == 1
    assert "RUNNING" not in {one.info.status for one in runs}

    (tmp_path / "out").rename(tmp_path / "before")
    done = run(tmp_path, source, monkeypatch, [0.7, 0.6])
    assert done.exit_code == 0, done.output
    assert (folder / "macs-0-7" / "model" / "model.safetensors").read_bytes() == first
    assert fastprune.load(folder / "macs-0-6" / "model")
    # Tune, evaluate and report of the one that had failed: nothing else was computed.
    assert len(list((tmp_path / "artifacts" / "artifacts").iterdir())) == made + 3


def test_what_all_compressions_of_a_model_share_fails_them_and_no_other_models(tmp_path, source, monkeypatch):
    model = {name: value for name, value in source.items() if name != "num_samples"}
    broken = model | {"name": "broken", "label_column": "stars", "text_columns": [*model["text_columns"]]}
    done = run(tmp_path, source, monkeypatch, [0.7, 0.6], models=[broken, model | {"name": "bert"}])
    assert done.exit_code == 1, done.output
    said = " ".join(done.output.split())
    assert "2 of 4 compressions failed: broken/macs-0-7, broken/macs-0-6: prepare: " in said
    assert fastprune.load(tmp_path / "out" / "bert" / "macs-0-6" / "model")
    assert json.loads((tmp_path / "out" / "broken" / "summary.json").read_text())["compressions"] == []
    assert json.loads((tmp_path / "out" / "bert" / "summary.json").read_text())["failed"] == []


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage.name != "conclude"], ids=lambda one: one.name)
def test_no_component_raises_for_what_fails_in_it(stage, tmp_path, monkeypatch, capsys):
    """Argo would begin no other task. Each gets inputs that are not there, and then a failure to hand on."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.yaml").write_text("max_accuracy_drop: 1.0")
    sweep = parse_config(SWEEP + RELEASE, tmp_path / "sweep.yaml")
    component, model = kubeflow.COMPONENTS[stage.name], sweep.models[0]
    own = {
        "prepare": {"run_settings": json.dumps(run_of(sweep, model)), "pipeline_job": "none"},
        "importance_shard": {"shard": 0},
        "budget": {"budget": json.dumps({"settings": sweep.budgets[0].settings, "run": {}})},
    }.get(stage.name, {})
    if stage.name != "prepare":
        own["run"] = dsl.Artifact(uri=str(tmp_path / "run"), metadata={"run_id": ""})

    def outcome(inputs, name):
        outputs = {key: dsl.Artifact(uri=str(tmp_path / f"{name}-{key}")) for key in component.component_spec.outputs}
        given = {key: [dsl.Artifact(uri=str(inputs))] for key in stage.lists}
        given |= {key: dsl.Artifact(uri=str(inputs)) for key in stage.inputs if key not in stage.lists}
        settings = parameters(sweep, model, stage)
        component.python_func(**given, **outputs, **own, **settings, tracking_uri="", retries=0)
        return {failures.failure_in(tmp_path / f"{name}-{key}") for key in stage.outputs}

    if stage.name == "prepare":
        monkeypatch.setattr("fastprune.stages.prepare.prepare", lambda **given: 1 / 0)
    [failed] = outcome(tmp_path / "nowhere", "first")
    assert failed.stage == stage.name and failed.why
    assert f"{failures.FAILED} {failed}" in capsys.readouterr().out
    if stage.inputs and not stage.regardless:
        failures.mark(tmp_path / "failed", Failure("tune", "no memory"))
        assert outcome(tmp_path / "failed", "second") == {Failure("tune", "no memory")}


def test_in_the_compiled_pipeline_one_task_alone_fails_for_others_and_it_is_the_last(tmp_path):
    (tmp_path / "policy.yaml").write_text("max_accuracy_drop: 1.0")
    sweep = parse_config(SWEEP + RELEASE, tmp_path / "sweep.yaml")
    kubeflow.compile_pipeline(sweep, tmp_path / "pipeline.yaml")
    spec = next(yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text()))
    programs = {
        name: executor["container"]["command"][-1] for name, executor in spec["deploymentSpec"]["executors"].items()
    }
    assert {name for name, program in programs.items() if "run_stage(" in program} == {
        "exec-conclude",
        "exec-conclude-2",
    }
    assert all("attempt(" in program for name, program in programs.items() if not name.startswith("exec-conclude"))
    tasks = spec["root"]["dag"]["tasks"]
    last = {
        name: task["inputs"]["parameters"]["last"]["runtimeValue"]["constant"]
        for name, task in tasks.items()
        if name.startswith("conclude")
    }
    assert last == {"conclude": False, "conclude-2": True}
    waited = {name for task in tasks.values() for name in task.get("dependentTasks", [])}
    assert set(tasks) - waited == {"conclude-2"}
    # A compression is an item of its loop: its tasks take nothing of another's.
    for component in spec["components"].values():
        for task in component.get("dag", {}).get("tasks", {}).values():
            assert set(task.get("dependentTasks", [])) <= set(component["dag"]["tasks"])
