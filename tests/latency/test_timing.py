import time
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from fastprune.environment import device_name, driver_version
from fastprune.latency.timing import MOST_CALLS, Latency, calls_together, measure_latency, milliseconds


class Sleeper(nn.Module):
    def __init__(self, name, milliseconds, calls):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))
        self.name, self.milliseconds, self.calls = name, milliseconds, calls

    def forward(self, input_ids):
        assert torch.is_inference_mode_enabled() and not self.training
        self.calls.append(self.name)
        time.sleep(self.milliseconds / 1000)


def test_latency_is_measured_in_turn():
    calls = []
    models = {name: Sleeper(name, ms, calls).eval() for name, ms in (("dense", 60.0), ("pruned", 2.0))}
    batch = {"input_ids": torch.zeros(2, 3, dtype=torch.int64), "labels": torch.zeros(2)}
    latency = measure_latency(models, batch, repeats=5, warmup=2)
    assert calls == ["dense", "pruned"] * 7
    assert list(latency) == ["dense", "pruned"]
    for name, model in models.items():
        assert model.milliseconds <= latency[name].q1 <= latency[name].median_ms <= latency[name].q3
    assert latency["dense"].median_ms > 1.5 * latency["pruned"].median_ms


def test_milliseconds_are_those_of_the_call():
    cpu = torch.device("cpu")
    assert 5 <= milliseconds(lambda: time.sleep(0.005), cpu) < 1000


def test_quartiles():
    assert Latency.of([4.0, 1.0, 2.0, 3.0, 5.0]) == Latency(3.0, 2.0, 4.0)


def test_the_processor_has_a_name_and_no_driver():
    assert device_name(torch.device("cpu")) and driver_version(torch.device("cpu")) == ""


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1"])
def test_on_a_gpu_events_are_timed_between_synchronisations(monkeypatch, name):
    """The CUDA path as far as it goes without a GPU: the order of its calls, all on the model's own device."""
    calls, current = [], []

    @contextmanager
    def device(chosen):
        current.append(str(chosen))
        yield
        current.pop()

    class Event:
        milliseconds = 1.5

        def __init__(self, enable_timing):
            assert enable_timing and current == [name]

        def record(self):
            calls.append(("record", *current))

        def elapsed_time(self, end):
            calls.append(("elapsed", *current))
            return self.milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls.append(("synchronize", str(device))))
    assert milliseconds(lambda: calls.append(("call", *current)), torch.device(name)) == 1.5
    order = ["synchronize", "record", "call", "record", "synchronize", "elapsed"]
    assert calls == [(call, name) for call in order] and not current
    calls.clear()
    order[2:3] = ["call"] * 3
    assert milliseconds(lambda: calls.append(("call", *current)), torch.device(name), 3) == 0.5
    assert calls == [(call, name) for call in order], "what is short is called several times between two events"
    for took, together in ((1.5, 1), (0.1, 20), (0.0, MOST_CALLS)):
        Event.milliseconds = took
        assert calls_together(lambda: None, torch.device(name)) == together
    assert calls_together(pytest.fail, torch.device("cpu")) == 1
