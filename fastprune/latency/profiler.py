"""Measures how long attention and FFN blocks take by what they keep (paper, section 3.1).

The result is a table of :mod:`fastprune.latency.lut`.

What is timed are the layers of a sliced model itself, run as the model runs them: any number of heads with half of
the filters, and any number of filters with half of the heads, because a pruned model's blocks run beside such blocks.
The published generator times every number of filters; here few are timed, more where the curve bends or steps, and
every measurement is the ratio to layers with half of both, timed right before and after it, so that a device that
changes its speed does not change the shape of the curve.
"""

from __future__ import annotations

import copy
import datetime
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
import transformers
from tqdm import tqdm

from fastprune.environment import code_version, device_name, driver_version, usable_threads
from fastprune.errors import InputError
from fastprune.latency.lut import LatencyTable, check_batch
from fastprune.latency.timing import Latency, calls_together, full_batch, milliseconds, steady_allocator, torch_threads
from fastprune.model.architectures import Encoder, auto_class, describe, layers_of, usual_attention
from fastprune.model.images import image_tokens
from fastprune.model.masks import Masks
from fastprune.model.passes import layer_inputs
from fastprune.model.surgery import slice_model
from fastprune.settings import THREADS

LAYERS = 4
"""Number of layers run one after the other, so that their weights come from the same memory as a model's do."""

VOCABULARY = 1024
"""Embeddings are not measured, and small ones are quick to copy."""

TILE = 8
"""Numbers of filters divisible by this fill the vector units; all others are taken to be equally slow."""

START = 12
"""Numbers of filters measured at first; more are added where the curve is not straight."""

FEWER = 24
"""At most one in this many numbers of heads and filters is measured, except for small models."""

ROUNDS = (7, 25)
"""Least and greatest number of timings of one block; more are taken while its median is uncertain."""

TOGETHER = 16
"""Number of blocks timed in turn: a busy moment of the machine then costs each block one round, and no median."""


