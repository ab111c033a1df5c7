"""How often a program would wait for a GPU, and how much it would launch on one: counted on a CPU."""

from __future__ import annotations

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

READS = {
    "_local_scalar_dense",  # item(), float(), bool(), int(), and tolist() of one number
    "is_nonzero",
    "nonzero",
    "masked_select",
    "equal",
    "_linalg_check_errors",
    "_linalg_eigh",  # it looks at its errors itself
    "repeat_interleave.Tensor",
    "_unique2",
}
"""Operations that wait until all that was launched is done, since the host needs a number of theirs."""


class Counted(TorchDispatchMode):
    """Inside a ``with`` block counts by name what waits for the device (``reads``) and what it runs (``launches``)."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function.__name__)
        short = name.partition(".")[0]
        if short in READS or name in READS or (short.startswith("index") and _by_mask(args)):
            self.reads[short] += 1
        if not function.is_view and not short.startswith(("empty", "new_empty", "detach", "lift")):
            self.launches[short] += 1
        return function(*args, **(kwargs or {}))


def _by_mask(args) -> bool:
    """Whether an index of an operation is a mask: its ``nonzero`` is taken first."""
    indices = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
    return any(isinstance(one, torch.Tensor) and one.dtype == torch.bool for one in indices)
