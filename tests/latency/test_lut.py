"""Look-up tables: their file, where they may be used, the profiler that makes them, the store that keeps them."""

import itertools
import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny_models import EVERY, build, random_masks
from tiny_tables import CPU, make_table, profile_twice

import fastprune
from fastprune.cli.main import main
from fastprune.environment import device_name
from fastprune.errors import InputError
from fastprune.latency import profiler, table_store
from fastprune.latency.lut import LatencyTable
from fastprune.latency.timing import Latency
from fastprune.manifest import compare_latency
from fastprune.model.architectures import describe, usual_attention
from fastprune.model.images import image_tokens
from fastprune.model.masks import Masks
from fastprune.model.surgery import slice_model

# The table


def test_a_prediction_adds_blocks_and_overhead_up():
    table = make_table([1, 2, 4], [10, 20, 30, 40], overhead=0.5)
    masks = Masks(torch.tensor([[1.0, 0], [0, 0]]), torch.tensor([[1.0, 2, 1], [0, 0, 0.5]]))
    assert table.of_masks(masks) == 0.5 + 2 + 1 + 40 + 20
    assert table.dense_ms(2) == 0.5 + 2 * (4 + 40)
    assert table.kept(masks) == table.of_masks(masks) / table.dense_ms(2)


def test_a_table_survives_saving(tmp_path):
    table = make_table([1, 2.5], [1, 2, 3])
    table.save(tmp_path / "new" / "lut.json")
    assert LatencyTable.load(tmp_path / "new" / "lut.json") == table
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["lut.json"]


@pytest.mark.parametrize(
    "change, named",
    [
        ({"schema_version": 2}, "schema_version: Input should be 1"),
        ({"ffn_ms": [1.0]}, "ffn_ms: List should have at least 2 items"),
        ({"attention_ms": [1.0, float("nan")]}, "attention_ms.1: Input should be a finite number"),
        ({"attention_ms": [1.0, "2"]}, "attention_ms.1: Input should be a valid number"),
        ({"attention_ms": [1.0, -2.0]}, "attention_ms.1: Input should be greater than or equal to 0"),
        ({"ffn_ms": "1 2 3"}, "ffn_ms: Input should be a valid array"),
        ({"overhead_ms": -1.0}, "overhead_ms: Input should be greater than or equal to 0"),
        ({"threads": "two"}, "threads: Input should be a valid integer"),
        ({"threads": True}, "threads: Input should be a valid integer"),
        ({"threads": 1_000_000}, "threads: Input should be less than or equal to 1024"),
        ({"seq_len": 0}, "seq_len: Input should be greater than or equal to 1"),
        ({"device": None}, "device: "),
        ({"colour": "red"}, "colour: "),
        ({"ffn_ms": [1.0, 2.0, 1e308]}, "ffn_ms.2: Input should be less than or equal to 1000000000"),
        ({"overhead_ms": float("inf")}, "overhead_ms: Input should be a finite number"),
        ({"attention_ms": [1.0, 0.0], "ffn_ms": [1.0, 0.0]}, "a dense layer takes 0 ms"),
        ({"attention_ms": [0.0, 1e-320], "ffn_ms": [0.0, 1e-320]}, "a dense layer takes 2e-320 ms"),
    ],
)
def test_a_file_that_is_no_table(tmp_path, change, named):
    content = json.loads(make_table([1, 2], [1, 2, 3]).content) | change
    path = tmp_path / "lut.json"
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    with pytest.raises(InputError) as caught:
        LatencyTable.load(path)
    assert str(path) in str(caught.value) and named in str(caught.value) and "fastprune profile" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1e308])
def test_a_table_made_in_memory_has_possible_times_too(value):
    with pytest.raises(InputError, match=r"attention_ms\[1\] is .*milliseconds are from 0 to 1e\+09"):
        make_table([1, value, 2], [1, 2])
    with pytest.raises(InputError, match=r"overhead_ms\[0\] is "):
        make_table([1, 2], [1, 2], overhead=value)
    with pytest.raises(InputError, match="a dense layer takes 0 ms"):
        make_table([0, 0], [5, 0])


@pytest.mark.parametrize("content, named", [(b"{", "not JSON"), (b"[]", "not a look-up table"), (None, "no such")])
def test_a_file_that_is_something_else(tmp_path, content, named):
    if content is not None:
        (tmp_path / "lut.json").write_bytes(content)
    with pytest.raises(InputError, match=named):
        LatencyTable.load(tmp_path / "lut.json")


