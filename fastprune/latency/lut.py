"""Look-up tables of measured latency (paper, section 3.1), made by :mod:`fastprune.latency.profiler`."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import transformers
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from fastprune.errors import InputError
from fastprune.model.architectures import Encoder
from fastprune.model.images import image_tokens
from fastprune.model.masks import Masks
from fastprune.model.model_inputs import longest_input
from fastprune.settings import BATCH_TOKENS, THREADS
from fastprune.store import copies
from fastprune.store.bounded import parse_json, read_bytes
from fastprune.store.partials import partial_file

LONGEST, SHORTEST = 1e9, 1e-9
"""Milliseconds: no block takes more than eleven days, and no dense layer less than a picosecond."""

Milliseconds = Annotated[float, Field(ge=0, le=LONGEST)]
Times = Annotated[list[Milliseconds], Field(min_length=2)]
Size = Annotated[int, Field(ge=1, le=BATCH_TOKENS)]


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of one attention block and one FFN block by what they keep, on one device.

    The latency of a model is taken as ``overhead_ms`` (embeddings and task head) plus one entry of each table per
    layer.

    Attributes
    ----------
    attention_ms : list of H + 1 floats
        By number of heads, from none (what is left of an empty block) to all.
    ffn_ms : list of I + 1 floats
        By number of filters.
    overhead_ms : float
    hidden_size : int
    batch_size, seq_len : int
        Of the batch that was timed; none of its tokens is padding.
    dtype, attention : str
        Such as ``float32`` and ``sdpa``.
    device : str
        Name of the processor or GPU.
    threads : int
        Of torch on a CPU; 0 on a GPU.
    measured : dict
        What the tables were interpolated from: by block, rows of count, median, first and third quartile.
    origin : dict
        Driver, library versions, date, measurements, seconds, tolerance.
    """

    __pydantic_config__: ClassVar = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    attention_ms: Times
    ffn_ms: Times
    overhead_ms: Milliseconds
    hidden_size: Size
    batch_size: Size
    seq_len: Size
    dtype: str
    attention: str
    device: str
    threads: Annotated[int, Field(ge=0, le=THREADS)] = 0
    measured: dict = field(default_factory=dict)
    origin: dict = field(default_factory=dict)
    schema_version: Literal[1] = 1

    def __post_init__(self) -> None:
        """Raise InputError unless every time is a possible one and a dense layer takes some time.

        Fractions of the dense latency, and sums over all layers, are then finite. A file's fields are checked before,
        by their types; this also holds for tables that are made in memory.
        """
        times = {"attention_ms": self.attention_ms, "ffn_ms": self.ffn_ms, "overhead_ms": [self.overhead_ms]}
        for name, values in times.items():
            for number, value in enumerate(values):
                if not 0 <= value <= LONGEST:  # so put that NaN is refused as well
                    raise InputError(
                        f"the look-up table's {name}[{number}] is {value}: milliseconds are from 0 to {LONGEST:.0e}; "
                        "measure it again with `fastprune profile`"
                    )
        layer = self.attention_ms[-1] + self.ffn_ms[-1]
        if layer < SHORTEST:
            raise InputError(
                f"by the look-up table a dense layer takes {layer:.3g} ms (the last of attention_ms and of ffn_ms), so "
                "there is nothing to save; measure it again with `fastprune profile`"
            )

    @property
    def num_heads(self) -> int:
        return len(self.attention_ms) - 1

    @property
    def num_filters(self) -> int:
        return len(self.ffn_ms) - 1

    @property
    def key(self) -> str:
        """Names the device and the shape; what a table is stored under."""
        return table_key(
            self.device,
            self.threads,
            self.hidden_size,
            self.num_heads,
            self.num_filters,
            self.batch_size,
            self.seq_len,
            self.dtype,
            self.attention,
        )

    def of_counts(self, heads: list[int], filters: list[int]) -> float:
        """Predicted milliseconds of a model that keeps these numbers of heads and filters in its layers."""
        return self.overhead_ms + sum(self.attention_ms[n] for n in heads) + sum(self.ffn_ms[n] for n in filters)

    def of_masks(self, masks: Masks) -> float:
        """Predicted milliseconds of what masks keep."""
        return self.of_counts(masks.head_counts, masks.filter_counts)

    def dense_ms(self, num_layers: int) -> float:
        """Predicted milliseconds of the dense model."""
        return self.of_counts([self.num_heads] * num_layers, [self.num_filters] * num_layers)

    def kept(self, masks: Masks) -> float:
        """Fraction of the dense model's latency that is predicted to be left."""
        return self.of_masks(masks) / self.dense_ms(len(masks.heads))

    def check_shape(self, encoder: Encoder) -> None:
        """Raise InputError unless the table is of an encoder's shape, and of a batch that it takes."""
        for name, own, wanted in (
            ("hidden size", self.hidden_size, encoder.hidden_size),
            ("heads", self.num_heads, encoder.num_heads),
            ("filters", self.num_filters, encoder.num_filters),
        ):
            if own != wanted:
                raise InputError(
                    f"the look-up table was measured for another shape: {own} {name} where the model has "
                    f"{wanted}; make one for this model with `fastprune profile`"
                )
        check_batch(self.batch_size, self.seq_len, encoder.model.config)

    def warn_unless(self, **here: str) -> None:
        """Warn of each of ``device``, ``dtype`` and ``attention`` that differs from where the table was measured."""
        for name, value in here.items():
            if value != getattr(self, name):
                warnings.warn(
                    f"the look-up table was measured with {name} {getattr(self, name)!r}, and here it is "
                    f"{value!r}: its predictions hold for where it was measured",
                    stacklevel=2,
                )

    @property
    def content(self) -> bytes:
        """As JSON."""
        return (json.dumps(asdict(self), indent=1) + "\n").encode()

    def save(self, path: str | Path) -> None:
        """Write JSON, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_file(path) as draft:
            draft.write_bytes(self.content)
            draft.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read a table, which may lie at ``s3://``. Raises InputError that names the file and the field at fault."""
        try:
            content = read_bytes(copies.local(path))
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such look-up table; make one with `fastprune profile`") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error})") from error
        return cls.parse(content, path)

    @classmethod
    def parse(cls, content: bytes, path: str | Path) -> LatencyTable:
        """The table of a file's content; ``path`` says which in what is refused."""
        parse_json(content, path)  # its bounds, and that no key is there twice: pydantic takes the last
        try:
            return TypeAdapter(cls).validate_json(content)
        except ValidationError as error:
            problem = error.errors()[0]
            raise InputError(
                f"{path}: not a look-up table of schema version 1 "
                f"({'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}); make it again with "
                "`fastprune profile`"
            ) from error


