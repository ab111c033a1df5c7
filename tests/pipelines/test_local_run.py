"""What a local run does around its steps; the steps themselves are run in test_pipeline.py."""

import json
from types import SimpleNamespace

import pytest
from reviews import files_under
from tiny_config import write_config

from fastprune.errors import InputError, PipelineError
from fastprune.pipelines import local_run
from fastprune.stages.conclude import CONCLUSION
from fastprune.sweep.reading import read_config

NAMES = (
    *(f"{name}.{number}" for name in ("pruned", "report", "released") for number in range(2)),
    "summary",
    "conclusion",
)


@pytest.fixture
def sweep(tmp_path, source):
    return read_config(write_config(tmp_path / "c.yaml", source, budgets=[{"keep_ratio": 0.7}, {"keep_ratio": 0.4}]))


def steps(then=lambda: None):
    """Stands in for the steps: what two budgets would leave."""

    def run(sweep, work, runner, tracking_uri):
        (work / local_run.LOG).write_text("ValueError: of a step\n")
        for name in NAMES:
            (work / name).mkdir()
        for number in range(2):
            (work / f"pruned.{number}" / "model.safetensors").write_text(f"weights {number}")
            for file in ("report.html", "metrics.json", "README.md"):
                (work / f"report.{number}" / file).write_text(f"{file} {number}")
        (work / "summary" / "summary.html").write_text("summary")
        conclusion = {"compressions": 2, "failed": [], "problems": []}
        (work / "conclusion" / CONCLUSION).write_text(json.dumps(conclusion))
        then()
        made = {name: SimpleNamespace(path=str(work / name)) for name in NAMES}
        return {
            "pruned_0": [made["pruned.0"], made["pruned.1"]],
            "report_0": [made["report.0"], made["report.1"]],
            "released_0": [made["released.0"], made["released.1"]],
            "summary_0": made["summary"],
            "conclusion_0": made["conclusion"],
        }

    return run


def test_a_name_that_is_taken_meanwhile_costs_nothing(tmp_path, monkeypatch, sweep):
    monkeypatch.setattr(local_run, "_run_steps", steps())
    local_run.run(sweep, tmp_path / "undisturbed", work_dir=tmp_path / "work")
    assert not list((tmp_path / "work").iterdir())
    monkeypatch.setattr(local_run, "_run_steps", steps((tmp_path / "out").mkdir))
    with pytest.raises(InputError, match="out: the output folder exists.*; the result is kept in .*: move") as told:
        local_run.run(sweep, tmp_path / "out", work_dir=tmp_path / "work")
    [kept] = (tmp_path / "work").iterdir()
    assert str(kept / "result") in str(told.value)
    assert not list((tmp_path / "out").iterdir())
    expected = files_under(tmp_path / "undisturbed")
    del expected[next(path for path in expected if path.name == local_run.LOG)]
    assert files_under(kept / "result") == expected and len(expected) > 8


def test_the_folder_of_a_run_that_failed_stays(tmp_path, monkeypatch, sweep):
    def fail():
        raise RuntimeError("Inner task failed: 'tune'")

    monkeypatch.setattr(local_run, "_run_steps", steps(fail))
    with pytest.raises(PipelineError, match="step tune failed: ValueError: of a step\nThe whole log: (.*)") as told:
        local_run.run(sweep, tmp_path / "out", work_dir=tmp_path / "work")
    [kept] = (tmp_path / "work").iterdir()
    assert str(kept / local_run.LOG) in str(told.value) and (kept / "pruned.0").is_dir()
    monkeypatch.setattr(local_run, "_run_steps", steps())
    local_run.run(sweep, tmp_path / "out", work_dir=tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == [kept], "it was not left by a killed run"


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch, sweep):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(local_run, "_run_steps", steps(interrupt))
    with pytest.raises(KeyboardInterrupt):
        local_run.run(sweep, tmp_path / "out", work_dir=tmp_path / "work")
    assert not list((tmp_path / "work").iterdir()) and not (tmp_path / "out").exists()


def test_a_work_folder_that_cannot_be_made(tmp_path, monkeypatch, sweep):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(local_run, "_run_steps", None)
    with pytest.raises(InputError, match="file is a file and no folder"):
        local_run.run(sweep, tmp_path / "out", work_dir=tmp_path / "file")
