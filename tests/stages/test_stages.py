import inspect
import json
import re
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_stages import algorithm_stages, run_stages

import fastprune
from fastprune import method
from fastprune.data import Split
from fastprune.errors import InputError
from fastprune.latency.lut import LatencyTable
from fastprune.model.masks import Masks
from fastprune.releases import serving
from fastprune.settings import Budget
from fastprune.stages import importance as importance_stages
from fastprune.stages.evaluate_dense import evaluate_dense
from fastprune.stages.prepare import prepare
from fastprune.stages.profile import profile
from fastprune.stages.register import register
from fastprune.sweep.stages import STAGES


def test_the_table_names_the_folders_that_each_stage_takes():
    made = set()
    for stage in STAGES:
        assert set(stage.inputs) <= made, f"{stage.name} reads what no stage before it made"
        run = getattr(import_module(stage.place), stage.name)
        own = {
            "importance_shard": {"shard"},
            "budget": {field.name for field in fields(Budget)},
            "conclude": {"before"},
        }.get(stage.name, set())
        tracked = {"run_id", "tracking_uri"} if stage.releases else set()
        assert {*stage.inputs, *stage.outputs, *stage.parameters, *own, *tracked} == set(
            inspect.signature(run).parameters
        ) - {"every_stage"}
        made |= set(stage.outputs)


def test_stages_that_need_no_modelling_code_do_not_import_it():
    """It takes seconds, in every process of a pipeline."""
    code = "import sys, fastprune.stages.prepare; assert 'transformers.modeling_utils' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_pruned_folder_is_a_model_within_the_budget(folders):
    model = fastprune.load(folders["pruned"])
    manifest = json.loads((folders["pruned"] / "manifest.json").read_text())
    assert manifest["macs_after"] <= 0.5 * manifest["macs_before"]
    assert model.config.kept_heads == Masks.load(folders["rearranged"] / "masks.safetensors").head_counts


def test_metrics_sum_all_stages_up(folders):
    metrics = json.loads((folders["report"] / "metrics.json").read_text())
    assert metrics["metric"] == "accuracy" and metrics["dense"] == 1.0
    assert 0 < metrics["macs_kept"] <= 0.5 and 0 < metrics["params_kept"] < 1
    assert metrics["latency_ms"]["dense"] > 0 and metrics["params"]["pruned"] < metrics["params"]["dense"]
    assert list(metrics["seconds"]) == [stage.name for stage in algorithm_stages()[:-1]]
    assert metrics["stages"]["tuning"] == metrics["pruned"]


def test_stages_agree_with_the_one_call(folders, source):
    task = fastprune.Task("table", "classification", "accuracy", ("sentence",), "label")
    whole = fastprune.compress(
        source["source"],
        dataset=source["train_file"],
        evaluation=source["eval_file"],
        task=task,
        num_samples=48,
        keep_ratio=0.5,
        progress=False,
    )
    manifest = json.loads((folders["pruned"] / "manifest.json").read_text())
    assert {**manifest, "source_model": ""} == {**json.loads(json.dumps(whole.manifest)), "source_model": ""}
    saved = fastprune.load(folders["pruned"]).state_dict()
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(saved[name], tensor)


def test_stages_of_two_processes_keep_the_same_units(folders, source, tmp_path, monkeypatch):
    """Importance and tuning are shared; the masks are those of one process, and the weights to rounding."""
    sizes = []

    def together(size, *work):
        sizes.append(size)
        return shared(size, *work)

    shared = method.together
    monkeypatch.setattr(method, "together", together)
    made = run_stages(tmp_path, **source, keep_ratio=0.5, processes=2)
    assert sizes == [2, 2]
    one, two = (Masks.load(some["rearranged"] / "masks.safetensors") for some in (folders, made))
    assert torch.equal(one.heads, two.heads) and torch.equal(one.filters, two.filters)
    torch.testing.assert_close(
        *(fastprune.load(some["pruned"]).state_dict() for some in (made, folders)), rtol=1e-3, atol=1e-4
    )


