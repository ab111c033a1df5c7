"""Work that several processes of this machine share: the one place where they start, and where sums are added up.

Second moments are sums over examples. Each process walks over its own batches, its sums are added to those of the
others, and each then solves the same systems. The first of the processes is the one that was there before: what it
makes is the result, and the others end.
"""

from __future__ import annotations

import datetime
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from fastprune import memory
from fastprune.latency.timing import torch_threads

Item = TypeVar("Item")

DEADLINE = datetime.timedelta(minutes=30)
"""For one sum: how long a process waits for the slowest of the others."""


@dataclass
class Group:
    """The processes that share a piece of work, as one of them sees it. By default it is alone.

    Attributes
    ----------
    rank, size : int
        Its number, from 0, and how many there are.
    sent : int
        Bytes that it has handed to the others.
    """

    rank: int = 0
    size: int = 1
    sent: int = 0
    _gloo: Any = None

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Its own of them: every ``size``-th, so that each process has batches of all lengths."""
        return items[self.rank :: self.size]

    @property
    def told(self) -> str:
        """What it has sent, in words; nothing where it is alone."""
        return f"{self.sent / 1e6:.1f} MB sent" if self.size > 1 else ""

    def add_up(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sums of tensors over all processes, each of which calls this with tensors of the same shapes."""
        if self.size == 1:
            return list(tensors)
        flat = torch.cat([tensor.detach().flatten().cpu() for tensor in tensors])
        self._gloo.allreduce([flat]).wait(DEADLINE)
        self.sent += flat.nbytes
        pieces = flat.split([tensor.numel() for tensor in tensors])
        return [piece.view(one.shape).to(one.device) for piece, one in zip(pieces, tensors, strict=True)]


ALONE = Group()


def together(size: int, function: Callable[..., Item], *arguments: Any) -> Item:
    """What ``function(group, *arguments)`` makes here, while as many processes as are missing do the same beside.

    Parameters
    ----------
    size : int
        The number of processes, this one among them. Each gets its part of torch's threads.
    function : callable
        Of a module, not made on the spot; what it makes in the others is dropped.

    Raises
    ------
    RuntimeError
        Another process has failed; its last words are in the message.
    """
    if size == 1:
        return function(Group(), *arguments)
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    threads = max(torch.get_num_threads() // size, 1)
    others: list[subprocess.Popen] = []
    found = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # what this process imports from
    with tempfile.TemporaryFile() as words, tempfile.NamedTemporaryFile() as work:
        pickle.dump((function, arguments, memory.share(size)), work)
        work.flush()
        try:
            for rank in range(1, size):
                given = [work.name, str(store.port), str(rank), str(size), str(threads)]
                command = [sys.executable, "-m", "fastprune.processes", *given]
                others.append(
                    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=words, stderr=words, env=found)
                )
            _await(store, others)
            with torch_threads(threads), memory.limited(memory.share(size)):
                made = function(_join(store, 0, size), *arguments)
            if any(other.wait() for other in others):
                raise _failed(words)
            return made
        except RuntimeError as error:
            if any(other.poll() for other in others):
                raise _failed(words) from error
            raise
        finally:
            for other in others:
                with suppress(OSError):
                    other.kill()
                other.wait()


def _await(store: Any, others: Sequence[subprocess.Popen]) -> None:
    """Until all of the others have read their work; they may also have failed over it."""
    while not store.check([f"ready {rank}" for rank in range(1, len(others) + 1)]):
        if any(other.poll() is not None for other in others):
            raise RuntimeError("a process has ended before its work began")
        time.sleep(0.05)


def _failed(words: Any) -> RuntimeError:
    words.seek(0)
    last = (words.read().decode(errors="replace").strip().splitlines() or ["it was killed"])[-1]
    return RuntimeError(f"one of the processes that share the work has failed: {last}")


def _join(store: Any, rank: int, size: int) -> Group:
    return Group(rank, size, _gloo=torch.distributed.ProcessGroupGloo(store, rank, size, DEADLINE))


def _main(work: str, port: str, rank: str, size: str, threads: str) -> None:
    """One of the others."""
    store = torch.distributed.TCPStore("127.0.0.1", int(port), is_master=False)
    torch.set_num_threads(int(threads))
    with open(work, "rb") as file:
        function, arguments, limit = pickle.load(file)  # of the process that started this one
    store.set(f"ready {rank}", "1")
    with memory.limited(limit):
        function(_join(store, int(rank), int(size)), *arguments)


if __name__ == "__main__":
    _main(*sys.argv[1:])
