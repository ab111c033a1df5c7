"""Each component by itself: that it takes what its stage says, and its function."""

import json

import pytest
from kfp import dsl
from tiny_config import write_config

import fastprune
from fastprune.latency.lut import LatencyTable
from fastprune.pipelines.kubeflow import COMPONENTS
from fastprune.settings import Budget
from fastprune.sweep.graph import parameters, run_of, stages_of_sweep
from fastprune.sweep.reading import read_config
from fastprune.sweep.stages import STAGES

TRACKED = {"tracking_uri", "retries"}
OWN = {
    "prepare": {"run_settings", "pipeline_job"} | TRACKED,
    "budget": {"budget"} | TRACKED,
    "importance_shard": {"shard"} | TRACKED,
    "conclude": set(),
}
OWN_ARTIFACTS = {"prepare": set(), "conclude": {"before"}}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_it_takes_and_makes_what_its_stage_says(stage):
    spec = COMPONENTS[stage.name].component_spec
    artifacts = {name for name, given in spec.inputs.items() if "@" in given.type}
    assert artifacts == {*stage.inputs, *OWN_ARTIFACTS.get(stage.name, {"run"})}
    assert {name for name, given in spec.inputs.items() if given.is_artifact_list} == set(stage.lists)
    assert set(spec.inputs) - artifacts == {*stage.parameters, *OWN.get(stage.name, TRACKED)}
    assert set(stage.outputs) <= set(spec.outputs)
    assert spec.implementation.container.image == f"fastprune:{fastprune.__version__}"


@pytest.fixture
def sweep(tmp_path, source):
    table = LatencyTable(
        [0.1, 0.4, 0.6, 0.8, 1.0],
        [0.1 + 0.02 * n for n in range(65)],
        0.2,
        32,
        2,
        16,
        "float32",
        "sdpa",
        "somewhere else",
    )
    table.save(tmp_path / "lut.json")
    (tmp_path / "policy.yaml").write_text("max_accuracy_drop: 1.0")
    return read_config(
        write_config(
            tmp_path / "c.yaml",
            source,
            budgets=[Budget(keep_ratio=0.6, constraint="latency").settings],
            latency={"lut": "lut.json"},
            batch_size=16,
            importance_shards=2,
            release={"policy": "policy.yaml"},
            export={"format": "onnx", "quantize": "int8"},
        )
    )


@pytest.mark.filterwarnings("ignore:the look-up table")
def test_their_functions(tmp_path, sweep, monkeypatch):
    """One after the other in this process, untracked."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    [model], [budget] = sweep.models, sweep.budgets
    made, run = {}, dsl.Artifact(uri=str(tmp_path / "no-run"), metadata={"run_id": ""})
    for stage in stages_of_sweep(sweep):
        function = COMPONENTS[stage.name].python_func
        tracked = {} if stage.name == "conclude" else {"tracking_uri": "", "retries": 0}
        own = {
            "prepare": [{"run_settings": json.dumps(run_of(sweep, model)), "pipeline_job": "none"}],
            "importance_shard": [{"shard": 0}, {"shard": 1}],
            "budget": [{"budget": json.dumps({"settings": budget.settings, "run": {}})}],
        }.get(stage.name, [{}])
        for number, given in enumerate(own):
            outputs = {
                name: dsl.Artifact(uri=str(tmp_path / f"{name}-{number}"))
                for name in COMPONENTS[stage.name].component_spec.outputs
            }
            function(
                **{name: made[name] if name in stage.lists else made[name][-1] for name in stage.inputs},
                **({} if stage.name in OWN_ARTIFACTS else {"run": run}),
                **outputs,
                **given,
                **parameters(sweep, model, stage),
                **tracked,
            )
            for name in stage.outputs:
                made.setdefault(name, []).append(outputs[name])
    assert 0 < made["measured"][0].metadata["pruned"] <= 1 and made["pruned"][0].metadata["macs_kept"] < 1
    assert len(made["model"][0].metadata["sha256"]) == 64
    exported = json.loads((tmp_path / "report-0" / "metrics.json").read_text())["exported"]
    assert made["exported"][0].metadata["exported_metric"] == exported["metric"] and exported["quantize"] == "int8"
    summary = json.loads((tmp_path / "summary-0" / "summary.json").read_text())
    assert summary["picked"] == 0 and summary["compressions"][0]["label"].startswith("latency 0.6")
    verdict = json.loads((tmp_path / "verdict-0" / "verdict.json").read_text())
    assert verdict["version"] == "" and verdict["promotion"].startswith("not promoted: it was not registered")
    assert json.loads((tmp_path / "conclusion-0" / "conclusion.json").read_text()) == {
        "compressions": 1,
        "failed": [],
        "problems": [],
    }