def test_another_shape_is_refused_and_another_device_warned_of():
    table = make_table([1, 2, 3], [1, 2, 3, 4])
    with pytest.raises(InputError, match="another shape: 64 hidden size where the model has 16"):
        table.check_shape(describe(build()))
    with pytest.raises(InputError, match="seq_len is 41, and the model takes 40 tokens"):
        replace(make_table(range(1, 6), range(1, 26), hidden=16), seq_len=41).check_shape(describe(build()))
    with pytest.warns(UserWarning, match="measured with device 'a device', and here it is 'another'"):
        table.warn_unless(device="another", attention="sdpa")
    assert table.key != make_table([1, 2, 3], [1, 2, 3]).key


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_both_models_are_timed_in_the_precision_of_the_table(family):
    dense, dtypes = build(family), []
    table = replace(make_table(range(1, 6), range(1, 26), hidden=16), dtype="bfloat16", batch_size=2, seq_len=7)
    pruned = slice_model(describe(dense), random_masks(describe(dense)))
    for model in (dense, pruned):
        model.register_forward_hook(lambda model, _, outputs: dtypes.append(outputs.logits.dtype))
    table = replace(table, device=device_name(dense.device), attention=dense.config._attn_implementation)
    latency = compare_latency(dense, pruned, None, 0, table)
    assert latency["dtype"] == "bfloat16" and set(dtypes) == {torch.bfloat16}
    assert dense.dtype == pruned.dtype == torch.float32 and latency["predicted_dense"] == table.dense_ms(3)


# Sampling


def noiseless(curve):
    """A device whose timings follow a curve exactly; and what was asked of it."""
    asked = []

    def measure(counts):
        asked.extend(counts)
        return {count: Latency(curve(count), curve(count), curve(count)) for count in counts}

    return measure, asked


@pytest.mark.parametrize(
    "name, curve",
    {
        "linear": lambda n: 1 + 0.01 * n,
        "flat, then linear": lambda n: max(5.0, 0.01 * n),
        "steps": lambda n: 1 + np.ceil(n / 256),
        "broken tiles cost more": lambda n: (1 + 0.01 * n) * (1.3 if n % 8 else 1),
    }.items(),
)
def test_few_measurements_give_the_whole_curve(name, curve):
    num_filters = 3072
    measure, asked = noiseless(curve)
    times, error = profiler.sample_filters(num_filters, measure, 0.02, 150)
    assert len(asked) == len(set(asked)) == len(times) <= 150 and {0, num_filters} <= set(asked)
    assert len(asked) < (40 if name in ("linear", "broken tiles cost more") else 151)
    table = profiler.interpolate(times, num_filters)
    want = np.array([curve(count) for count in range(num_filters + 1)])
    errors = np.abs(table / want - 1)
    assert np.median(errors) < 0.001 and np.quantile(errors, 0.9) < 0.05
    assert error <= 0.05 or name == "steps"
    assert (np.diff(table[8::8]) >= 0).all()


def test_sampling_ends_at_its_limit():
    generator = np.random.default_rng(0)
    measure, asked = noiseless(lambda n: 1 + 0.01 * n * generator.uniform(0.5, 1.5))
    _, error = profiler.sample_filters(1024, measure, 0.01, 40)
    assert len(asked) == 40 and error > 0.01


def test_noise_between_the_quartiles_is_not_followed_up():
    generator, asked = np.random.default_rng(0), []

    def measure(counts):
        asked.extend(counts)
        return {
            n: Latency((1 + 0.01 * n) * generator.uniform(0.95, 1.05), (1 + 0.01 * n) * 0.9, (1 + 0.01 * n) * 1.1)
            for n in counts
        }

    profiler.sample_filters(1024, measure, 0.01, 100)
    assert len(asked) <= 2 * profiler.START + profiler.START


def test_chance_is_smoothed_and_what_a_kernel_is_slow_for_is_not():
    generator, counts = np.random.default_rng(0), list(range(8, 808, 8))
    curve = np.array([1 + 0.01 * n for n in counts])
    curve[50] *= 1.5
    noisy = curve * generator.normal(1, 0.02, len(counts))
    times = {n: Latency(value, value * 0.96, value * 1.04) for n, value in zip(counts, noisy, strict=True)}
    got = np.array(list(profiler.smooth(times, counts).values()))
    assert got[50] == noisy[50]
    rest = np.arange(len(counts)) != 50
    assert (got / curve - 1)[rest].std() < 0.7 * (noisy / curve - 1)[rest].std()


