"""Sweeps under a real Airflow, from its own environment: the same graph, the same model, failures that stop a run."""

import json
from pathlib import Path

import boto3
import kubernetes_api
import pytest
import torch
import yaml
from airflow_home import REPOSITORY, needed, write_config

import fastprune
from fastprune.model import checkpoint
from fastprune.model.masks import Masks
from fastprune.releases import verification
from fastprune.store import storage
from fastprune.sweep.graph import nodes
from fastprune.sweep.reading import read_config
from tests import servers

pytestmark = needed

CLUSTER = {
    "image": "registry.example/fastprune:0.1.0",
    "image_pull_policy": "Always",
    "secrets": [{"name": "mlflow", "env": {"password": "MLFLOW_TRACKING_PASSWORD"}}],
    "env": {
        "AWS_ENDPOINT_URL": "http://store:9000",
        "BRACES": "{{ left alone }}",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
    },
    "accelerators": {
        "v100": {
            "resource": "nvidia.com/gpu",
            "count": 2,
            "node_selector": {"pool": "v100"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        }
    },
    "stages": {
        "default": {"cpu": 2, "memory": "8Gi", "retries": 2, "timeout_s": 3600},
        "importance_shard": {"accelerator": "v100", "retries": 1, "memory": "16Gi"},
    },
}


def test_a_dag_has_the_tasks_and_edges_of_its_sweep(described, source):
    two = write_config(
        described.configs,
        source,
        "two",
        budgets=[{"keep_ratio": 0.5}, {"keep_ratio": 0.3}],
        importance_shards=2,
        cluster=CLUSTER,
        schedule={"cron": "0 30 2 * * mon", "max_concurrency": 3, "catchup": True},
    )
    one = write_config(
        described.configs,
        source,
        "one",
        schedule={"cron": "0 0 2 * * *", "enabled": False},
        tracking={"uri": "http://mlflow:5000"},
    )
    found = described.describe(FASTPRUNE_ACCELERATOR_POOL="gpu", FASTPRUNE_START="2026-01-01")
    assert not found["errors"] and not found["heavy"] and set(found["dags"]) == {"one", "two"}
    for file in (one, two):
        sweep = read_config(file)
        dag = found["dags"][sweep.name]
        assert {name: task["upstream"] for name, task in dag["tasks"].items()} == {
            node.name: sorted(node.after) for node in nodes(sweep)
        }
        for node in nodes(sweep):
            task, wanted = dag["tasks"][node.name], sweep.task_settings(node.stage.name)
            assert (task["retries"], task["timeout"]) == (wanted.retries, wanted.timeout_s)
            assert task["pool"] == ("gpu" if wanted.accelerator else "default_pool")
            assert task["env"]["FASTPRUNE_NODE"] == node.name
            assert task["env"]["FASTPRUNE_RUN_ROOT"] == f"{described.root}/{sweep.name}/run-1"
            assert task["env"]["FASTPRUNE_DEVICE"] == "cpu"
            said = yaml.safe_load(task["env"]["FASTPRUNE_CONFIG"])
            assert said | {"tracking": None} == yaml.safe_load(sweep.to_yaml()) | {"tracking": None}
            assert not said.get("tracking")  # the param says it
            assert task["skip_on_exit_code"] == []
    one, two = found["dags"]["one"], found["dags"]["two"]
    assert (two["schedule"], two["catchup"], two["max_active_runs"]) == ("30 2 * * mon", True, 3)
    assert (one["schedule"], one["catchup"], one["max_active_runs"]) == (None, False, 1)
    assert one["max_active_tasks"] == 1
    assert one["params"] == {"root": str(described.root), "tracking_uri": "http://mlflow:5000", "device": "cpu"}
    assert one["tasks"]["tune-tiny-macs-0-5"]["env"]["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert "BRACES: '{{ left alone }}'" in two["tasks"]["prepare-tiny"]["env"]["FASTPRUNE_CONFIG"]


def test_pods_are_what_the_config_says(described, source):
    file = write_config(described.configs, source, "two", importance_shards=2, cluster=CLUSTER)
    (described.home / "pod.yaml").write_text("{spec: {serviceAccountName: pruner, containers: [{name: base}]}}")
    found = described.describe(
        FASTPRUNE_AIRFLOW="kubernetes",
        FASTPRUNE_ROOT="s3://bucket/runs",
        FASTPRUNE_POD_TEMPLATE=str(described.home / "pod.yaml"),
        MLFLOW_TRACKING_URI="http://of-airflow:5000",
    )
    assert not found["errors"]
    sweep = read_config(file)
    tasks = found["dags"]["two"]["tasks"]
    assert {name: task["upstream"] for name, task in tasks.items()} == {
        node.name: sorted(node.after) for node in nodes(sweep)
    }
    for node in nodes(sweep):
        task = tasks[node.name]
        spec = task["pod"]["spec"]
        [container] = spec["containers"]
        assert (container["image"], container["imagePullPolicy"]) == (CLUSTER["image"], "Always")
        assert container["command"] == ["python", "-m", "fastprune"]
        assert container["args"] == [
            "stage",
            "env:FASTPRUNE_CONFIG",
            node.name,
            "--root",
            "s3://bucket/runs/two/run-1",
            "--device",
            "cpu",
        ]
        assert (spec["serviceAccountName"], spec["restartPolicy"]) == ("pruner", "Never")
        assert spec["activeDeadlineSeconds"] == task["startup_timeout"] == task["timeout"] == 3600
        assert task["on_finish"] == "delete_succeeded_pod"  # a failed one stays for a look
        given = {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container["env"]}
        assert given.pop("MLFLOW_TRACKING_PASSWORD") == {"secretKeyRef": {"name": "mlflow", "key": "password"}}
        assert yaml.safe_load(given.pop("FASTPRUNE_CONFIG")) == yaml.safe_load(sweep.to_yaml())
        assert given == {
            **CLUSTER["env"],
            "AIRFLOW_CTX_DAG_ID": "two",
            "AIRFLOW_CTX_DAG_RUN_ID": "run-1",
            "AIRFLOW_CTX_TASK_ID": node.name,
            "AIRFLOW_CTX_TRY_NUMBER": "1",
            "AIRFLOW_CTX_LOGICAL_DATE": "2026-01-01T00:00:00+00:00",
        }
        on_gpu = node.stage.name == "importance_shard"
        want = {"cpu": "2", "memory": "16Gi", "nvidia.com/gpu": "2"} if on_gpu else {"cpu": "2", "memory": "8Gi"}
        assert container["resources"] == {"limits": want, "requests": want}
        assert spec["nodeSelector"] == ({"pool": "v100"} if on_gpu else {})
        assert spec["tolerations"] == (
            [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}] if on_gpu else []
        )


def test_a_config_that_is_refused_takes_no_other_away(described, source):
    write_config(described.configs, source, "good")
    write_config(described.configs, source, "half", schedule={"cron": "30 0 2 * * *"})
    write_config(described.configs, source, "odd", bugdets=[])
    write_config(described.configs, source, "good").rename(described.configs / "twin.yaml")
    write_config(described.configs, source, "good")
    dags = described.describe()["dags"]
    assert set(dags) == {"good", "refused-half", "refused-odd", "refused-twin"}
    assert "full minutes" in dags["refused-half"]["doc"]
    assert "odd.yaml, line 3: bugdets: unknown key; did you mean budgets?" in dags["refused-odd"]["doc"]
    assert "another config of FASTPRUNE_CONFIGS has the name good" in dags["refused-twin"]["doc"]
    dags = described.describe(FASTPRUNE_AIRFLOW="kubernetes")["dags"]
    assert "cluster.image is missing" in dags["refused-good"]["doc"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"FASTPRUNE_ROOT": "out"}, "FASTPRUNE_ROOT is 'out', and has to be an absolute path"),
        ({"FASTPRUNE_PYTHON": "", "FASTPRUNE_START": "2026-01-01"}, "FASTPRUNE_PYTHON is not set"),
        ({"FASTPRUNE_AIRFLOW": "cloud"}, "one of local, kubernetes"),
        ({}, "FASTPRUNE_START is not set"),
    ],
)
def test_an_environment_that_is_refused(described, source, change, message):
    write_config(described.configs, source, "one", schedule={"cron": "0 0 2 * * *", "catchup": True})
    assert message in described.describe(**change)["dags"]["refused-one"]["doc"]


