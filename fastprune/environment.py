"""What computes here: the device, and the versions of the code."""

from __future__ import annotations

import functools
import hashlib
import math
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch

import fastprune
from fastprune.errors import InputError


def choose_device(device: str) -> torch.device:
    """``auto`` is CUDA where there is one. Raises InputError for a device that torch does not have."""
    try:
        chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        if chosen.type not in ("cpu", "cuda"):
            raise RuntimeError("fastprune computes on cpu and cuda")
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {device!r} is not available here ({str(error).splitlines()[0]}); use auto, cpu or cuda"
        ) from error
    return chosen


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Note the wall seconds of a ``with`` block under ``stage``."""
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start


def usable_threads() -> int:
    """How many threads torch is to have: as now, but no more than the container's limit has CPUs, rounded up.

    More of them are stopped together for the rest of each period once the limit is used up.
    """
    limit = _cpu_limit()
    return torch.get_num_threads() if limit is None else min(torch.get_num_threads(), max(math.ceil(limit), 1))


def _cpu_limit() -> float | None:
    """CPUs that the container may use (cgroup version 2, or 1); None where nothing limits them."""
    for files in _CPU_LIMITS:
        try:
            told = " ".join(file.read_text(encoding="ascii") for file in files).split()
            quota, period = (float(value) for value in told)
        except (OSError, ValueError):  # no such version, or "max"
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None


_CPU_LIMITS = (
    (Path("/sys/fs/cgroup/cpu.max"),),
    *(
        (Path("/sys/fs/cgroup", folder, "cpu.cfs_quota_us"), Path("/sys/fs/cgroup", folder, "cpu.cfs_period_us"))
        for folder in ("cpu", "cpu,cpuacct")
    ),
)
"""The files that say the quota and the period, in microseconds."""


def device_name(device: torch.device) -> str:
    """Of the processor or GPU, as the maker calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def driver_version(device: torch.device) -> str:
    """Of the GPU's kernel driver; empty on a CPU, or where it cannot be told."""
    told = Path("/proc/driver/nvidia/version")
    if device.type != "cuda" or not told.exists():
        return ""
    match = re.search(r"Kernel Module\D*([\d.]+)", told.read_text())
    return match.group(1) if match else ""


@functools.cache
def code_version() -> dict[str, str]:
    """What computes: fastprune by version and content, and the libraries whose numbers it hands on."""
    package = Path(fastprune.__file__).parent
    content = hashlib.sha256()
    for path in sorted([*package.rglob("*.py"), *package.rglob("*.html")]):
        content.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return {
        "fastprune": f"{fastprune.__version__}+{content.hexdigest()[:12]}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "numpy", "scipy")},
    }
