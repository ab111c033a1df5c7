"""Encoded splits: saving, sampling, batching."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from datasets import Dataset

from fastprune.data.parquet import TOKENS, read_parquet
from fastprune.data.tasks import Task
from fastprune.errors import InputError
from fastprune.model.losses import IGNORED, LABELS, stack
from fastprune.model.model_inputs import MODEL_INPUTS
from fastprune.store.bounded import read_json


@dataclass(frozen=True)
class Split:
    """A task's rows, encoded for one model.

    Attributes
    ----------
    task
        What the rows are for.
    features
        ``input_ids``, ``attention_mask``, ``token_type_ids`` where the model reads them, without padding,
        and ``labels``, or for question answering ``start_positions``, ``end_positions`` and ``example_id``
        (a long context gives several features), with ``offset_mapping`` [length, 2] when for evaluation:
        character offsets into the context, -1 for tokens outside it.
    examples
        ``id``, ``question``, ``context`` and ``answers`` of question answering for evaluation, else None.
    digest
        SHA-256 of the task and of the content of both tables, in hexadecimal.
    """

    task: Task
    features: Dataset
    examples: Dataset | None
    digest: str

    def __len__(self) -> int:
        return len(self.features)

    @property
    def labelled(self) -> bool:
        """Whether the features carry targets."""
        pairs = self.examples is not None and "first" in self.examples.column_names
        return pairs or any(target in self.features.column_names for target in LABELS)

    @property
    def mean_length(self) -> float:
        """Mean number of tokens of a feature, special tokens included."""
        mask = arrow_of(self.features.select_columns("attention_mask"))["attention_mask"]
        return pc.sum(pc.list_flatten(mask)).as_py() / len(self)

    def select(self, rows: np.ndarray | list[int]) -> "Split":
        """Return the split of these features, in this order; a feature may come more than once."""
        features = arrow_of(self.features).take(pa.array(np.asarray(rows, dtype=np.int64)))
        examples = self.examples
        if "example_id" not in features.column_names:
            examples = None  # pairs, whose texts may be no more there
        if examples is not None:
            kept = pc.is_in(arrow_of(examples)["id"], value_set=features["example_id"].combine_chunks())
            examples = arrow_of(examples).filter(kept)
        return make_split(self.task, features, examples)

    def save(self, folder: str | Path) -> None:
        """Write the split as Parquet and JSON into a folder, made if need be."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(arrow_of(self.features), folder / "features.parquet")
        if self.examples is not None:
            pq.write_table(arrow_of(self.examples), folder / "examples.parquet")
        content = {"task": asdict(self.task), "digest": self.digest, "examples": self.examples is not None}
        (folder / "split.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "Split":
        """Read a split that ``save`` wrote.

        Raises
        ------
        InputError
            If the folder holds no split, or its content is not what was saved.
        """
        folder = Path(folder)
        try:
            content = read_json(folder / "split.json")
            task = Task(**content["task"] | {"text_columns": tuple(content["task"]["text_columns"])})
            features = read_parquet(folder / "features.parquet", TOKENS)
            examples = read_parquet(folder / "examples.parquet", TOKENS) if content["examples"] else None
            split, saved = make_split(task, features, examples), content["digest"]
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise InputError(f"{folder}: holds no complete encoded split ({error}); encode the data again") from error
        if split.digest != saved:
            raise InputError(f"{folder}: the split is not what was saved (its digest differs); encode the data again")
        return split


def make_split(task: Task, features: pa.Table, examples: pa.Table | None) -> Split:
    digest = hashlib.sha256(json.dumps(asdict(task), sort_keys=True).encode())
    for table in (features, examples):
        if table is not None:
            for name in sorted(table.column_names):
                digest.update(name.encode())
                _hash_values(digest, table[name].combine_chunks())
    # The fingerprint given, datasets need not pickle the whole table to make one.
    name = digest.hexdigest()[:16]
    rows = Dataset(features, fingerprint=name)
    return Split(task, rows, None if examples is None else Dataset(examples, fingerprint=name), digest.hexdigest())


def _hash_values(digest: Any, values: pa.Array) -> None:
    """Hash values as such, whatever chunks, offsets and integer widths they are stored in."""
    if pa.types.is_struct(values.type):
        for child in values.flatten():
            _hash_values(digest, child)
    elif pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type):
        _hash_values(digest, pc.list_value_length(values))
        _hash_values(digest, values.flatten())
    elif pa.types.is_string(values.type):
        _hash_values(digest, pc.binary_length(values))
        digest.update("".join(values.to_pylist()).encode())
    else:
        wide = pa.float64() if pa.types.is_floating(values.type) else pa.int64()
        digest.update(values.cast(wide).to_numpy(zero_copy_only=False).tobytes())


def arrow_of(table: Dataset) -> pa.Table:
    return table.with_format("arrow")[:]


def draw_rows(count: int, num_samples: int, seed: int) -> np.ndarray:
    """Numbers [num_samples] of rows drawn without replacement of ``count``, or all in order if there are no more.

    Raises
    ------
    InputError
        If ``num_samples`` is less than 1.
    """
    if num_samples < 1:
        raise InputError(f"num_samples is {num_samples}; draw at least 1")
    if num_samples >= count:
        return np.arange(count)
    return np.random.default_rng(seed).choice(count, num_samples, replace=False)


