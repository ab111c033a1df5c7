"""What the benchmarks share: a model of a given shape, timing in turn, peak memory, tables."""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from fastprune.model.architectures import Encoder, describe

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def parser(description: str) -> argparse.ArgumentParser:
    """Options of every benchmark; by default the shape is BERT-base's."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--layers", type=int, default=12)
    options.add_argument("--heads", type=int, default=12)
    options.add_argument("--hidden", type=int, default=768)
    options.add_argument("--filters", type=int, default=3072)
    options.add_argument("--tokens", type=int, default=128, help="of each example, none of them padding")
    options.add_argument("--keep-ratio", type=float, default=0.5)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    return options


def start(options: argparse.Namespace) -> None:
    """Set threads and seed, and print all that a reader needs to run the same again."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    print("\n" + ", ".join(f"{name} {value}" for name, value in vars(options).items()))
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"Python {platform.python_version()}, {processor()}"
    )


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def random_encoder(options: argparse.Namespace) -> Encoder:
    """A BERT classifier with random weights."""
    config = BertConfig(
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        intermediate_size=options.filters,
        max_position_embeddings=max(512, options.tokens),
    )
    return describe(BertForSequenceClassification(config).eval())


def random_batch(size: int, tokens: int) -> dict[str, Tensor]:
    return {
        "input_ids": torch.randint(1000, 30000, (size, tokens)),
        "attention_mask": torch.ones(size, tokens, dtype=torch.long),
        "labels": torch.randint(2, (size,)),
    }


def time_in_turn(functions: dict[str, Callable[[], object]], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each function in each round; they take turns, so that a busy spell meets them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for step in range(-warmup, rounds):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            if step >= 0:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def print_times(seconds: dict[str, list[float]], reference: str) -> None:
    """Medians, spread, and how many times faster than the reference, by the median over rounds."""
    print(f"{'':<28}{'median ms':>11}{'least':>10}{'most':>10}{'times faster':>15}")
    for name, times in seconds.items():
        ratio = statistics.median(theirs / own for theirs, own in zip(seconds[reference], times, strict=True))
        print(
            f"{name:<28}{statistics.median(times) * 1e3:>11.2f}"
            f"{min(times) * 1e3:>10.2f}{max(times) * 1e3:>10.2f}{ratio:>15.2f}"
        )


@dataclass
class Cost:
    """Of one stage: wall seconds, and peak resident memory in MiB, in all and above where the stage began."""

    seconds: float = 0.0
    peak: float = 0.0
    added: float = 0.0


@contextmanager
def measured() -> Iterator[Cost]:
    """Time and peak memory of a ``with`` block."""
    cost = Cost()
    if CLEAR.exists():
        CLEAR.write_text("5")  # resets the peak to what is resident now
    before = _resident("VmRSS")
    begin = time.perf_counter()
    yield cost
    cost.seconds = time.perf_counter() - begin
    cost.peak = _resident("VmHWM")
    cost.added = max(cost.peak - before, 0.0)


def _resident(field: str) -> float:
    """MiB. Without Linux's /proc, the peak of the whole process so far."""
    if not STATUS.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 2**10
