"""What goes wrong while the folder of a model is read, in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import transformers
from safetensors import SafetensorError

from fastprune.errors import InputError


@contextmanager
def reading(name: str | Path) -> Iterator[None]:
    """Turn what goes wrong while reading a model folder into an InputError that names it."""
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # our own messages name missing weights
    try:
        yield
    except InputError:
        raise
    except SafetensorError as error:
        raise InputError(f"{name}: its safetensors file is truncated or damaged ({error}); copy it again") from error
    except RecursionError as error:
        raise InputError(f"{name}: its config.json is nested too deeply to be read; save it again") from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise InputError(
            f"{name}: the shapes of its weights are not those that its config.json gives; "
            "save both again from one model"
        ) from error
    except BaseException as error:  # whatever the libraries make of a hostile file, panics of their Rust parts included
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{name}: cannot be read as a model with a tokenizer and safetensors weights: {first}"
        ) from error
    finally:
        transformers.utils.logging.set_verbosity(level)