@pytest.mark.parametrize("num_filters", [1, 5, 8, 13, 24, 40, 100])
def test_every_number_of_filters_gets_a_time(num_filters):
    measure, _ = noiseless(lambda n: 1 + 0.1 * n)
    times, _ = profiler.sample_filters(num_filters, measure, 0.01, 100)
    table = profiler.interpolate(times, num_filters)
    assert np.isfinite(table).all() and table[0] == 1 and table[-1] == pytest.approx(1 + 0.1 * num_filters)


# Profiling


@pytest.mark.parametrize("family", EVERY)
def test_a_profile_is_of_the_layers_as_they_are_run(family, monkeypatch):
    """Every architecture; the number of layers and of filters is small, all the rest is as for a large model.

    The embeddings take 10 ms, so that what the model takes beside its layers does not drown in chance.
    """

    def slow_to_start(*given):
        model = thin_model(*given)
        model.get_input_embeddings().register_forward_pre_hook(lambda *_: time.sleep(0.01))
        return model

    thin_model = profiler.thin_model
    monkeypatch.setattr(profiler, "thin_model", slow_to_start)
    config = build(family).config
    table = profiler.profile(config, batch_size=2, seq_len=image_tokens(config) or 8, device=CPU, progress=False)
    assert (table.num_heads, table.num_filters, table.hidden_size) == (4, 24, 16)
    assert (
        table.threads == torch.get_num_threads()
        and table.device
        and table.attention == usual_attention(table.origin["model_type"])
    )
    assert min(table.attention_ms) >= 0 and min(table.ffn_ms) >= 0 and table.overhead_ms > 5
    assert table.origin["measurements"] == len(table.measured["attention"]) + len(table.measured["ffn"])
    assert [count for count, *_ in table.measured["attention"]] == [0, 1, 2, 3, 4]
    assert all(low <= median <= high for rows in table.measured.values() for _, median, low, high in rows)


def test_the_overhead_is_what_the_model_takes_beside_its_layers(monkeypatch):
    bench = profiler.Bench(build().eval(), 2, 8)
    times = itertools.cycle([5.0, 3.0, 6.0])
    monkeypatch.setattr(profiler, "milliseconds", lambda call, device, calls: next(times))
    with torch.inference_mode():
        assert bench.level() == (2.0, 6.0 / bench.encoder.num_layers)
        times = itertools.cycle([2.9, 3.0, 6.0])  # a busy machine
        assert bench.level()[0] == 0


def test_more_takes_longer(tiny_bert):
    """What is timed is the work: eight times the filters cannot be had for the same time."""
    config = tiny_bert(intermediate_size=4096).config
    table = profiler.profile(config, batch_size=4, seq_len=128, device=CPU, progress=False)
    assert table.ffn_ms[4096] > 3 * table.ffn_ms[512] > table.ffn_ms[0]


def test_profiling_leaves_threads_and_configuration_alone():
    config, before = build().config, torch.get_num_threads()
    content = config.to_dict()
    table = profiler.profile(config, batch_size=1, seq_len=4, device=CPU, threads=2, attention="eager", progress=False)
    assert (table.threads, table.attention) == (2, "eager") and "2threads" in table.key and "eager" in table.key
    assert config.to_dict() == content and torch.get_num_threads() == before


@pytest.mark.parametrize(
    "options, named",
    [
        ({"batch_size": 0}, "batch_size"),
        ({"seq_len": 41}, "seq_len is 41, and the model takes 40"),
        ({"batch_size": 7000, "seq_len": 40}, "batch_size times seq_len is 280000 tokens; at most 262144"),
        ({"threads": 1_000_000}, "threads is the number of torch's threads, from 1 to 1024; got 1000000"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"attention": "luck"}, "'luck'"),
    ],
)
def test_what_cannot_be_profiled(options, named):
    with pytest.raises(InputError, match=named):
        profiler.profile(build().config, **{"batch_size": 1, "seq_len": 4, "device": CPU} | options)


# The store


def test_a_team_profiles_once(tmp_path, monkeypatch):
    profile_twice(str(tmp_path), monkeypatch)
    one, other = tmp_path.rglob("*.json")
    one.write_bytes(other.read_bytes())
    with pytest.raises(InputError, match=f"{one.name}: holds the table of .*{other.stem}; remove it"):
        for batch_size in (2, 4):
            table_store.stored_table(str(tmp_path), describe(build()), CPU, batch_size=batch_size, seq_len=8)


# The commands


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
