"""`fastprune profile`, and `fastprune compress` under a budget of latency."""

import pytest
from click.testing import CliRunner
from tiny_tables import make_table

import fastprune
from fastprune.cli.main import main
from fastprune.latency import profiler
from fastprune.latency.lut import LatencyTable


@pytest.fixture(scope="module")
def lut(material):
    """A made-up table of the trained model's shape: its searches do not depend on this machine."""
    path = material / "lut.json"
    LatencyTable(
        [0.1, 0.4, 0.6, 0.8, 1.0],
        [0.1 + 0.02 * n for n in range(65)],
        0.2,
        32,
        2,
        16,
        "float32",
        "sdpa",
        "somewhere else",
    ).save(path)
    return path


def test_profile_command(material, tmp_path):
    out = tmp_path / "lut.json"
    done = CliRunner().invoke(
        main,
        [
            "profile",
            str(material / "model"),
            "--batch-size",
            "2",
            "--seq-len",
            "8",
            "--device",
            "cpu",
            "--threads",
            "1",
            "--output",
            str(out),
        ],
    )
    assert done.exit_code == 0, done.output
    table = LatencyTable.load(out)
    assert (table.batch_size, table.seq_len, table.threads, table.num_filters) == (2, 8, 1, 64)
    assert str(out) in done.output and table.device in done.output
    refused = CliRunner().invoke(main, ["profile", str(material / "nowhere"), "--output", str(tmp_path / "x.json")])
    assert refused.exit_code == 2 and "nowhere" in refused.output and not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"keep_ratio": 0.5},
        {"latency_ms": 3.0},
        {"keep_ratio": 0.5, "solver": "piecewise"},
        {"keep_ratio": 0.6, "selection": "fisher", "tuning": "mask"},
        {"max_accuracy_drop": 0.1},
    ],
)
def test_compress_under_latency(material, lut, tmp_path, options):
    from reviews import compress

    with pytest.warns(UserWarning, match="measured with device 'somewhere else'"):
        result = compress(
            material,
            constraint="latency",
            lut=lut,
            num_samples=100,
            output_dir=tmp_path / "out",
            **{"selection": "surgeon", "tuning": "weights"} | options,
        )
    table, metrics = LatencyTable.load(lut), result.metrics
    config = fastprune.load(tmp_path / "out").config
    predicted = table.of_counts(config.kept_heads, config.kept_filters)
    budget = options.get("latency_ms", metrics["keep_ratio"] * table.dense_ms(3))
    assert 0.8 * budget < predicted <= budget * (1 + 1e-9)
    assert metrics["latency_kept"] == pytest.approx(predicted / table.dense_ms(3))
    assert metrics["latency_ms"]["predicted_pruned"] == pytest.approx(predicted)
    assert (metrics["latency_ms"]["batch_size"], metrics["latency_ms"]["seq_len"]) == (2, 16)
    assert metrics["pruned"] > 0.85
    assert result.manifest["constraint"] == "latency" and result.manifest["lut"] == table.key


@pytest.mark.parametrize(
    "options, named",
    [
        (["--constraint", "latency", "--keep-ratio", "0.6"], "--lut"),
        (["--lut", "LUT", "--keep-ratio", "0.6"], "constraint latency"),
        (["--latency-ms", "3"], "--lut"),
        (["--constraint", "latency", "--lut", "LUT", "--latency-ms", "-3"], "latency_ms"),
        (["--constraint", "latency", "--lut", "LUT", "--latency-ms", "0"], "latency_ms"),
        (["--constraint", "latency", "--lut", "LUT", "--latency-ms", "300"], "nothing to prune"),
        (["--constraint", "latency", "--lut", "LUT", "--latency-ms", "0.5"], "the smallest model takes"),
        (["--constraint", "latency", "--lut", "LUT", "--keep-ratio", "0.05"], "the smallest model takes"),
        (["--constraint", "latency", "--lut", "nowhere.json"], "nowhere.json"),
        (["--constraint", "latency", "--lut", "OTHER"], "another shape"),
        (["--solver", "luck"], "--solver"),
    ],
)
def test_wrong_options(material, lut, tmp_path, options, named):
    from reviews import run, table_arguments

    make_table([1, 2], [1, 2, 3]).save(tmp_path / "other.json")
    names = {"LUT": str(lut), "OTHER": str(tmp_path / "other.json")}
    done = run(
        material / "model",
        *table_arguments(
            material, **{} if "--keep-ratio" not in options and "--latency-ms" not in options else {"latency-ms": None}
        ),
        "--output-dir",
        tmp_path / "out",
        *(names.get(option, option) for option in options),
    )
    assert done.exit_code == 2 and named in done.output and not (tmp_path / "out").exists()


def test_a_table_that_cannot_be_written_is_refused_before_it_is_measured(material, tmp_path, monkeypatch):
    monkeypatch.setattr(profiler, "profile", lambda *_, **__: pytest.fail("measured"))
    (tmp_path / "file").write_text("")
    unwritable = str(tmp_path / "file" / "lut.json")
    done = CliRunner().invoke(main, ["profile", str(material / "model"), "--output", unwritable])
    assert done.exit_code == 2 and "file is a file and no folder; name another place" in "".join(
        done.output.split("\n")
    )
