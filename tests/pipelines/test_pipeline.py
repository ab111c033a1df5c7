"""The Kubeflow pipeline: what it compiles to, that it has the graph of the stages, and runs of it on this machine."""

import json

import pytest
import yaml
from click.testing import CliRunner
from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec import pipeline_spec_pb2
from tiny_config import SWEEP, write_config

import fastprune
from fastprune.pipelines import kubeflow, local_run
from fastprune.pipelines.__main__ import main
from fastprune.releases import promotion
from fastprune.stages.run_node import run_node
from fastprune.stages.tries import NODE
from fastprune.sweep.graph import nodes, parameters
from fastprune.sweep.reading import parse_config, read_config
from fastprune.tracking import mlflow_store

SINGLE = """\
name: single
models: [{name: one, source: org/one, task: sst2}]
budgets: [{keep_ratio: 0.5}]
"""
GATED = SWEEP + "release: {policy: policy.yaml}\ntracking: {uri: postgresql://mlflow}\n"
GATED += "export: {format: onnx, quantize: int8}\n"


@pytest.fixture(params=[SINGLE, SWEEP, GATED], ids=["single", "sweep", "gated"])
def sweep(request, tmp_path):
    (tmp_path / "policy.yaml").write_text("max_accuracy_drop: 0.02\n")
    return parse_config(request.param, tmp_path / "sweep.yaml")


def compiled(sweep, folder):
    """The documents of a compiled pipeline: its spec and, if there is any, its platform's."""
    kubeflow.compile_pipeline(sweep, folder / "pipeline.yaml")
    return list(yaml.safe_load_all((folder / "pipeline.yaml").read_text()))


def dags(spec):
    """Every group of tasks: the pipeline itself and the loops in it."""
    return [spec["root"]] + [component for component in spec["components"].values() if "dag" in component]


def test_it_is_a_pipeline_spec_whose_references_resolve(sweep, tmp_path):
    spec = compiled(sweep, tmp_path)[0]
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    for dag in dags(spec):
        tasks = dag["dag"]["tasks"]
        for name, task in tasks.items():
            component = spec["components"][task["componentRef"]["name"]]
            assert "dag" in component or component["executorLabel"] in spec["deploymentSpec"]["executors"]
            for kind in ("parameters", "artifacts"):
                given = task.get("inputs", {}).get(kind, {})
                declared = component.get("inputDefinitions", {}).get(kind, {})
                needed = {key for key, what in declared.items() if not what.get("isOptional")}
                needed -= {key for key in needed if "loop-item" in key}
                assert needed <= set(given) <= set(declared), name
                for value in given.values():
                    key = f"taskOutput{kind.capitalize()[:-1]}"
                    if producer := value.get(key):
                        made = spec["components"][tasks[producer["producerTask"]]["componentRef"]["name"]]
                        assert producer["producerTask"] in task["dependentTasks"]
                        assert producer[f"output{kind.capitalize()[:-1]}Key"] in made["outputDefinitions"][kind]
                    elif outer := value.get(f"componentInput{kind.capitalize()[:-1]}"):
                        assert outer in dag["inputDefinitions"][kind]


def edges(spec):
    """What each task gets artifacts from: {task: {input: (task, output)}}, loops looked into."""
    found = {}

    def walk(dag, outside):
        for name, task in dag["dag"]["tasks"].items():
            component = spec["components"][task["componentRef"]["name"]]
            given = {}
            for key, value in task.get("inputs", {}).get("artifacts", {}).items():
                if producer := value.get("taskOutputArtifact"):
                    given[key] = (producer["producerTask"], producer["outputArtifactKey"])
                else:
                    given[key] = outside[value["componentInputArtifact"]]
            if "dag" in component:
                walk(component, given)
            else:
                found[name] = given

    walk(spec["root"], {})
    return {
        name: {key: _maker(spec, *maker) for key, maker in given.items() if key != "run"}
        for name, given in found.items()
    }


def _maker(spec, task, output):
    """The task and output behind what a loop puts out."""
    for dag in dags(spec):
        if task in dag["dag"]["tasks"]:
            component = spec["components"][dag["dag"]["tasks"][task]["componentRef"]["name"]]
            if "dag" in component:
                [selector] = component["dag"]["outputs"]["artifacts"][output]["artifactSelectors"]
                return _maker(spec, selector["producerSubtask"], selector["outputArtifactKey"])
    return task, output