def test_without_configs_the_dag_file_is_an_import_error(described):
    [error] = described.describe(FASTPRUNE_CONFIGS="/nowhere")["errors"].values()
    assert "there is no /nowhere" in error


def test_airflow_runs_a_sweep_from_start_to_end(airflow, source, tmp_path):
    """Every stage but the profiler, the Fisher in two shards: masks, weights and metrics are those of the one call.

    What is exported is that model, and the version serves it.
    """
    import mlflow

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    (airflow.home / "policy.yaml").write_text("max_accuracy_drop: 1.0")
    sweep = read_config(
        write_config(
            airflow.configs,
            source,
            "whole",
            importance_shards=2,
            tracking={"uri": uri},
            release={"model_name": "tiny", "policy": "../policy.yaml"},
            export={"format": "onnx", "quantize": "int8"},
        )
    )
    done, states = airflow.run_dag("whole")
    assert done.returncode == 0, done.stdout[-3000:]
    assert states == dict.fromkeys([node.name for node in nodes(sweep)], "success")

    root, task = (
        airflow.outputs("whole"),
        fastprune.Task("table", "classification", "accuracy", ("sentence",), "label"),
    )
    want = fastprune.compress(
        source["source"],
        dataset=source["train_file"],
        evaluation=source["eval_file"],
        task=task,
        num_samples=48,
        keep_ratio=0.5,
        progress=False,
    )
    masks = Masks.load(root / "tune-tiny-macs-0-5" / "tuned" / "masks.safetensors")
    assert masks.heads.equal(want.masks.heads) and masks.filters.equal(want.masks.filters)
    pruned = fastprune.load(root / "tune-tiny-macs-0-5" / "pruned").state_dict()
    for name, tensor in want.model.state_dict().items():
        torch.testing.assert_close(pruned[name], tensor)
    metrics = json.loads((root / "report-tiny-macs-0-5" / "report" / "metrics.json").read_text())
    same = ("dense", "pruned", "macs_kept", "params_kept", "heads", "filters")
    assert {name: metrics[name] for name in same} == {name: want.metrics[name] for name in same}
    exported = root / "export-tiny-macs-0-5" / "exported"
    record = json.loads((exported / "export.json").read_text())
    assert record["weights_sha256"] == checkpoint.digest(want.model) and record["quantize"] == "int8"
    assert metrics["exported"]["sha256"] == storage.sha256_of(exported / "model.onnx")

    client = mlflow.MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("fastprune").experiment_id])
    [model] = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert model.data.tags["airflow.dag_id"] == "whole" and model.data.tags["airflow.task_id"] == "prepare-tiny"
    assert model.data.tags["airflow.dag_run_id"] == root.name
    assert {run.info.status for run in runs} == {"FINISHED"}
    champion = client.get_model_version_by_alias("tiny", "champion")
    assert champion.run_id == model.info.run_id
    assert verification.read_evidence(client, "tiny", champion.version).serves == "onnx"
    assert model.data.metrics["exported.metric"] == metrics["exported"]["metric"]


