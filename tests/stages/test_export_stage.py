"""The stage that exports, and what the report makes of it."""

import json
from importlib import import_module

from fastprune.export.runtimes import load_candidate
from fastprune.stages.export import export
from fastprune.store import artifacts
from fastprune.sweep.stages import stages_of


def test_an_exported_model_is_an_artifact_and_is_reported(folders, tmp_path):
    given = {name: folders[name] for name in ("model", "sample", "evaluation", "pruned")}
    record = export(**given, exported=tmp_path / "exported", quantize="int8")
    assert set(record["metrics"]) == {"exported_metric", "exported_agreement", "exported_megabytes"}
    assert artifacts.read(tmp_path / "exported", "exported-model").stage == "export"
    assert load_candidate(tmp_path / "exported").what == "ONNX Runtime int8"
    [stage] = (stage for stage in stages_of(export=True) if stage.name == "report")
    inputs = {name: folders.get(name, tmp_path / "exported") for name in stage.inputs}
    import_module(stage.place).report(**inputs, report=tmp_path / "report")
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics["exported"] == record["settings"]["exported"] and metrics["seconds"]["export"] > 0
    assert "As it is served" in (tmp_path / "report" / "report.html").read_text()


def test_nothing_is_exported_unless_that_is_asked_for():
    assert "export" not in {stage.name for stage in stages_of()}
    assert not any("exported" in stage.inputs for stage in stages_of())