def check_batch(batch_size: int, seq_len: int, config: transformers.PreTrainedConfig) -> None:
    """Raise InputError unless a table can be measured on such a batch of the model."""
    if batch_size < 1 or seq_len < 1:
        raise InputError(f"batch_size and seq_len must be at least 1; got {batch_size} and {seq_len}")
    if (own := image_tokens(config)) and seq_len != own:
        raise InputError(f"seq_len is {seq_len}, and an image makes {own} tokens of the model; give that")
    if not own and seq_len > longest_input(config):
        raise InputError(f"seq_len is {seq_len}, and the model takes {longest_input(config)} tokens at most")
    if batch_size * seq_len > BATCH_TOKENS:
        raise InputError(
            f"batch_size times seq_len is {batch_size * seq_len} tokens; at most {BATCH_TOKENS} are measured at once"
        )


def table_key(
    device: str,
    threads: int,
    hidden_size: int,
    num_heads: int,
    num_filters: int,
    batch_size: int,
    seq_len: int,
    dtype: str,
    attention: str,
) -> str:
    """A file name for a device and a shape, equal for equal ones."""
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    on = f"-{threads}threads" if threads else ""
    return (
        f"{slug}{on}/hidden{hidden_size}-heads{num_heads}-filters{num_filters}-batch{batch_size}"
        f"-tokens{seq_len}-{dtype}-{attention}"
    )
