import inspect
import json

import pytest
import yaml
from click.testing import CliRunner
from google.protobuf import json_format
from kfp import compiler
from kfp.pipeline_spec import pipeline_spec_pb2
from test_stages import source  # noqa: F401 (a fixture)

import fastprune
from fastprune import release
from fastprune.stage_graph import stages_under
from pipelines import compression


def compiled(folder, *arguments):
    """The documents of a compiled pipeline: its spec and, if there is any, its platform's."""
    done = CliRunner().invoke(compression.main, ["compile", "--output", str(folder / "pipeline.yaml"), *arguments])
    assert done.exit_code == 0, done.output
    return list(yaml.safe_load_all((folder / "pipeline.yaml").read_text()))


@pytest.fixture(scope="module", params=["macs", "latency"])
def constraint(request):
    return request.param


@pytest.fixture(scope="module")
def spec(tmp_path_factory, constraint):
    return compiled(tmp_path_factory.mktemp("compiled"), "--constraint", constraint)[0]


def test_the_compiled_pipeline_is_a_pipeline_spec_whose_references_resolve(spec, constraint):
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    tasks = spec["root"]["dag"]["tasks"]
    assert set(tasks) == {stage.name.replace("_", "-") for stage in stages_under(constraint)} | {"register"}
    for name, task in tasks.items():
        component = spec["components"][task["componentRef"]["name"]]
        assert component["executorLabel"] in spec["deploymentSpec"]["executors"]
        for kind in ("parameters", "artifacts"):
            given = task.get("inputs", {}).get(kind, {})
            declared = component.get("inputDefinitions", {}).get(kind, {})
            needed = {key for key, what in declared.items() if not what.get("isOptional")}
            assert needed <= set(given) <= set(declared), name
            for value in given.values():
                if producer := value.get("taskOutputParameter" if kind == "parameters" else "taskOutputArtifact"):
                    made = spec["components"][tasks[producer["producerTask"]]["componentRef"]["name"]]
                    assert producer["producerTask"] in task["dependentTasks"]
                    key = "outputParameterKey" if kind == "parameters" else "outputArtifactKey"
                    assert producer[key] in made["outputDefinitions"][kind]


def test_the_pipeline_passes_the_folders_that_the_stages_name(spec, constraint):
    for stage in stages_under(constraint):
        name = stage.name.replace("_", "-")
        given = spec["root"]["dag"]["tasks"][name].get("inputs", {}).get("artifacts", {})
        assert set(given) == set(stage.inputs)
        component = spec["components"][f"comp-{name}"]
        assert set(stage.outputs) <= set(component["outputDefinitions"]["artifacts"])


def test_nothing_is_installed_when_a_step_starts(spec):
    for executor in spec["deploymentSpec"]["executors"].values():
        assert "pip install" not in json.dumps(executor)


def test_compiling_twice_gives_the_same_bytes(tmp_path):
    for name in ("a.yaml", "b.yaml"):
        compiler.Compiler().compile(compression.define("latency", "nvidia.com/gpu"), str(tmp_path / name))
    assert (tmp_path / "a.yaml").read_bytes() == (tmp_path / "b.yaml").read_bytes()


def test_the_profiler_alone_asks_for_its_accelerator_and_nodes(tmp_path):
    spec, platform = compiled(tmp_path, "--constraint", "latency", "--profiler-accelerator", "nvidia.com/gpu",
                              "--profiler-node", "cloud.google.com/gke-accelerator=nvidia-tesla-v100")
    asked = {name: executor["container"].get("resources", {}).get("accelerator")
             for name, executor in spec["deploymentSpec"]["executors"].items()}
    assert asked.pop("exec-profile") == {"count": "1", "resourceCount": "1", "resourceType": "nvidia.com/gpu",
                                         "type": "nvidia.com/gpu"}
    assert set(asked.values()) == {None}
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors == {"exec-profile": {
        "nodeSelector": {"labels": {"cloud.google.com/gke-accelerator": "nvidia-tesla-v100"}}}}