def told(spec):
    """What each task gets from the configuration: {task: {parameter: value}}."""
    return {
        name: {
            key: value["runtimeValue"]["constant"]
            for key, value in task.get("inputs", {}).get("parameters", {}).items()
            if "runtimeValue" in value
        }
        for dag in dags(spec)
        for name, task in dag["dag"]["tasks"].items()
    }


def test_it_has_the_stages_and_edges_of_the_graph(sweep, tmp_path):
    """And each task is told what its stage takes from the configuration."""
    spec = compiled(sweep, tmp_path)[0]
    found, given = edges(spec), told(spec)
    numbered = {model.name: "" if number == 0 else f"-{number + 1}" for number, model in enumerate(sweep.models)}

    def task(stage, model):
        return stage.replace("_", "-") + numbered[model]

    by_name = {node.name: node for node in nodes(sweep)}
    expected = {}
    for node in nodes(sweep):
        expected[task(node.stage.name, node.model.name)] = {
            name: (task(by_name[makers[0][0]].stage.name, by_name[makers[0][0]].model.name), makers[0][1])
            for name, makers in node.inputs.items()
        }
        settings = parameters(sweep, node.model, node.stage)
        assert settings.items() <= given[task(node.stage.name, node.model.name)].items()
    assert found == expected
    assert len([name for name in found if name.startswith("export")]) == (len(sweep.models) if sweep.export else 0)


def test_loops_have_an_item_for_every_shard_and_budget(tmp_path):
    sweep = parse_config(SWEEP, tmp_path / "sweep.yaml")
    spec = compiled(sweep, tmp_path)[0]
    items = [
        json.loads(task["parameterIterator"]["items"]["raw"])
        for task in spec["root"]["dag"]["tasks"].values()
        if "parameterIterator" in task
    ]
    assert items[0] == items[2] == [0, 1]
    assert [json.loads(item)["settings"] for item in items[1]] == [budget.settings for budget in sweep.budgets]
    for task in spec["root"]["dag"]["tasks"].values():
        assert "parameterIterator" not in task or task["iteratorPolicy"] == {"parallelismLimit": 1}


def test_nothing_is_installed_when_a_step_starts(sweep, tmp_path):
    for executor in compiled(sweep, tmp_path)[0]["deploymentSpec"]["executors"].values():
        assert "pip install" not in json.dumps(executor)


def test_compiling_twice_gives_the_same_bytes(sweep, tmp_path):
    first = compiled(sweep, tmp_path), (tmp_path / "pipeline.yaml").read_bytes()
    assert (compiled(sweep, tmp_path), (tmp_path / "pipeline.yaml").read_bytes()) == first


CLUSTER = """\
cluster:
  image: registry.example/fastprune:7
  image_pull_policy: Always
  env: {AWS_ENDPOINT_URL: http://store:8333}
  secrets: [{name: tracking, env: {password: MLFLOW_TRACKING_PASSWORD}}]
  accelerators:
    v100:
      resource: nvidia.com/gpu
      count: 2
      node_selector: {cloud.example/accelerator: nvidia-tesla-v100}
      tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
  parallelism: 3
  stages:
    default: {cpu: 500m, memory: 8Gi, retries: 2, caching: true}
    profile: {accelerator: v100, caching: false, timeout_s: 600}
"""


def test_every_task_gets_what_the_configuration_says_of_it(tmp_path):
    text = SWEEP[: SWEEP.index("cluster:")] + CLUSTER
    spec, platform = compiled(parse_config(text, tmp_path / "sweep.yaml"), tmp_path)
    for dag in dags(spec):
        for name, task in dag["dag"]["tasks"].items():
            if "parameterIterator" in task:
                assert task["iteratorPolicy"] == {"parallelismLimit": 3}
                continue
            assert task.get("retryPolicy", {}).get("maxRetryCount", 0) == (0 if name.startswith("conclude") else 3)
            off = name.startswith(("profile", "prepare", "budget", "register", "summarise", "gate"))
            assert task["cachingOptions"].get("enableCache", False) is not off
    for name, executor in spec["deploymentSpec"]["executors"].items():
        container = executor["container"]
        assert container["image"] == "registry.example/fastprune:7"
        assert container["env"] == [{"name": "AWS_ENDPOINT_URL", "value": "http://store:8333"}]
        resources = container["resources"]
        assert (resources["resourceCpuRequest"], resources["resourceMemoryLimit"]) == ("500m", "8Gi")
        accelerator = resources.get("accelerator", {})
        assert accelerator.get("resourceType") == ("nvidia.com/gpu" if "profile" in name else None)
        assert accelerator.get("resourceCount") == ("2" if "profile" in name else None)

    json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
    told = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(told) == set(spec["deploymentSpec"]["executors"])
    for name, settings in told.items():
        json_format.ParseDict(settings, KubernetesExecutorConfig())
        assert settings["imagePullPolicy"] == "Always"
        [secret] = settings["secretAsEnv"]
        assert secret["keyToEnv"] == [{"envVar": "MLFLOW_TRACKING_PASSWORD", "secretKey": "password"}]
        assert secret["secretName"] == "tracking"
        profiler = "profile" in name
        assert settings.get("nodeSelector") == (
            {"labels": {"cloud.example/accelerator": "nvidia-tesla-v100"}} if profiler else None
        )
        assert settings.get("tolerations") == (
            [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}] if profiler else None
        )
        assert settings.get("activeDeadlineSeconds") == ("600" if profiler else None)
        node = {"name": NODE, "fieldPath": "metadata.annotations['workflows.argoproj.io/node-name']"}
        assert settings.get("fieldPathAsEnv") == (None if "conclude" in name else [node])


