"""How much memory there is, and sequences of tensors that go to disk where it is not enough.

What is computed does not depend on it: what does not fit is read again, or computed again, bit for bit.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from fastprune.errors import InputError

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}

_limit: ContextVar[int | None] = ContextVar("limit", default=None)


def parse_size(size: str | int) -> int:
    """Bytes of a size such as ``8GiB``, ``900 MB`` or a plain number. Raises InputError for any other text."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([a-zA-Z]*)", str(size).strip())
    if not match or match[2].upper() not in UNITS or not float(match[1]):
        raise InputError(f"memory {size!r} is no size; give bytes, or a number with MB, GB, MiB or GiB, such as 8GiB")
    return int(float(match[1]) * UNITS[match[2].upper()])


@contextmanager
def limited(size: str | int | None) -> Iterator[None]:
    """Inside a ``with`` block the process takes about this much CPU memory in all; None leaves it as it is."""
    if size is not None:
        _return_freed()
    token = _limit.set(_limit.get() if size is None else parse_size(size))
    try:
        yield
    finally:
        _limit.reset(token)


def share(processes: int) -> int | None:
    """What each of so many processes may take of the limit here; None without one."""
    limit = _limit.get()
    return None if limit is None else max(limit // processes, 1)


def left(device: torch.device) -> int:
    """Bytes that may still be taken on a device: of the GPU, or of the machine, its cgroup and :func:`limited`."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for the next ones
        return torch.cuda.mem_get_info(device)[0] + kept
    limit, bounds = _limit.get(), [_machine(), *_cgroup()]
    return max(min(bounds if limit is None else [*bounds, limit - _resident()]), 0)


Result = TypeVar("Result")


def retreat(work: Callable[[int], Result], examples: int) -> Result:
    """What ``work`` makes with so many examples at once, or with half as many each time a GPU's memory ends.

    It begins anew each time, so that nothing is counted twice: batches come by length, the longest first, and memory
    ends at the first of them or never. All passes over batches go through here.

    Raises
    ------
    InputError
        It ends with a single example.
    """
    while True:
        try:
            return work(examples)
        except torch.OutOfMemoryError as error:
            if examples <= 1:
                raise InputError(
                    "the GPU's memory ends with a single example of the longest at once; use a GPU with more memory, "
                    "cut the texts (max_length), or use device cpu"
                ) from error
        # Only here, where the error with its frames is gone, are their tensors free.
        examples = -(-examples // 2)
        torch.cuda.empty_cache()
        warnings.warn(f"the GPU's memory has ended; on with {examples} examples at once", stacklevel=2)


def parts(batch: Mapping[str, Tensor], examples: int) -> list[dict[str, Tensor]]:
    """A batch in order, at most so many examples at once."""
    pieces = {name: values.split(examples) for name, values in batch.items()}
    return [dict(zip(pieces, part, strict=True)) for part in zip(*pieces.values(), strict=True)]


def smaller(batches: Sequence[Mapping[str, Tensor]], examples: int) -> list[dict[str, Tensor]]:
    """The same batches, at most so many examples in each."""
    return [part for batch in batches for part in parts(batch, examples)]


def _machine() -> int:
    """What Linux says is available; elsewhere that is not told, and bounds nothing."""
    try:
        match = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    except OSError:
        match = None
    return int(match[1]) << 10 if match else 1 << 62


def _cgroup() -> list[int]:
    """What the container's limit leaves (cgroup version 2, or 1), pages that can be given up not counted as used."""
    for limit, used in _CGROUPS:
        try:
            bound, taken = limit.read_text(encoding="ascii").strip(), int(used.read_text(encoding="ascii"))
            statistics = used.with_name("memory.stat").read_text(encoding="ascii")
        except OSError:
            continue
        match = re.search(r"^(?:total_)?inactive_file (\d+)$", statistics, re.MULTILINE)
        return [] if bound == "max" else [int(bound) - taken + (int(match[1]) if match else 0)]
    return []


_CGROUPS = tuple(
    (Path("/sys/fs/cgroup", folder, limit), Path("/sys/fs/cgroup", folder, used))
    for folder, limit, used in (
        ("", "memory.max", "memory.current"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    )
)


def _resident() -> int:
    """Bytes of this process that are in memory."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


class Tensors(Protocol):
    """A list of tensors, or one on disk."""

    def append(self, tensor: Tensor, /) -> None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, number: int, /) -> Tensor: ...
    def __setitem__(self, number: int, tensor: Tensor, /) -> None: ...


def tensors(size: int, device: torch.device) -> Tensors:
    """An empty list for tensors of this many bytes in all: where they are at most half of what is left there.

    That is on their device, else in the machine's memory, else on disk.
    """
    if device.type != "cpu":
        if size <= left(device) // 2:
            return []
        return Beside() if size <= left(torch.device("cpu")) // 2 else OnDisk()
    room = left(device)
    if size > room // 8:
        _return_freed()
    return [] if size <= room // 2 else OnDisk()


@cache
def _return_freed() -> None:
    """Let glibc give a large tensor's memory back when it is freed, at some cost in time.

    By itself it comes to keep those of up to 32 MiB for the next ones, in pieces that do not fit: by half more than is
    used at once.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 4 << 20)


_MMAP_THRESHOLD = -3
"""As glibc's malloc.h has it."""


class Beside:
    """Tensors in the machine's memory. One comes back to the device that it was on when it is asked for."""

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, torch.device]] = []

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, number: int) -> Tensor:
        tensor, device = self._kept[number]
        return tensor.to(device)

    def append(self, tensor: Tensor) -> None:
        self._kept.append((tensor.detach().cpu(), tensor.device))

    def __setitem__(self, number: int, tensor: Tensor) -> None:
        self._kept[number] = (tensor.detach().cpu(), tensor.device)


class OnDisk:
    """Tensors in a file of the temporary folder (``TMPDIR``) that has no name, so that nothing of it stays.

    A tensor is read when it is asked for, to the device that it was on.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this object
        self._places: list[tuple[int, torch.Size, torch.dtype, torch.device]] = []
        self._end = 0

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> Tensor:
        place, shape, dtype, device = self._places[number]
        tensor = torch.empty(shape, dtype=dtype)
        self._file.seek(place)
        self._file.readinto(tensor.flatten().view(torch.uint8).numpy().data)
        return tensor.to(device)

    def append(self, tensor: Tensor) -> None:
        self._places.append((self._end, tensor.shape, tensor.dtype, tensor.device))
        self._end += tensor.nbytes
        self._write(len(self) - 1, tensor)

    def __setitem__(self, number: int, tensor: Tensor) -> None:
        place, shape, dtype, _ = self._places[number]
        if tensor.nbytes > shape.numel() * dtype.itemsize:
            place, self._end = self._end, self._end + tensor.nbytes
        self._places[number] = (place, tensor.shape, tensor.dtype, tensor.device)
        self._write(number, tensor)

    def _write(self, number: int, tensor: Tensor) -> None:
        self._file.seek(self._places[number][0])
        try:
            self._file.write(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data)
            self._file.flush()
        except OSError as error:
            raise InputError(
                f"{tempfile.gettempdir()}: hidden states that do not fit into memory cannot be written there "
                f"({error.strerror}); give more memory, fewer samples, or a TMPDIR with more room"
            ) from error
