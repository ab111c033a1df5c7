"""The paper's grid: what it holds, what it needs, and a small grid measured, resumed and told."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from fastprune.cli.main import main
from fastprune.reproduce.grid import PAPER, cells_of, read_grid

TASKS = {"mnli", "mnli_mismatched", "qqp", "qnli", "sst2", "stsb", "mrpc", "squad", "squad_v2"}
GRID = """
name: small
keep_ratios: [0.4, 0.6]
num_samples: 40
seeds: [0]
methods:
  paper: {selection: fisher, estimator: per_batch, tuning: mask}
  default: {selection: surgeon, tuning: weights}
models:
  - {name: reviews, source: somebody/reviews, task: sst2}
  - {name: others, source: somebody/others, task: mrpc}
"""
LOCAL = "models: [{name: reviews, source: model, train_file: train.tsv, eval_file: eval.tsv, text_columns: [text], %s}]"


def invoke(*arguments):
    return CliRunner().invoke(main, ["reproduce", *map(str, arguments)])


def test_the_papers_grid():
    grid = read_grid(PAPER)
    for family in ("bert", "distilbert"):
        own = [model for model in grid.models if model.name.startswith(f"{family}-")]
        assert {model.task for model in own} == TASKS and len(own) == 9
    assert grid.methods["paper"].selection == "fisher" and grid.methods["default"].selection == "surgeon"
    assert len(cells_of(grid)) == 18 * 2 * 6 * 3
    told = invoke("paper", "--list", "--only", "bert-mrpc")
    assert told.output == (
        "bert-mrpc: 0 of 36 done; needs model textattack/bert-base-uncased-MRPC from the hub "
        "and data of task mrpc from the hub\n"
    )


@pytest.fixture
def small(tmp_path, material):
    (tmp_path / "small.yaml").write_text(GRID)
    for name in ("model", "train.tsv", "eval.tsv"):
        os.symlink(material / name, tmp_path / name)
    (tmp_path / "local.yaml").write_text(LOCAL % "label_column: label")
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*evaluation rows are also")
def test_local_copies_are_measured_and_the_rest_is_listed(small):
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    given = ["reproduce", small / "small.yaml", "--local", small / "local.yaml", "--output-dir", small / "out"]
    done = subprocess.run(
        [sys.executable, "-c", "from fastprune.cli.main import main; main()", *map(str, given)],
        capture_output=True, text=True, env=env, timeout=200,
    )  # fmt: skip
    assert done.returncode == 1 and "1 of 2 models are not measured; give local copies by --local" in done.stderr
    assert "others needs model somebody/others from the hub and data of task mrpc from the hub" in done.stderr
    files = sorted((small / "out" / "cells").iterdir())
    assert [file.name for file in files] == [
        f"reviews-{method}-{ratio}-seed-0.json" for method in ("default", "paper") for ratio in (0.4, 0.6)
    ]
    cell = json.loads(files[1].read_text())
    assert cell["dense"] > cell["pruned"] - 0.1 and cell["macs_kept"] <= 0.6 and cell["rows"] == 200
    page = (small / "out" / "small.md").read_text()
    assert f"| reviews | accuracy | {cell['dense']:.4f} ± " in page and page.count("| default |") == 1

    before = {file: file.stat().st_mtime_ns for file in files}
    files[0].unlink()
    again = invoke(*given[1:], "--only", "reviews")
    assert again.exit_code == 0, again.output
    assert again.output.count(" seed 0 keep ") == 1 and "reviews default seed 0 keep 0.4" in again.output
    assert {file: file.stat().st_mtime_ns for file in files[1:]} == {file: before[file] for file in files[1:]}
    (small / "small.yaml").write_text(GRID.replace("num_samples: 40", "num_samples: 30"))
    assert "reviews: 0 of 4 done; needs nothing" in invoke(*given[1:], "--list").output


@pytest.mark.parametrize(
    "grid, local, only, message",
    [
        (GRID.replace("0.4", "1.4"), "", [], "line 3: keep_ratios.0: Input should be less than 1"),
        (GRID.replace("fisher", "magic"), "", [], "selection 'magic' is not known"),
        (GRID.replace("others", "reviews"), "", [], "a second one is named reviews"),
        (GRID, LOCAL.replace("reviews", "mine") % "label_column: label", [], "the grid has no 'mine'; it has reviews"),
        (GRID, LOCAL % "lable_column: label", [], "unknown key; did you mean label_column?"),
        (GRID, "", ["other"], "the grid has no 'other'"),
    ],
)
def test_grids_that_do_not_fit(small, grid, local, only, message):
    (small / "small.yaml").write_text(grid)
    (small / "local.yaml").write_text(local)
    more = ["--local", small / "local.yaml"] if local else []
    done = invoke(small / "small.yaml", "--output-dir", small / "out", *more, *(f"--only={name}" for name in only))
    assert done.exit_code == 2 and message in done.output, done.output
    assert not (small / "out").exists()
