"""Structured post-training pruning of fine-tuned Transformer encoders."""

import os
from importlib import import_module

# Before torch is imported, which reads it once. Pages of 2 MiB for large tensors: memory of 4 KiB pages costs as much
# time to get as a norm or an activation function takes. Where the system has none, nothing changes.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__version__ = "0.2.0"

_HOME = {
    "Budget": "settings",
    "Compressed": "result",
    "InputError": "errors",
    "Method": "settings",
    "Problem": "problem",
    "Task": "data",
    "compress": "compression",
    "glue_task": "data",
    "load": "model.checkpoint",
}


def __getattr__(name: str):
    """Import the library on first use, so that the command line answers ``--help`` at once."""
    if name not in _HOME:
        raise AttributeError(f"module 'fastprune' has no attribute {name!r}")
    return getattr(import_module(f"fastprune.{_HOME[name]}"), name)


__all__ = ["Budget", "Compressed", "InputError", "Method", "Problem", "Task", "compress", "glue_task", "load"]
