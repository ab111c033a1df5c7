"""The wheel: what is in it, and that it does the work from an environment of its own and from another folder."""

import json
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import torch
from test_house import FOLDERS, ROOT, modules
from tiny_config import write_config

import fastprune


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    place = tmp_path_factory.mktemp("wheel")
    copy = place / "source"  # a build leaves files beside the sources
    for folder in FOLDERS.values():
        shutil.copytree(folder, copy / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(place)]
    built = subprocess.run([*command, str(copy)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    [wheel] = place.glob("fastprune-*.whl")
    return wheel


def test_it_holds_fastprune_alone(wheel):
    assert wheel.name.startswith(f"fastprune-{fastprune.__version__}-")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"fastprune", f"fastprune-{fastprune.__version__}.dist-info"}
    for name in ("py.typed", "reports/templates/page.html", "pipelines/kubeflow.py", "components/tune.py"):
        assert f"fastprune/{name}" in names
    assert sum(name.endswith(".py") for name in names) == len(modules())


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The command of an environment that has the wheel, and from this one the packages that it needs."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    done = subprocess.run([*pip, str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [site] = place.glob("lib/python*/site-packages")
    (site / "needed.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")  # its own .pth files are not read
    return place / "bin" / "fastprune"


def test_it_compresses_compiles_and_runs_from_another_folder(installed, source, tmp_path):
    def call(*arguments):
        done = subprocess.run([installed, *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    python = installed.with_name("python")
    code = "import fastprune; print(fastprune.__file__)"
    where = subprocess.check_output([python, "-c", code], text=True, cwd=tmp_path).strip()
    assert Path(where).is_relative_to(installed.parents[1])
    assert "compress" in call("--help")
    rows = ["--train-file", source["train_file"], "--eval-file", source["eval_file"]]
    rows += ["--text-column", "sentence", "--label-column", "label", "--num-samples", "48", "--keep-ratio", "0.5"]
    call("compress", source["source"], *rows, "--output-dir", "out")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["keep_ratio"] == 0.5
    config = write_config(tmp_path / "tiny.yaml", source)
    call("compile", config, "--output", "pipeline.yaml")
    assert (tmp_path / "pipeline.yaml").is_file()
    call("run", config, "--output-dir", "runs")
    pruned = json.loads(next((tmp_path / "runs").rglob("metrics.json")).read_text())["pruned"]
    assert pruned == json.loads((tmp_path / "out" / "metrics.json").read_text())["pruned"]