def profile(
    config: transformers.PreTrainedConfig,
    *,
    batch_size: int,
    seq_len: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    attention: str | None = None,
    threads: int | None = None,
    tolerance: float = 0.02,
    every: bool = False,
    progress: bool = True,
) -> LatencyTable:
    """Measure a look-up table for the shape of a model; its weights do not matter and are not read.

    Parameters
    ----------
    config : PreTrainedConfig
        Of a dense model.
    batch_size, seq_len : int
        Of the batch that is timed.
    device : torch.device
    dtype : torch.dtype
    attention : str, optional
        Implementation, as transformers calls it: ``sdpa`` or ``eager``; by default the architecture's usual one.
    threads : int, optional
        Of torch, on a CPU; by default as many as it has, within the container's CPU limit.
    tolerance : float
        Numbers of filters are added until straight lines between those measured are nowhere off by more.
    every : bool
        Measure every number of filters, as the published generator does.
    progress : bool

    Raises
    ------
    InputError
        A batch or length that is not positive, too large or that the model does not take, more threads than
        ``THREADS``, or an attention implementation that the model does not have.
    """
    check_batch(batch_size, seq_len, config)
    if threads is not None and not 1 <= threads <= THREADS:
        raise InputError(f"threads is the number of torch's threads, from 1 to {THREADS}; got {threads}")
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance is the relative error allowed, between 0 and 1; got {tolerance}")
    attention = attention or usual_attention(config.model_type)
    begin = time.perf_counter()
    threads = threads or usable_threads()
    with torch_threads(threads), torch.inference_mode(), steady_allocator():
        bench = Bench(thin_model(config, attention, dtype).to(device), batch_size, seq_len)
        num_heads, num_filters = bench.encoder.num_heads, bench.encoder.num_filters
        half_heads, half_filters = bench.half
        bar = tqdm(desc="profile", unit="block", disable=not progress)
        shapes = [(n, half_filters) for n in range(num_heads + 1)]
        heads = {count: ratio for (count, _), ratio in bench.measure(shapes, tolerance, bar).items()}

        def measure_filters(counts: list[int]) -> dict[int, Latency]:
            by_shape = bench.measure([(half_heads, n) for n in counts], tolerance, bar)
            return {count: ratio for (_, count), ratio in by_shape.items()}

        if every:
            filters, error = measure_filters(list(range(num_filters + 1))), 0.0
        else:
            limit = max(2 * START, (num_heads + num_filters) // FEWER - num_heads)
            filters, error = sample_filters(num_filters, measure_filters, tolerance, limit)
        overhead, half = bench.level()
        bar.close()

    smooth_heads = smooth(heads, range(1, num_heads + 1))
    curves = [
        np.array([heads[0].median_ms, *(smooth_heads[n] for n in range(1, num_heads + 1))]),
        interpolate(filters, num_filters),
    ]
    # What a layer takes without any unit cannot be divided by measuring: each block gets half of it.
    empty = max(curves[0][0] + curves[1][0] - 1, 0) / 2
    tables = [half * np.maximum(curve - curve[0] + empty, 0) for curve in curves]
    return LatencyTable(
        attention_ms=tables[0].tolist(),
        ffn_ms=tables[1].tolist(),
        overhead_ms=overhead,
        hidden_size=bench.encoder.hidden_size,
        batch_size=batch_size,
        seq_len=seq_len,
        dtype=str(dtype).removeprefix("torch."),
        attention=attention,
        device=device_name(device),
        threads=threads if device.type == "cpu" else 0,
        measured={
            name: [[count, *(half * value for value in vars(ratio).values())] for count, ratio in sorted(found.items())]
            for name, found in (("attention", heads), ("ffn", filters))
        },
        origin={
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "driver": driver_version(device),
            "cuda": torch.version.cuda or "",
            "versions": code_version(),
            "measurements": len(heads) + len(filters),
            "seconds": time.perf_counter() - begin,
            "tolerance": tolerance,
            "error": error,
            "model_type": config.model_type,
        },
    )


def sample_filters(
    num_filters: int, measure: Callable[[list[int]], dict[int, Latency]], tolerance: float, limit: int
) -> tuple[dict[int, Latency], float]:
    """Measure few numbers of filters, more where straight lines between them are off.

    Multiples of ``TILE`` are one curve and all others another, see :func:`interpolate`. An interval whose middle is not
    where its ends say is halved, the worst first.

    Parameters
    ----------
    num_filters : int
    measure : callable
        From numbers of filters to their times, in any unit.
    tolerance : float
        Relative.
    limit : int
        Greatest number of measurements.

    Returns
    -------
    times : dict of Latency
        By number of filters; 0 and all are among them.
    error : float
        The greatest relative error at the middles that were not followed up.
    """
    aligned, others = _curves(num_filters)
    starts = [_spread(aligned, START), _spread(others, START // 2)]
    times = measure(sorted({0, num_filters, *(n for start in starts for n in start)}))
    # All that is left to halve: the curve, the interval's ends as places on it, the error where it was halved last.
    pending = [
        (np.inf, curve, curve.index(low), curve.index(high))
        for curve, start in zip((aligned, others), starts, strict=True)
        for low, high in pairwise(start)
    ]
    while (pending := [one for one in pending if one[3] - one[2] > 1 and one[0] > tolerance]) and len(times) < limit:
        pending.sort(key=lambda one: -one[0])
        now, pending = pending[: limit - len(times)], pending[limit - len(times) :]
        times |= measure([curve[_between(low, high)] for _, curve, low, high in now])
        for _, curve, low, high in now:
            middle = _between(low, high)
            part = (curve[middle] - curve[low]) / (curve[high] - curve[low])
            left, right, halved = (times[curve[place]] for place in (low, high, middle))
            line = left.median_ms + part * (right.median_ms - left.median_ms)
            # A line between the quartiles is as good as the measurement itself.
            error = 0.0 if halved.q1 <= line <= halved.q3 else abs(line / halved.median_ms - 1)
            pending += [(error, curve, low, middle), (error, curve, middle, high)]
    return times, max((error for error, *_ in pending if error < np.inf), default=tolerance)


def smooth(times: Mapping[int, Latency], counts: Iterable[int]) -> dict[int, float]:
    """Medians of ``counts``, moved towards the line between their neighbours where the line is between the quartiles.

    A search for the cheapest would otherwise choose the numbers whose measurements came out low by chance. What lies
    further than its quartiles from the line, as at a step or at a number that a kernel is slow for, stays as measured.
    """
    counts = [count for count in counts if count in times]
    values = {count: times[count].median_ms for count in counts}
    for _ in range(2):
        before = dict(values)
        for low, count, high in zip(counts, counts[1:], counts[2:], strict=False):
            line = before[low] + (count - low) / (high - low) * (before[high] - before[low])
            if times[count].q1 <= line <= times[count].q3:
                values[count] = (before[count] + 2 * line) / 3
    return values


def interpolate(times: Mapping[int, Latency], num_filters: int) -> np.ndarray:
    """Times of 0 to ``num_filters`` filters from those of a few: two rising curves, of tiles and of broken tiles.

    Parameters
    ----------
    times : mapping of Latency
        By number of filters, 0 and ``num_filters`` among them.

    Returns
    -------
    array [num_filters + 1]
    """
    from sklearn.isotonic import IsotonicRegression  # a second, and every stage imports this file

    table = np.empty(num_filters + 1)
    table[0] = times[0].median_ms
    for curve in _curves(num_filters):
        if known := smooth(times, curve):
            numbers = list(known)
            rising = IsotonicRegression().fit_transform(numbers, list(known.values()))
            counts = np.arange(1, num_filters + 1)
            mine = counts[(counts % TILE == 0) == (numbers[0] % TILE == 0)]
            table[mine] = np.interp(mine, numbers, rising)
    return table


def _curves(num_filters: int) -> tuple[list[int], list[int]]:
    """Multiples of the tile, and of all others those in the middle of one, or all where there are few."""
    counts = range(1, num_filters + 1)
    others = [n for n in counts if n % TILE == TILE // 2 + 1 or (n % TILE and n == num_filters)]
    if num_filters < 4 * TILE:
        others = [n for n in counts if n % TILE]
    return [n for n in counts if n % TILE == 0], others


def _between(low: int, high: int) -> int:
    """Near the middle, but not where a regular step meets the line between its ends again."""
    return low + max(1, round(0.45 * (high - low)))


def _spread(counts: Sequence[int], number: int) -> list[int]:
    """That number of them, evenly spread, with the first and the last."""
    if not counts:
        return []
    places = np.unique(np.linspace(0, len(counts) - 1, number).round().astype(int))
    return [counts[place] for place in places.tolist()]


class Bench:
    """A thin model's layers, to be sliced and timed."""

    def __init__(self, model, batch_size: int, seq_len: int):
        self.encoder: Encoder = describe(model)
        self.batch = {
            name: values.to(model.device, model.dtype if values.is_floating_point() else None)
            for name, values in full_batch(batch_size, seq_len, model.config).items()
        }
        self.states, self.options = layer_inputs(self.encoder, self.batch)

    def run(self, layers) -> None:
        states = self.states
        for layer, options in zip(layers, self.options, strict=True):
            states = layer.module(states, **options)
            states = states[0] if isinstance(states, tuple) else states

    def sliced(self, heads: int, filters: int) -> Callable[[], None]:
        """Runs the layers with that many heads and filters in each."""
        masks = Masks(
            torch.zeros(self.encoder.num_layers, self.encoder.num_heads),
            torch.zeros(self.encoder.num_layers, self.encoder.num_filters),
        )
        masks.heads[:, :heads], masks.filters[:, :filters] = 1, 1
        layers = layers_of(slice_model(self.encoder, masks))
        return lambda: self.run(layers)

    @property
    def half(self) -> tuple[int, int]:
        """Half of the heads and half of the filters."""
        return (self.encoder.num_heads + 1) // 2, (self.encoder.num_filters + 1) // 2

    def measure(self, shapes: list[tuple[int, int]], tolerance: float, bar: tqdm) -> dict[tuple[int, int], Latency]:
        """Time of layers of every shape (heads, filters), as ratios to layers of half of both."""
        device, anchor = self.encoder.device, self.sliced(*self.half)
        together = calls_together(anchor, device)
        ratios: dict[tuple[int, int], list[float]] = {shape: [] for shape in shapes}
        for first in range(0, len(shapes), TOGETHER):
            calls = {shape: self.sliced(*shape) for shape in shapes[first : first + TOGETHER]}
            for call in (anchor, *calls.values()):
                call()  # warm-up
            for step in range(ROUNDS[1]):
                before = milliseconds(anchor, device, together)
                for shape, call in calls.items():
                    own = ratios[shape]
                    if step < ROUNDS[0] or _uncertainty(own) > tolerance / 2:
                        now, after = (milliseconds(one, device, together) for one in (call, anchor))
                        own.append(2 * now / (before + after))
                        before = after
            bar.update(len(calls))
        return {shape: Latency.of(own) for shape, own in ratios.items()}

    def level(self) -> tuple[float, float]:
        """Milliseconds of the thin model without its layers, and of one layer with half of both."""
        device, layers, model = self.encoder.device, self.encoder.layers, self.encoder.model
        calls = (lambda: model(**self.batch), lambda: self.run(layers), self.sliced(*self.half))
        together, times = calls_together(calls[2], device), ([], [], [])  # type: tuple[int, tuple[list[float], ...]]
        for step in range(-2, ROUNDS[1]):
            for own, call in zip(times, calls, strict=True):
                elapsed = milliseconds(call, device, together)
                if step >= 0:
                    own.append(elapsed)
        overhead = statistics.median(whole - inner for whole, inner in zip(*times[:2], strict=True))
        return max(overhead, 0.0), statistics.median(times[2]) / len(layers)


def _uncertainty(values: list[float]) -> float:
    """Relative standard error of the median, from the quartiles, which outliers do not move."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float(0.93 * (high - low) / (middle * len(values) ** 0.5))


def thin_model(config: transformers.PreTrainedConfig, attention: str, dtype: torch.dtype):
    """A model of random weights with few layers and a small vocabulary."""
    config = copy.deepcopy(config)
    config.num_hidden_layers = min(config.num_hidden_layers, LAYERS)
    if not image_tokens(config):
        config.vocab_size = VOCABULARY
        config.pad_token_id = min(config.pad_token_id or 0, VOCABULARY - 1)
    config.architectures = config.architectures or []  # transformers reads a list, and None of a model in memory
    auto = auto_class(config)
    try:
        return auto.from_config(config, attn_implementation=attention, dtype=dtype).eval()
    except (ValueError, ImportError) as error:
        raise InputError(
            f"the model cannot be built with the attention implementation {attention!r} ({error}); use sdpa or eager"
        ) from error
