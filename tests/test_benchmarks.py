"""The benchmarks run, at a size at which their numbers mean nothing."""

import json
import re
import statistics
from pathlib import Path
from xml.etree import ElementTree

from click.testing import CliRunner
from tiny_config import write_config
from tiny_tables import make_table

from benchmarks import ablation, accuracy, algorithms, inference, latency, orchestration, picture, served, stages

SHAPE = ["--layers", "2", "--heads", "4", "--hidden", "32", "--filters", "64", "--tokens", "8"]


def test_stages(capsys):
    costs = stages.main([*SHAPE, "--num-samples", "5", "--batch-size", "3", "--rounds", "2"])
    assert {way: list(stages) for way, stages in costs.items()} == {
        "paper": ["Fisher", "search", "rearrangement", "mask tuning"],
        "default": ["curvature", "removal costs", "search", "weight reconstruction"],
    }
    measured = [cost for way in costs.values() for stage in way.values() for cost in stage]
    assert len(measured) == 16 and all(cost.seconds > 0 and cost.peak > 1 for cost in measured)
    output = capsys.readouterr().out
    assert "seed 0" in output and "threads" in output and "paper: mask tuning" in output
    assert output.count("paper: kept") == output.count("default: kept") == 2
    sums = {
        way: statistics.median(sum(costs[way][stage][turn].seconds for stage in costs[way]) for turn in range(2))
        for way in costs
    }
    assert f"({sums['default']:.1f} against {sums['paper']:.1f} s)" in output


def test_algorithms(capsys):
    results = algorithms.main([*SHAPE, "--rows", "4", "300", "--rounds", "2"])
    assert {name: len(times["fastprune"]) for name, times in results.items()} == {
        "search": 2,
        "rearrange 4": 2,
        "rearrange 300": 1,
    }
    assert "times faster" in capsys.readouterr().out


def test_inference(capsys):
    seconds = inference.main([*SHAPE, "--rounds", "2", "--profile-rounds", "1", "--batch-size", "2"])
    assert list(seconds) == ["dense", "masked", "sliced evenly", "sliced unevenly"]
    output = capsys.readouterr().out
    for kind in ("linear layers", "attention", "GELU", "LayerNorm", "rest"):
        assert kind in output


def test_latency(capsys):
    """Of blocks that take several times what a layer without them takes: chance leaves no ratio out of reach."""
    results = latency.main(
        [
            "--layers",
            "2",
            "--heads",
            "4",
            "--hidden",
            "64",
            "--filters",
            "512",
            "--tokens",
            "64",
            "--batch-size",
            "4",
            "--rounds",
            "2",
            "--check",
            "5",
            "--ratios",
            "0.001",
            "0.9",
            "0.95",
        ]
    )
    assert results["fewer"] > 10 and len(results["errors"]) == 5
    assert [(ratio, solver) for ratio, solver, *_ in results["rows"]] == [
        (ratio, solver) for ratio in (0.9, 0.95) for solver in ("exact", "piecewise")
    ]
    assert all(predicted <= ratio * (1 + 1e-9) for ratio, _, predicted, _ in results["rows"])
    output = capsys.readouterr().out
    assert "median error" in output and "(keep_ratio 0.001) cannot be met" in output


def test_orchestration(tmp_path, source):
    done = CliRunner().invoke(
        orchestration.main, [str(write_config(tmp_path / "c.yaml", source))], catch_exceptions=False
    )
    found = re.findall(r"^([a-zA-Z ]{40}) *([\d.]+) s", done.stdout, re.MULTILINE)
    seconds = {name.strip(): float(value) for name, value in found}
    assert len(seconds) == 6 and min(seconds.values()) > 0
    parts = [value for name, value in seconds.items() if name not in ("the library", "the pipeline")]
    assert abs(sum(parts) - seconds["the pipeline"]) < 0.5, "every second has its place"


def test_accuracy(tmp_path, material, capsys):
    """Every row of its table is what compress gives for the same settings."""
    from reviews import compress

    arguments = [
        "--model",
        str(material / "model"),
        "--train-file",
        str(material / "train.tsv"),
        "--eval-file",
        str(material / "eval.tsv"),
        "--text-column",
        "text",
        "--label-column",
        "label",
        "--keep-ratio",
        "0.5",
        "--seed",
        "1",
        "--num-samples",
        "100",
        "--method",
        "default",
        "--method",
        "paper",
        "--output",
        str(tmp_path / "results.jsonl"),
    ]
    accuracy.main(arguments, standalone_mode=False)
    rows = {row["method"]: row for row in map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())}
    for method, settings in (("default", {"selection": "surgeon", "tuning": "weights"}), ("paper", {})):
        want = compress(material, num_samples=100, seed=1, **settings).metrics
        assert {name: rows[method][name] for name in ("dense", "pruned", "heads", "filters")} == {
            name: want[name] for name in ("dense", "pruned", "heads", "filters")
        }
    make_table([0.1, 0.4, 0.6, 0.8, 1.0], [0.1 + 0.02 * n for n in range(65)], hidden=32).save(tmp_path / "lut.json")
    accuracy.main([*arguments, "--lut", str(tmp_path / "lut.json")], standalone_mode=False)
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()][2:]
    assert [row["method"] for row in rows[:3]] == ["default, exact", "default, piecewise", "default, macs"]
    assert all(row["latency_predicted"] <= 0.5 * (1 + 1e-9) and row["latency_measured"] > 0 for row in rows)
    assert "default, exact" in capsys.readouterr().out


