"""A model of every problem by one command: exported in int8, and a loss that is judged in that form."""

import functools
import json

import pytest
from click.testing import CliRunner
from tiny_problems import MADE

from fastprune import method
from fastprune.cli.main import main
from fastprune.search import accuracy_drop


def call(*arguments):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def option(name):
    return f"--{name.replace('_', '-')}"


@pytest.mark.parametrize("name", MADE)
def test_it_is_judged_and_exported_as_it_is_served(name, tmp_path, monkeypatch, tiny_tokenizer, tiny_bert):
    """On the same rows the metric of the try, that of the export and that of a benchmark are one."""
    coarse = functools.partial(accuracy_drop.smallest_keep_ratio, resolution=0.6)
    monkeypatch.setattr(method, "smallest_keep_ratio", coarse)
    made = MADE[name](tmp_path, tiny_tokenizer, functools.partial(tiny_bert, num_hidden_layers=1))
    judged = [word for name in ("label_column", "metric") if name in made for word in (option(name), made[name])]
    columns = [word for column in made.get("text_columns", ()) for word in ("--text-column", column)]
    columns += ["--problem", made["problem"]] if "problem" in made else []
    rows = made.get("eval_file", made["train_file"])
    given = ["--train-file", made["train_file"], "--eval-file", rows, "--validation-file", rows, *columns, *judged]
    given += ["--max-accuracy-drop", 0.9, "--num-samples", 24, "--tuning", "none", "--allow-untuned", "--batch-size", 8]
    out = tmp_path / "out"
    call("compress", made["source"], *given, "--export", "onnx", "--quantize", "int8", "--output-dir", out)
    metrics = json.loads((out / "metrics.json").read_text())
    curve, exported = metrics["curve"], metrics["exported"]
    served, [[ratio, tried]] = pytest.approx(exported["metric"], abs=1e-5), curve["points"]
    assert (curve["form"], ratio, tried) == ("onnx int8", curve["keep_ratio"], served)
    assert abs(exported["metric"] - metrics["pruned"]) < 0.1 and exported["agreement"] is not None

    folders = (made["source"], out, out / "onnx")
    told = call("bench", *folders, "--eval-file", rows, *judged, "--batches", 2, "--rounds", 1, "--json")
    _, first, second = json.loads(told.splitlines()[-1])["candidates"]
    assert first["metric"]["value"] == pytest.approx(metrics["pruned"], abs=1e-5)
    assert second["metric"]["value"] == served
    assert second["what"] == "ONNX Runtime int8" and 0 < second["agreement"] <= 1
