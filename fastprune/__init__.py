"""Structured post-training pruning of fine-tuned Transformer encoders."""

__version__ = "0.1.0"


def __getattr__(name: str):
    """Import the library on first use, so that the command line answers ``--help`` at once."""
    if name in ("compress", "Compressed"):
        from fastprune import compression as module
    elif name == "load":
        from fastprune.model import checkpoint as module
    elif name == "InputError":
        from fastprune import errors as module
    elif name in ("Task", "glue_task"):
        from fastprune import data as module
    else:
        raise AttributeError(f"module 'fastprune' has no attribute {name!r}")
    return getattr(module, name)


__all__ = ["Compressed", "InputError", "Task", "compress", "glue_task", "load"]
