"""Milliseconds of calls on a CPU or a GPU, side by side."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from fastprune.model.images import image_shape, image_tokens
from fastprune.model.losses import inputs_of

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a call: median, first and third quartile."""

    median_ms: float
    q1: float
    q3: float

    @classmethod
    def of(cls, times: list[float]) -> Latency:
        return cls(*map(float, np.percentile(times, [50, 25, 75])))


@contextmanager
def steady_allocator() -> Iterator[None]:
    """Have glibc keep freed buffers inside a ``with`` block, and give them back to the system after it.

    By default it may return large buffers to the system after each layer and page them in again at the next,
    depending on the sizes that came before: the same FFN block then takes up to a third longer from one time to the
    next. The thresholds stay raised. Does nothing with another C library.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_MMAP_THRESHOLD, 2**30)
    except (OSError, AttributeError):
        yield
        return
    yield
    libc.malloc_trim(0)


SPAN_MS, MOST_CALLS = 2.0, 64
"""Calls on a GPU are timed together until they take so long: a short one alone is timed as its launch."""


def calls_together(call: Callable[[], object], device: torch.device) -> int:
    """How many calls are to be timed at once on a device, by one that is timed alone; on a CPU one."""
    if device.type != "cuda":
        return 1
    call()  # warm-up
    return min(max(round(SPAN_MS / max(milliseconds(call, device), 1e-3)), 1), MOST_CALLS)


def milliseconds(call: Callable[[], object], device: torch.device, calls: int = 1) -> float:
    """Time a call, the mean of several one right behind the other.

    By events on its own GPU, which need not be the current one; by the monotonic clock on a CPU.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):  # events belong to the device, and to its stream, that is current
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize(device)
            start.record()
            for _ in range(calls):
                call()
            end.record()
            torch.cuda.synchronize(device)
            return start.elapsed_time(end) / calls
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - begin) * 1000 / calls


@torch.inference_mode()
def measure_latency(
    models: Mapping[str, nn.Module], batch: Mapping[str, Tensor], *, repeats: int = 20, warmup: int = 3
) -> dict[str, Latency]:
    """Time models side by side on one batch, in turn (A B A B ...), so that a busy machine slows all of them.

    Parameters
    ----------
    models
        By name, in evaluation mode, each timed on the device it is on.
    batch
        Model inputs [batch, length]; labels are left out.
    repeats, warmup
        Timed and untimed rounds.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    devices = {name: next(model.parameters()).device for name, model in models.items()}
    inputs = {name: inputs_of(batch, device) for name, device in devices.items()}
    runs = {name: partial(model, **inputs[name]) for name, model in models.items()}
    with steady_allocator():
        calls = {name: calls_together(run, devices[name]) for name, run in runs.items()}
        for repeat in range(-warmup, repeats):
            for name, run in runs.items():
                elapsed = milliseconds(run, devices[name], calls[name])
                if repeat >= 0:
                    times[name].append(elapsed)
    return {name: Latency.of(values) for name, values in times.items()}


@contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """Run a ``with`` block with this number of threads; None or 0 leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def full_batch(batch_size: int, seq_len: int, config: PreTrainedConfig | None = None) -> dict[str, Tensor]:
    """Model inputs [batch_size, seq_len] without padding; images where ``config`` is of a model of them."""
    if config is not None and image_tokens(config):
        pixels = torch.linspace(-1, 1, batch_size).reshape(-1, 1, 1, 1).expand(-1, *image_shape(config)).contiguous()
        return {"pixel_values": pixels, "attention_mask": torch.ones(batch_size, seq_len, dtype=torch.int64)}
    ids = torch.arange(batch_size * seq_len).reshape(batch_size, seq_len) % 40 + 5  # tokens that any vocabulary has
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