def draw_sample(split: Split, num_samples: int, seed: int) -> Split:
    """Draw examples without replacement, or keep the whole split if it is not larger.

    For question answering, ``num_samples`` questions are drawn, each with all of its features.

    Raises
    ------
    InputError
        If ``num_samples`` is less than 1.
    """
    groups = _rows_of_examples(split)
    drawn = draw_rows(len(groups), num_samples, seed)
    return split if len(drawn) == len(groups) else split.select(np.concatenate([groups[number] for number in drawn]))


def draw_tokens(split: Split, tokens: int, least: int, seed: int) -> Split:
    """Draw examples of about so many tokens in all, or at least ``least`` of them; all where they have no more."""
    a_group = split.mean_length * len(split) / len(_rows_of_examples(split))
    return draw_sample(split, max(int(tokens / a_group), least), seed)


def hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Part a split at random into (rest, held), both in the order of the split.

    Parameters
    ----------
    split
        What to part; the features of one question stay together.
    fraction
        Share of the examples to hold out, above 0 and below 1; at least one goes to each side.
    seed
        Of the drawing.

    Raises
    ------
    InputError
        If the fraction is not between 0 and 1, or there is only one example.
    """
    groups = _rows_of_examples(split)
    if not 0 < fraction < 1 or len(groups) < 2:
        raise InputError(
            f"cannot hold out {fraction} of {len(groups)} examples; give a fraction between 0 and 1, "
            f"and 2 examples or more"
        )
    num_held = min(max(round(fraction * len(groups)), 1), len(groups) - 1)
    order = np.random.default_rng(seed).permutation(len(groups))
    held, rest = (np.sort(np.concatenate([groups[n] for n in part])) for part in np.split(order, [num_held]))
    return split.select(rest), split.select(held)


def _rows_of_examples(split: Split) -> list[list[int]]:
    """Return the features of each example."""
    if "example_id" not in split.features.column_names:
        return [[row] for row in range(len(split))]
    groups: dict[str, list[int]] = {}
    for row, example in enumerate(split.features["example_id"]):
        groups.setdefault(example, []).append(row)
    return list(groups.values())


def order_rows(split: Split, batch_size: int, *, by_length: bool = True) -> list[np.ndarray]:
    """Return the features of each batch.

    Parameters
    ----------
    split
        The features to part.
    batch_size
        Features a batch; the last one may have fewer.
    by_length
        Put features of like length together, the longest first (so that memory runs out at once or never),
        instead of keeping their order.
    """
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; use at least 1")
    rows = np.arange(len(split))
    if by_length:
        tokens = arrow_of(split.features.select_columns("attention_mask"))["attention_mask"]
        rows = np.argsort(-pc.list_value_length(tokens).to_numpy(), kind="stable")
    return [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]


def collate(split: Split, rows: np.ndarray, pad_token_id: int) -> dict[str, torch.Tensor]:
    """Return features as CPU tensors [rows, longest of them], padded on the right, with their targets [rows].

    All are int64 but labels that are numbers with fractions, float32. Labels of tokens are padded with ``IGNORED``.
    """
    names = [name for name in (*MODEL_INPUTS, *LABELS) if name in split.features.column_names]
    values = split.features.select_columns(names)[rows.tolist()]
    batch = stack({name: values[name] for name in names if name not in LABELS}, pad_token_id)
    if "pixel_values" in split.features.column_names:
        batch["pixel_values"] = _pixels(split, rows)
    return batch | {name: _targets(values[name]) for name in names if name in LABELS}


def _targets(rows: list) -> torch.Tensor:
    first = rows[0][0] if isinstance(rows[0], list) else rows[0]
    if isinstance(first, float):
        return torch.tensor(rows, dtype=torch.float32)
    if not isinstance(rows[0], list):
        return torch.tensor(rows, dtype=torch.int64)
    each = [torch.tensor(row, dtype=torch.int64) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(each, batch_first=True, padding_value=IGNORED)


def _pixels(split: Split, rows: np.ndarray) -> torch.Tensor:
    """Pixels [rows, channels, height, width] float32."""
    values = split.features.select_columns("pixel_values").with_format("arrow")[rows.tolist()]["pixel_values"]
    array, shape = values.combine_chunks(), [len(rows)]
    while pa.types.is_fixed_size_list(array.type):
        shape.append(array.type.list_size)
        array = array.flatten()
    return torch.from_numpy(array.to_numpy().reshape(shape).copy())


def make_batches(
    split: Split, batch_size: int, pad_token_id: int, *, by_length: bool = True
) -> list[dict[str, torch.Tensor]]:
    """Return the whole split as padded batches; see ``order_rows`` and ``collate``.

    Raises
    ------
    InputError
        If ``batch_size`` is less than 1.
    """
    return [collate(split, rows, pad_token_id) for rows in order_rows(split, batch_size, by_length=by_length)]