def untuned(tmp_path: Path, source: dict) -> dict:
    """The source with every label of its evaluation data turned round: its model is worse than guessing."""
    rows = Path(source["eval_file"]).read_text().splitlines()
    turned = [rows[0], *(f"{row[:-1]}{1 - int(row[-1])}" for row in rows[1:])]
    (tmp_path / "turned.csv").write_text("\n".join(turned) + "\n")
    return source | {"eval_file": str(tmp_path / "turned.csv")}


def test_a_failing_stage_fails_the_dag_and_of_what_is_after_it_only_the_conclusion_runs(airflow, source, tmp_path):
    sweep = read_config(write_config(airflow.configs, untuned(tmp_path, source), "failing"))
    done, states = airflow.run_dag("failing")
    assert done.returncode == 1 and "not fine-tuned" in done.stdout
    assert states == {node.name: "upstream_failed" for node in nodes(sweep)} | {
        "prepare-tiny": "success",
        "evaluate-dense-tiny": "failed",
        "conclude-tiny": "failed",
    }
    made = {path.name for path in airflow.outputs("failing").iterdir() if list(path.glob("*/*"))}
    assert made == {"prepare-tiny", "conclude-tiny"}
    assert "1 of 1 compressions failed: tiny/macs-0-5: evaluate_dense: " in done.stdout


@servers.skip_without("" if servers.WEED else servers.missing())
def test_pods_pass_their_folders_through_s3_and_a_failed_one_stays(airflow, source, tmp_path):
    """Against a stand-in for the cluster: it runs a pod's command with the pod's own environment and secrets."""
    kubeconfig = tmp_path / "kubeconfig"
    connection = {
        "conn_type": "kubernetes",
        "extra": {"kube_config_path": str(kubeconfig), "namespace": kubernetes_api.NAMESPACE},
    }
    with servers.s3(tmp_path / "s3") as settings:
        keys = {name: settings.pop(name) for name in servers.ADMIN}
        sweep = read_config(
            write_config(
                airflow.configs,
                untuned(tmp_path, source),
                "pods",
                cluster={
                    "image": "fastprune:0.1.0",
                    "secrets": [{"name": "store", "env": {name: name for name in keys}}],
                    "env": {**settings, "PYTHONPATH": str(REPOSITORY), "FASTPRUNE_CACHE": str(tmp_path / "cache")},
                },
            )
        )
        with kubernetes_api.cluster(kubeconfig, {"store": keys}) as cluster:
            done, states = airflow.run_dag(
                "pods",
                FASTPRUNE_AIRFLOW="kubernetes",
                FASTPRUNE_ROOT=f"s3://{servers.BUCKET}/runs",
                AIRFLOW_CONN_KUBERNETES_DEFAULT=json.dumps(connection),
            )
        client = boto3.client(
            "s3",
            **{name.lower(): value for name, value in keys.items()},
            endpoint_url=settings["AWS_ENDPOINT_URL"],
            region_name=settings["AWS_DEFAULT_REGION"],
        )
        stored = [entry["Key"] for entry in client.list_objects_v2(Bucket=servers.BUCKET)["Contents"]]
    assert done.returncode == 1, done.stdout[-3000:]
    assert "not fine-tuned" in done.stdout  # the pod's log is the task's
    assert states == {node.name: "upstream_failed" for node in nodes(sweep)} | {
        "prepare-tiny": "success",
        "evaluate-dense-tiny": "failed",
        "conclude-tiny": "failed",
    }
    ended = [pod["metadata"]["labels"]["task_id"] for pod in (*cluster.deleted, *cluster.pods.values())]
    assert ended == ["prepare-tiny", "evaluate-dense-tiny", "conclude-tiny"] and len(cluster.deleted) == 1
    assert [key for key in stored if key.startswith("runs/pods/") and key.endswith("/prepare-tiny/model/stage.json")]
    assert not any(secret in done.stdout for secret in keys.values())