def test_rows_of_the_evaluation_are_served_before_a_model_is_registered(folders, source, tmp_path, monkeypatch):
    served = []
    monkeypatch.setattr(serving, "check_answers", lambda model, folder, manifest, texts, serves: served.extend(texts))
    given = {name: folders[name] for name in ("evaluation", "pruned", "report")}
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    made = register(**given, released=tmp_path / "released", model_name="films", tracking_uri=uri)
    assert made["settings"]["version"] == "1"
    [texts] = zip(*served[-12:])
    rows = Path(source["eval_file"]).read_text().splitlines()[1:]
    assert {*texts} <= {row.rpartition(",")[0] for row in rows} and len({*map(len, texts)}) > 6


@pytest.mark.parametrize("options", [{}, {"selection": "fisher", "tuning": "mask"}])
def test_the_smallest_budget_within_an_accuracy_drop(tmp_path, source, options):
    made = run_stages(tmp_path, **source | {"set_apart": True, "max_accuracy_drop": 0.3} | options)
    metrics = json.loads((made["report"] / "metrics.json").read_text())
    curve = metrics["curve"]
    assert 0 < metrics["keep_ratio"] == curve["keep_ratio"] < 1
    assert min(ratio for ratio, metric in curve["points"] if metric >= curve["dense"] - 0.3) == curve["keep_ratio"]
    assert "Accuracy against what is kept" in (made["report"] / "report.html").read_text()
    assert (made["report"] / "curve.png").exists()


def test_an_accuracy_drop_on_rows_of_its_own(tmp_path, source):
    """Then no training row is lost to the sample."""
    paths = {name: tmp_path / name for name in ("model", "sample", "evaluation")}
    prepare(**paths, **source | {"validation_file": source["eval_file"], "num_samples": 60, "set_apart": True})
    held_out = Split.load(paths["evaluation"])
    assert Split.load(paths["sample"] / "validation").digest == held_out.digest and len(held_out) == 40
    assert len(Split.load(paths["sample"])) == 60
    paths = {name: tmp_path / f"{name} refused" for name in paths}
    with pytest.raises(InputError, match="validation_file"):
        prepare(**paths, **source | {"validation_file": source["eval_file"]})
    assert not any(path.exists() for path in paths.values())


def test_no_pickle_and_no_leftovers(folders):
    files = [file for folder in folders.values() for file in folder.rglob("*")]
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".pkl", ".pickle")]
    assert not [path for path in folders["model"].parent.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"label_column": "stars"}, "no column 'stars'"),
        ({"eval_file": ""}, "no data"),
        ({"source": "/nowhere/model"}, "/nowhere/model"),
    ],
)
def test_prepare_refuses_bad_input_and_writes_nothing(tmp_path, source, change, message):
    paths = {name: tmp_path / name for name in ("model", "sample", "evaluation")}
    with pytest.raises(InputError, match=re.escape(message)):
        prepare(**paths, **{**source, **change})
    assert not list(tmp_path.iterdir())


def test_an_untuned_model_is_refused_unless_allowed(tmp_path, source, folders):
    model, evaluation = folders["model"], tmp_path / "evaluation"
    text = Path(source["eval_file"]).read_text()
    flipped = re.sub(r",([01])\n", lambda match: f",{1 - int(match[1])}\n", text)
    (tmp_path / "flipped.csv").write_text(flipped)
    prepare(
        model=tmp_path / "model",
        sample=tmp_path / "sample",
        evaluation=evaluation,
        **{**source, "eval_file": str(tmp_path / "flipped.csv")},
    )
    with pytest.raises(InputError, match="not fine-tuned"):
        evaluate_dense(model=model, evaluation=evaluation, dense=tmp_path / "dense")
    assert not (tmp_path / "dense").exists()
    record = evaluate_dense(model=model, evaluation=evaluation, dense=tmp_path / "dense", allow_untuned=True)
    assert record["metrics"]["metric"] == 0.0


