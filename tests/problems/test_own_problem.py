"""A problem of one's own: the page's, as a package that is installed."""

import os
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Dataset

from fastprune import problem, settings
from fastprune.data import Task, encode
from fastprune.errors import InputError
from fastprune.problems.regression import Regression

PAGE = Path(problem.__file__).parent / "problems" / "README.md"
CODE = """
import json, sys, fastprune
from click.testing import CliRunner
from fastprune.cli.main import main
from fastprune.sweep.reading import read_config
model, train, out = sys.argv[1:]
print(read_config("sweep.yaml").models[0].problem)
done = CliRunner().invoke(main, ["compress", model, "--train-file", train, "--eval-file", train,
    "--text-column", "text", "--label-column", "label", "--problem", "stars",
    "--keep-ratio", "0.5", "--num-samples", "40", "--output-dir", out])
print(done.output)
assert done.exit_code == 0
print(json.load(open(out + "/manifest.json"))["problem"], json.load(open(out + "/metrics.json"))["metric"])
"""


@pytest.mark.filterwarnings("ignore")
def test_the_pages_problem_works_once_it_is_installed(tmp_path, material):
    package = tmp_path / "package"
    package.mkdir()
    for language, name in (("python", "stars.py"), ("toml", "pyproject.toml")):
        [block] = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
        (package / name).write_text(block)
    install = ["pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", tmp_path / "site"]
    subprocess.run([sys.executable, "-m", *install, package], check=True, timeout=120)
    (tmp_path / "sweep.yaml").write_text(
        "name: x\nmodels: [{name: x, source: s3://x, train_file: s3://t.tsv, eval_file: s3://e.tsv, "
        "text_columns: [text], label_column: label, problem: stars, metric: closeness}]\nbudgets: [{keep_ratio: 0.5}]\n"
    )
    given = [material / "model", material / "eval.tsv", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE, *map(str, given)],
        capture_output=True, text=True, cwd=tmp_path, timeout=300, env=path_with(tmp_path / "site"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0] == "stars" and done.stdout.splitlines()[-1] == "stars closeness"


def path_with(folder):
    return {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


def test_a_problem_that_nobody_brings():
    with pytest.raises(InputError, match="unknown problem 'ranking'; use one of classification, .*or install"):
        Task("t", "ranking", "accuracy", ("a",), "l")


@pytest.mark.parametrize(
    "name, value, message",
    [("classification", "x:Y", "has the name of another problem"), ("mine", "json:dumps", "gives a function")],
)
def test_entry_points_that_do_not_fit(monkeypatch, name, value, message):
    point = EntryPoint(name, value, "fastprune.problems")
    monkeypatch.setattr(settings, "entry_points", lambda group: [point])
    with pytest.raises(InputError, match=message):
        problem.problem_of(name) if name == "mine" else problem.problem_names()


class Unread(Regression):
    """Neither reads labels nor encodes by itself."""

    labels = problem.Problem.labels


def test_a_problem_that_reads_no_labels_says_so(monkeypatch, tiny_tokenizer, tiny_bert):
    point = SimpleNamespace(name="unread", value="unread:Unread", load=Unread)
    monkeypatch.setattr(settings, "entry_points", lambda group: [point])
    table = Dataset.from_dict({"text": ["good", "bad"], "label": [1.0, 0.5]})
    task = Task("t", "unread", "pearson", ("text",), "label")
    with pytest.raises(InputError, match="'unread' reads no labels: Unread has neither labels"):
        encode(table, tiny_tokenizer, task, tiny_bert(num_labels=1).config)


def test_a_problem_that_cannot_compare_says_so():
    with pytest.raises(InputError, match=r"Regression cannot hold two models against each other: write its compare"):
        problem.Problem.compare(Regression(), None, (), ())
