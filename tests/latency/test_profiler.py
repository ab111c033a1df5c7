"""The profiler that makes look-up tables: which blocks it measures, and how."""

import itertools
import time

import numpy as np
import pytest
import torch
from tiny_models import EVERY, build
from tiny_tables import CPU

from fastprune.errors import InputError
from fastprune.latency import profiler
from fastprune.latency.timing import Latency
from fastprune.model.architectures import usual_attention
from fastprune.model.images import image_tokens


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