def test_a_latency_budget(tmp_path, source):
    """A given table, a budget in milliseconds: kept by every stage, told by the last."""
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
    with pytest.warns(UserWarning, match="measured with device 'somewhere else'"):
        made = run_stages(
            tmp_path / "made", **source, constraint="latency", latency_ms=3.5, lut=str(tmp_path / "lut.json")
        )
    metrics = json.loads((made["report"] / "metrics.json").read_text())
    assert metrics["keep_ratio"] == pytest.approx(3.5 / table.dense_ms(3))
    assert 0.95 * 3.5 < metrics["latency_ms"]["predicted_pruned"] <= 3.5 * (1 + 1e-9)
    assert metrics["latency_kept"] == pytest.approx(metrics["latency_ms"]["predicted_pruned"] / table.dense_ms(3))
    assert metrics["seconds"]["profile"] > 0
    manifest = json.loads((made["pruned"] / "manifest.json").read_text())
    assert (manifest["constraint"], manifest["solver"], manifest["lut"]) == ("latency", "exact", table.key)
    page = (made["report"] / "report.html").read_text()
    assert "of its latency" in page and "as predicted by the look-up table" in page


def test_the_profiler_keeps_what_it_measures_in_the_store(tmp_path, folders):
    store = {"lut_store": str(tmp_path / "store"), "latency_batch_size": 1, "latency_seq_len": 8, "device": "cpu"}
    first = profile(model=folders["model"], table=tmp_path / "first", **store)
    [kept] = (tmp_path / "store").rglob("*.json")
    again = profile(model=folders["model"], table=tmp_path / "again", **store)
    assert first["settings"]["lut_from"] == "measured now" and str(kept) == again["settings"]["lut_from"]
    assert (tmp_path / "first" / "lut.json").read_bytes() == (tmp_path / "again" / "lut.json").read_bytes()
    half = profile(model=folders["model"], table=tmp_path / "half", latency_dtype="bfloat16", **store)
    assert half["settings"]["lut_from"] == "measured now" and len([*(tmp_path / "store").rglob("*.json")]) == 2
    assert json.loads((tmp_path / "half" / "lut.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("options", [{}, {"selection": "fisher"}, {"selection": "fisher", "estimator": "per_batch"}])
def test_shards_merge_into_the_same_fisher(tmp_path, source, options):
    made = {name: tmp_path / name for name in ("model", "sample", "evaluation")}
    prepare(**made, **source, selection=options.get("selection", "surgeon"))
    given = {name: made[name] for name in ("model", "sample")}
    options = options | {"batch_size": 7}  # seven batches, the last one of six
    importance_stages.importance(**given, importance=tmp_path / "whole", **options)
    for shard in range(3):
        importance_stages.importance_shard(**given, part=tmp_path / f"part-{shard}", shard=shard, shards=3, **options)
    importance_stages.merge_importance(
        **given, part=[tmp_path / f"part-{shard}" for shard in range(3)], importance=tmp_path / "merged", **options
    )
    whole, merged = (load_file(tmp_path / name / "importance.safetensors") for name in ("whole", "merged"))
    for name, importance in whole.items():
        torch.testing.assert_close(merged[name], importance, rtol=1e-6, atol=1e-6 * float(importance.max()))
    with pytest.raises(InputError, match="importance_shards is 8, and the sample has 7 batches"):
        importance_stages.importance_shard(**given, part=tmp_path / "part-8", shard=0, shards=8, **options)
    with pytest.raises(InputError, match="no artifact.json"):
        (tmp_path / "part-1" / "artifact.json").unlink()
        importance_stages.merge_importance(
            **given, part=[tmp_path / "part-1"], importance=tmp_path / "again", **options
        )