def test_compile_takes_no_files_of_this_machine(tmp_path, source):
    path = write_config(tmp_path / "c.yaml", source | {"train_file": "train.csv"})
    done = CliRunner().invoke(main, ["compile", str(path), "--output", str(tmp_path / "p.yaml")])
    assert done.exit_code == 2 and "is a path on this machine" in done.output and not (tmp_path / "p.yaml").exists()
    done = CliRunner().invoke(
        main, ["compile", str(write_config(tmp_path / "c.yaml", source)), "--output", str(tmp_path / "p.yaml")]
    )
    assert done.exit_code == 0, done.output
    assert next(yaml.safe_load_all((tmp_path / "p.yaml").read_text()))["pipelineInfo"]["name"] == "tiny"


@pytest.fixture
def ran(tmp_path, monkeypatch, source):
    """A single compression under a policy, run from its file."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("AIRFLOW_CTX_DAG_RUN_ID", "scheduled-1")
    (tmp_path / "policy.yaml").write_text("max_accuracy_drop: 1.0")
    path = write_config(
        tmp_path / "c.yaml",
        source,
        release={"model_name": "tiny", "policy": "policy.yaml"},
        export={"format": "onnx", "quantize": "int8"},
    )
    done = CliRunner().invoke(
        main, ["run", str(path), "--output-dir", str(tmp_path / "out"), "--work-dir", str(tmp_path / "work")]
    )
    assert done.exit_code == 0, done.output
    return read_config(path), done.output


def test_a_local_run_prunes_tracks_registers_and_promotes(ran, tmp_path):
    import mlflow
    import pandas

    sweep, told = ran
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["macs_kept"] <= 0.5
    assert fastprune.load(tmp_path / "out" / "model").config.kept_heads == metrics["heads"]
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()
    exported = json.loads((tmp_path / "out" / "onnx" / "export.json").read_text())
    assert exported["quantize"] == "int8" and 0.5 < metrics["exported"]["agreement"] <= 1
    assert not list((tmp_path / "work").iterdir())
    stages = [node.stage.name for node in nodes(sweep)]
    assert all(stage.replace("_", "-") in told for stage in stages)

    uri = mlflow_store.tracking_uri()
    client = mlflow.MlflowClient(uri)
    [experiment] = [found for found in client.search_experiments() if found.name == "fastprune"]
    runs = client.search_runs([experiment.experiment_id])
    [parent] = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.info.run_name: run for run in runs if run is not parent}
    assert set(children) == set(stages) - {"conclude"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}
    assert parent.data.metrics["pruned"] == metrics["pruned"]
    assert parent.data.metrics["exported.metric"] == metrics["exported"]["metric"]
    assert parent.data.params["keep_ratio"] == "0.5" and parent.data.params["num_samples"] == "48"
    assert children["importance"].data.metrics["macs"] > 0
    for run in children.values():
        assert run.data.metrics["seconds"] > 0 and run.data.metrics["system/cpu_utilization_percentage"] >= 0
    assert parent.data.tags["airflow.dag_run_id"] == "scheduled-1"
    assert "{{" not in parent.data.tags["kfp.pipeline_job"]
    manifest = json.loads((tmp_path / "out" / "model" / "manifest.json").read_text())
    data = {given.tags[0].value: json.loads(given.dataset.profile) for given in parent.inputs.dataset_inputs}
    assert {name: found["sha256"] for name, found in data.items()} == {
        name: manifest[f"{name}_sha256"] for name in ("sample", "evaluation")
    }
    assert children["gate"].data.params == {"version": "1", "promotion": "champion"}
    assert client.get_model_version_by_alias("tiny", "champion").run_id == parent.info.run_id
    [event] = promotion.history(uri, "tiny")
    assert (event.to_version, event.why) == ("1", f"compression {parent.info.run_id}")
    assert "masks.safetensors" in [file.path for file in client.list_artifacts(children["search"].info.run_id)]
    logged = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"report.html", "metrics.json", "manifest.json", "heads.png", "filters.png", "pareto.png"} <= logged
    assert not [file for file in (tmp_path / "mlruns").rglob("*") if file.suffix in (".pkl", ".pickle", ".bin")]

    mlflow.set_tracking_uri(uri)
    served = mlflow.pyfunc.load_model("models:/tiny/1")
    answers = served.predict(pandas.DataFrame({"sentence": ["the film was great", "not very good"]}))
    assert list(answers.columns) == ["label", "probability", "probabilities"] and len(answers) == 2


def test_a_sweep_has_the_same_models_as_the_tasks_one_by_one(tmp_path, monkeypatch, source):
    """Two budgets and two shards: by kfp.local, and each task by itself as Airflow runs them."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    (tmp_path / "policy.yaml").write_text("max_accuracy_drop: 1.0")
    sweep = read_config(
        write_config(
            tmp_path / "c.yaml",
            source,
            batch_size=8,
            importance_shards=2,
            budgets=[{"keep_ratio": 0.7}, {"keep_ratio": 0.4}],
            release={"policy": "policy.yaml"},
        )
    )
    local_run.run(sweep, tmp_path / "out", work_dir=tmp_path / "work")
    separate = sweep.model_copy(
        update={"tracking": sweep.tracking.model_copy(update={"uri": f"sqlite:///{tmp_path}/other/mlflow.db"})}
    )
    (tmp_path / "other").mkdir()
    for node in nodes(separate):
        run_node(separate, node, tmp_path / "root")
    found = {}
    for label in ("macs-0-7", "macs-0-4"):
        metrics = [
            json.loads((folder / "metrics.json").read_text())
            for folder in (tmp_path / "out" / "bert" / label, tmp_path / "root" / f"report-bert-{label}" / "report")
        ]
        for name in ("heads", "filters", "pruned", "dense", "macs_kept"):
            assert metrics[0][name] == metrics[1][name]
        found[label] = metrics[0]
    summary = json.loads((tmp_path / "out" / "bert" / "summary.json").read_text())
    assert [one["pruned"] for one in summary["compressions"]] == [one["pruned"] for one in found.values()]
    assert summary["picked"] == 1 and "<svg" in (tmp_path / "out" / "bert" / "summary.html").read_text()
    for uri in (mlflow_store.tracking_uri(), separate.tracking.uri):
        client = mlflow.MlflowClient(uri)
        runs = client.search_runs([client.get_experiment_by_name("fastprune").experiment_id])
        assert {run.info.status for run in runs} == {"FINISHED"}
        [parent] = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        below = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
        named = {run.info.run_name for run in below} - {node.stage.name for node in nodes(sweep)}
        compressions = {"macs-0-7", "macs-0-4"}
        assert named == compressions | {"importance_shard 0", "importance_shard 1"}, "no two of one name"
        own = {node.stage.name for node in nodes(sweep) if node.budget}
        for run in below:
            children = {
                child.info.run_name for child in runs if child.data.tags.get("mlflow.parentRunId") == run.info.run_id
            }
            assert children == (own if run.info.run_name in compressions else set())
        assert [run.info.run_name for run in runs].count("merge_importance") == 1
        picked = summary["compressions"][1]["version"]
        assert str(client.get_model_version_by_alias("tiny-bert", "champion").version) == picked


def test_a_failing_step_is_named_and_the_exit_is_not_zero(tmp_path, monkeypatch, source):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://store")  # tracking fails as well
    path = write_config(tmp_path / "c.yaml", source | {"label_column": "stars"})
    done = CliRunner().invoke(
        main, ["run", str(path), "--output-dir", str(tmp_path / "out"), "--work-dir", str(tmp_path / "work")]
    )
    assert done.exit_code == 1
    assert "going on without tracking" in done.output
    assert "1 of 1 compressions failed: bert/macs-0-5: prepare: " in done.output
    assert "no column 'stars'" in done.output
    assert not (tmp_path / "out").exists()