@pytest.mark.parametrize("arguments, message", [
    (["--profiler-accelerator", "nvidia.com/gpu"], "go with --constraint latency"),
    (["--constraint", "latency", "--profiler-node", "v100"], "'v100' is not of the form LABEL=VALUE"),
])
def test_what_cannot_be_compiled(tmp_path, arguments, message):
    done = CliRunner().invoke(compression.main, ["compile", "--output", str(tmp_path / "p.yaml"), *arguments])
    assert done.exit_code == 2 and message in done.output and not list(tmp_path.iterdir())


def test_a_local_run_prunes_tracks_and_registers(tmp_path, monkeypatch, capsys, source):  # noqa: F811
    import mlflow
    import pandas

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = compression.tracking.tracking_uri(tmp_path)
    monkeypatch.setenv("AIRFLOW_CTX_DAG_RUN_ID", "scheduled-1")
    compression.run(tmp_path / "out", work_dir=tmp_path / "work", keep_ratio=0.5, tracking_uri=uri,
                    model_name="tiny", policy="max_accuracy_drop: 1.0", **source)

    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["macs_kept"] <= 0.5
    assert fastprune.load(tmp_path / "out" / "model").config.kept_heads == metrics["heads"]
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()
    assert not list((tmp_path / "work").iterdir())
    progress = capsys.readouterr().out
    assert all(stage.name.replace("_", "-") in progress for stage in stages_under("macs"))

    client = mlflow.MlflowClient(uri)
    [experiment] = [found for found in client.search_experiments() if found.name == "fastprune"]
    runs = client.search_runs([experiment.experiment_id])
    [parent] = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.info.run_name: run for run in runs if run is not parent}
    assert set(children) == {stage.name for stage in stages_under("macs")} | {"register"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}
    assert parent.data.metrics["pruned"] == metrics["pruned"]
    assert children["fisher"].data.metrics["macs"] > 0
    for run in children.values():
        assert run.data.metrics["seconds"] > 0 and run.data.metrics["system/cpu_utilization_percentage"] >= 0
    assert parent.data.tags["airflow.dag_run_id"] == "scheduled-1"
    assert "{{" not in parent.data.tags["kfp.pipeline_job"]
    manifest = json.loads((tmp_path / "out" / "model" / "manifest.json").read_text())
    data = {given.tags[0].value: json.loads(given.dataset.profile) for given in parent.inputs.dataset_inputs}
    assert {name: found["sha256"] for name, found in data.items()} == {
        name: manifest[f"{name}_sha256"] for name in ("sample", "evaluation")}
    assert children["register"].data.params == {"version": "1", "promotion": "champion"}
    assert client.get_model_version_by_alias("tiny", "champion").run_id == parent.info.run_id
    [event] = release.history(uri, "tiny")
    assert (event.to_version, event.why) == ("1", f"compression {parent.info.run_id}")
    assert "masks.safetensors" in [file.path for file in client.list_artifacts(children["search"].info.run_id)]
    logged = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"report.html", "metrics.json", "manifest.json", "heads.png", "filters.png"} <= logged
    assert not [file for file in (tmp_path / "mlruns").rglob("*") if file.suffix in (".pkl", ".pickle", ".bin")]

    mlflow.set_tracking_uri(uri)
    served = mlflow.pyfunc.load_model("models:/tiny/1")
    answers = served.predict(pandas.DataFrame({"sentence": ["the film was great", "not very good"]}))
    assert list(answers.columns) == ["label", "probability", "probabilities"] and len(answers) == 2


def test_a_failing_step_is_named_and_the_exit_is_not_zero(tmp_path, monkeypatch, source):  # noqa: F811
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://store")  # tracking fails as well
    done = CliRunner().invoke(compression.main, [
        "run", "--source", source["source"], "--train-file", source["train_file"], "--eval-file", source["eval_file"],
        "--text-column", "sentence", "--label-column", "stars", "--output-dir", str(tmp_path / "out"),
        "--work-dir", str(tmp_path / "work")])
    assert done.exit_code == 1
    assert "going on without tracking" in done.output
    assert "step prepare failed" in done.output and "no column 'stars'" in done.output
    assert not (tmp_path / "out").exists()


def test_every_parameter_has_a_default_but_the_model():
    parameters = inspect.signature(compression.define().pipeline_func).parameters.values()
    assert [parameter.name for parameter in parameters if parameter.default is inspect.Parameter.empty] == ["source"]