def test_served(material, tmp_path, capsys):
    """Every form of a model is a folder and a line, of what compress gives for the same settings."""
    from reviews import compress

    arguments = ["--model", material / "model", "--train-file", material / "train.tsv", "--text-column", "text"]
    arguments += ["--eval-file", material / "eval.tsv", "--label-column", "label", "--keep-ratio", 0.5, "--seed", 1]
    arguments += ["--num-samples", 64, "--batches", 2, "--form", "int8", "--work", tmp_path / "work"]
    served.main([*map(str, arguments), "--output", str(tmp_path / "lines.jsonl")], standalone_mode=False)
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert [(line["keep_ratio"], line["form"], line["what"]) for line in lines] == [
        ("dense", "pytorch", "PyTorch"),
        ("dense", "int8", "ONNX Runtime int8"),
        ("0.5", "pytorch", "PyTorch"),
        ("0.5", "int8", "ONNX Runtime int8"),
    ]
    assert lines[0]["agreement"] == 1 and all(line["batch"]["8"]["speedup"] > 0 for line in lines)
    want = compress(material, num_samples=64, seed=1, selection="surgeon", tuning="weights").metrics
    assert (lines[0]["metric"]["value"], lines[2]["metric"]["value"]) == (want["dense"], want["pruned"])
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == [
        "dense-int8",
        "free-1-0.5",
        "free-1-0.5-int8",
    ]
    assert "seed 1" in capsys.readouterr().out


def test_ablation(material):
    """Each way has its line, what is left out makes a difference, and the library is left as it was."""
    before = ablation.weights.walk, ablation.curvature.TEMPERATURE
    found = ablation.main(
        [
            "--model",
            str(material / "untrained"),
            "--train-file",
            str(material / "train.tsv"),
            "--text-column",
            "text",
            "--label-column",
            "label",
            "--keep-ratio",
            "0.2",
            "--num-samples",
            "100",
            "--outside",
            "40",
        ],
        standalone_mode=False,
    )[0.2]
    assert (ablation.weights.walk, ablation.curvature.TEMPERATURE) == before
    assert list(found.index) == list(ablation.WAYS) and found.nunique() > len(found) - 4, found
    assert found["no tuning"] > found["... but all of these: output projections alone"] > found["default"] > 0, found


def test_the_picture_shows_the_figures_and_the_figures_are_the_tables():
    """What is in the README is drawn from the JSON, whose accuracies are those of the table in the benchmarks' page."""
    figures = json.loads((picture.FOLDER / "accuracy_latency.json").read_text())
    drawing = (picture.FOLDER / "accuracy_latency.svg").read_text()
    assert drawing == picture.draw(figures)
    assert picture.to_text(figures) == (picture.FOLDER / "accuracy_latency.json").read_text()
    lines = (picture.FOLDER / "README.md").read_text().splitlines()
    for one in figures:
        for method, row in (("**{}, default**", "default"), ("{}, paper, `per_sample`", "paper")):
            start = f"| {method.format(one['name'])} |"
            cells = next(line for line in lines if line.startswith(start)).split("|")[2:9]
            want = {f"0.{tenth}": float(cell) for tenth, cell in enumerate(cells, 2) if cell.strip()}
            assert one["accuracy"][row] == want
            assert list(one["latency"][row]) == list(want)
    titles = [element.text for element in ElementTree.fromstring(drawing).iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == 2 + sum(len(row) for one in figures for row in one["accuracy"].values())


def test_picture_measures(tmp_path, material):
    figures = [{"name": "x", "dense": 0.9, "standard_error": 0.02, "accuracy": {"default": {"0.3": 0.8, "0.6": 0.85}}}]
    (tmp_path / "figures.json").write_text(json.dumps(figures))
    options = {
        "figures": tmp_path / "figures.json",
        "output": tmp_path / "figures.svg",
        "name": "x",
        "model": material / "model",
        "train-file": material / "train.tsv",
        "text-column": "text",
        "label-column": "label",
        "rounds": 3,
        "tokens": 16,
    }
    arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    picture.main(arguments, standalone_mode=False)
    measured = json.loads(Path(options["figures"]).read_text())[0]
    assert list(measured["latency"]["default"]) == ["0.3", "0.6"] and min(measured["latency"]["default"].values()) > 0
    assert "keep ratio 0.3: 0.8000" in Path(options["output"]).read_text()
    unknown = CliRunner().invoke(picture.main, [*arguments, "--name", "y"])
    assert unknown.exit_code == 2 and "the figures have x" in unknown.output
