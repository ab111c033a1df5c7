"""The benchmarks run, at a size at which their numbers mean nothing."""

from tests.benchmarks import algorithms, inference, stages

SHAPE = "--layers 2 --heads 4 --hidden 32 --filters 64 --tokens 8".split()


def test_stages(capsys):
    costs = stages.main([*SHAPE, "--num-samples", "5", "--batch-size", "3"])
    assert list(costs) == [
        "Fisher, per_batch",
        "Fisher, per_sample",
        "search",
        "rearrange",
        "slice",
        "tune masks",
        "curvature",
        "removal costs",
        "rebuild weights",
    ]
    assert all(cost.seconds > 0 and cost.peak > 1 for cost in costs.values())
    assert "seed 0" in (output := capsys.readouterr().out) and "threads" in output and "tune masks" in output


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
