"""Tables, GLUE tasks and SQuAD, encoded for a model: reading, checking, sampling, batching."""

import bz2
import csv
import gzip
import hashlib
import json
import sys
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from datasets import ClassLabel, Dataset, DatasetInfo, load_dataset
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from fastprune.errors import InputError
from fastprune.losses import LABELS

Problem = Literal["classification", "regression", "question-answering"]

METRICS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "f1", "matthews_correlation"),
    "regression": ("pearson", "spearman", "pearson_spearman"),
    "question-answering": ("squad_f1", "squad_exact_match"),
}
DOC_STRIDE = 128
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")

_ROWS_AT_ONCE = 1_000
_ANSWERS = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])


@dataclass(frozen=True)
class Task:
    """What a table is for: the columns to read and the metric to judge by.

    Raises
    ------
    InputError
        If the metric does not belong to the problem, or the number of text columns is not 1 or 2
        (question answering: exactly question and context).
    """

    name: str
    problem: Problem
    metric: str
    text_columns: tuple[str, ...]
    label_column: str
    max_length: int = 128

    def __post_init__(self) -> None:
        if self.problem not in METRICS:
            raise InputError(f"unknown problem {self.problem!r}; use one of {', '.join(METRICS)}")
        if self.metric not in METRICS[self.problem]:
            raise InputError(
                f"metric {self.metric!r} is not one of {', '.join(METRICS[self.problem])}, "
                f"the metrics of {self.problem}"
            )
        allowed = (2,) if self.problem == "question-answering" else (1, 2)
        if len(self.text_columns) not in allowed:
            raise InputError(
                f"{self.problem} reads {' or '.join(map(str, allowed))} text columns, "
                f"but {len(self.text_columns)} are named: {list(self.text_columns)}"
            )


_GLUE = {
    task.name: task
    for task in (
        Task("cola", "classification", "matthews_correlation", ("sentence",), "label"),
        Task("sst2", "classification", "accuracy", ("sentence",), "label"),
        Task("mrpc", "classification", "accuracy", ("sentence1", "sentence2"), "label"),
        Task("qqp", "classification", "accuracy", ("question1", "question2"), "label"),
        Task("stsb", "regression", "pearson_spearman", ("sentence1", "sentence2"), "label"),
        Task("mnli", "classification", "accuracy", ("premise", "hypothesis"), "label"),
        Task("qnli", "classification", "accuracy", ("question", "sentence"), "label"),
        Task("rte", "classification", "accuracy", ("sentence1", "sentence2"), "label"),
        Task("wnli", "classification", "accuracy", ("sentence1", "sentence2"), "label"),
        Task("squad", "question-answering", "squad_f1", ("question", "context"), "answers", max_length=384),
    )
}


def glue_task(name: str) -> Task:
    """Return the task of a GLUE name (``mnli`` is judged on its matched part), or ``squad``.

    Raises
    ------
    InputError
        If there is no such task; the message lists them.
    """
    if name not in _GLUE:
        raise InputError(f"unknown task {name!r}; use one of {', '.join(_GLUE)}, or give your own files")
    return _GLUE[name]


def load_glue(task_name: str) -> tuple[Dataset, Dataset]:
    """Fetch a task's training and labelled evaluation tables from the Hugging Face hub.

    Raises
    ------
    InputError
        If the task is unknown or cannot be fetched.
    """
    glue_task(task_name)
    source = ("rajpurkar/squad",) if task_name == "squad" else ("nyu-mll/glue", task_name)
    try:
        splits = load_dataset(*source)
    except OSError as error:
        raise InputError(
            f"task {task_name!r}: data set {'/'.join(source)} cannot be fetched from the hub ({error}); "
            f"check the network, or give local files"
        ) from error
    return splits["train"], splits["validation_matched" if task_name == "mnli" else "validation"]


# Reading files


def read_table(path: str | Path) -> Dataset:
    """Read a table into memory, with nothing guessed about its text.

    CSV and TSV columns are all read as text: an empty field is an empty string, and ``NA``, ``null`` or
    ``nan`` stay the words they are. TSV is read as GLUE ships it: tabs, no quoting, perhaps a byte-order
    mark. In JSONL and Parquet a null is a missing value. CSV, TSV, JSONL and JSON may be compressed
    (``.gz``, ``.bz2``).

    Parameters
    ----------
    path
        A ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file, or a ``.json`` file in SQuAD's nested format.

    Returns
    -------
    Dataset
        One row a record; for SQuAD the columns ``id``, ``question``, ``context`` and ``answers``
        (``text`` and ``answer_start``, lists of equal length).

    Raises
    ------
    InputError
        If the file is missing, of an unknown type, empty, truncated, ragged or not UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
    suffix = path.with_suffix("").suffix if path.suffix in _OPENERS else path.suffix
    if suffix not in _READERS:
        raise InputError(f"{path}: unknown file type {suffix!r}; use one of {', '.join(_READERS)}")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    try:
        table = _READERS[suffix](path)
    except InputError:
        raise
    except (ValueError, OSError, EOFError, csv.Error, zlib.error) as error:
        raise InputError(
            f"{path}: cannot be read as {suffix} ({error}); is the file complete, and its text UTF-8?"
        ) from error
    # The name travels with the table so that errors found later can still say which file is at fault.
    return Dataset(table, info=DatasetInfo(dataset_name=str(path)))


def _open_text(path: Path, newline: str) -> TextIO:
    return _OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8-sig", newline=newline)


def _read_csv(path: Path) -> pa.Table:
    csv.field_size_limit(sys.maxsize)
    with _open_text(path, newline="") as file:
        reader = csv.reader(file, strict=True)
        return _table_of_strings(path, [(reader.line_num, row) for row in reader if row])


def _read_tsv(path: Path) -> pa.Table:
    with _open_text(path, newline="\n") as file:
        lines = ((number, line.rstrip("\r\n")) for number, line in enumerate(file, start=1))
        return _table_of_strings(path, [(number, line.split("\t")) for number, line in lines if line])


def _table_of_strings(path: Path, numbered: list[tuple[int, list[str]]]) -> pa.Table:
    """Make columns of rows that come with the number of their line; the first row names the columns."""
    if not numbered:
        raise InputError(f"{path}: the file is empty")
    (_, header), *body = numbered
    if len(set(header)) < len(header):
        raise InputError(f"{path}: two columns have the same name; the header is {header}")
    for line_number, row in body:
        if len(row) != len(header):
            raise InputError(
                f"{path}: line {line_number} has {len(row)} fields where the header has {len(header)}: "
                f"{header}"
            )
    columns = zip(*(row for _, row in body), strict=True) if body else [()] * len(header)
    return pa.table([pa.array(column, pa.string()) for column in columns], names=header)


def _read_jsonl(path: Path) -> pa.Table:
    records = []
    with _open_text(path, newline="\n") as file:
        for line_number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    raise InputError(f"{path}: line {line_number} is not JSON ({error})") from error
                if not isinstance(record, dict):
                    raise InputError(f"{path}: line {line_number} is not a JSON object")
                records.append(record)
    names = list(dict.fromkeys(name for record in records for name in record))
    columns = []
    for name in names:
        try:
            columns.append(pa.array([record.get(name) for record in records]))
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(f"{path}: column {name!r} mixes kinds of values ({error})") from error
    return pa.table(columns, names=names)


def _read_parquet(path: Path) -> pa.Table:
    return pq.read_table(path)


def _read_squad(path: Path) -> pa.Table:
    with _open_text(path, newline="\n") as file:
        document = json.load(file)
    try:
        rows = [
            {
                "id": question["id"],
                "question": question["question"],
                "context": paragraph["context"],
                "answers": {
                    key: [answer[key] for answer in question.get("answers", [])]
                    for key in ("text", "answer_start")
                },
            }
            for article in document["data"]
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
        return pa.Table.from_pylist(rows, _example_schema(labelled=True))
    except (KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise InputError(
            f"{path}: not in SQuAD's format of data, paragraphs, qas and answers ({error!r}); "
            f"one record a line belongs in a .jsonl file"
        ) from error


_OPENERS: dict[str, Callable[..., TextIO]] = {".gz": gzip.open, ".bz2": bz2.open}
_READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".json": _read_squad,
}


# Encoded splits


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
        return any(target in self.features.column_names for target in LABELS)

    @property
    def mean_length(self) -> float:
        """Mean number of tokens of a feature, special tokens included."""
        mask = _arrow(self.features.select_columns("attention_mask"))["attention_mask"]
        return pc.sum(pc.list_flatten(mask)).as_py() / len(self)

    def select(self, rows: np.ndarray | list[int]) -> "Split":
        """Return the split of these features, in this order; a feature may come more than once."""
        features = _arrow(self.features).take(pa.array(np.asarray(rows, dtype=np.int64)))
        examples = self.examples
        if examples is not None:
            kept = pc.is_in(_arrow(examples)["id"], value_set=features["example_id"].combine_chunks())
            examples = _arrow(examples).filter(kept)
        return _split(self.task, features, examples)

    def save(self, folder: str | Path) -> None:
        """Write the split as Parquet and JSON into a folder, made if need be."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(_arrow(self.features), folder / "features.parquet")
        if self.examples is not None:
            pq.write_table(_arrow(self.examples), folder / "examples.parquet")
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
            content = json.loads((folder / "split.json").read_text(encoding="utf-8"))
            task = Task(**content["task"] | {"text_columns": tuple(content["task"]["text_columns"])})
            features = pq.read_table(folder / "features.parquet")
            examples = pq.read_table(folder / "examples.parquet") if content["examples"] else None
            split = _split(task, features, examples)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{folder}: holds no complete encoded split ({error}); encode the data again"
            ) from error
        if split.digest != content["digest"]:
            raise InputError(
                f"{folder}: the split is not what was saved (its digest differs); encode the data again"
            )
        return split


def _split(task: Task, features: pa.Table, examples: pa.Table | None) -> Split:
    digest = hashlib.sha256(json.dumps(asdict(task), sort_keys=True).encode())
    for table in (features, examples):
        if table is not None:
            for name in sorted(table.column_names):
                digest.update(name.encode())
                _hash_values(digest, table[name].combine_chunks())
    # The fingerprint given, datasets need not pickle the whole table to make one.
    datasets = [
        table if table is None else Dataset(table, fingerprint=digest.hexdigest()[:16])
        for table in (features, examples)
    ]
    return Split(task, *datasets, digest.hexdigest())


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


def _arrow(table: Dataset) -> pa.Table:
    return table.with_format("arrow")[:]


def encode(
    table: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    model_config: PretrainedConfig,
    *,
    labelled: bool = True,
    for_evaluation: bool = False,
) -> Split:
    """Check a table and turn its texts and labels into what the model reads.

    Texts are cut at ``task.max_length`` tokens, or where the tokenizer's or the model's own limit is lower.
    Class labels are matched by name with ``model_config.label2id`` first (also ``LABEL_0``, any case), then
    read as class numbers. A long context of question answering becomes overlapping features (stride 128);
    a feature that does not contain the first answer points to the [CLS] token.

    Parameters
    ----------
    table
        Rows with the task's columns.
    tokenizer
        The model's tokenizer; a fast one for question answering.
    task, model_config
        What the columns mean, and the number of classes, their names, and the sizes of the model.
    labelled
        False leaves the label column unread (it need not exist) and makes features without targets.
    for_evaluation
        Keep, for question answering, what turns token positions back into text.

    Raises
    ------
    InputError
        If a column is missing, a text is null or a row has none, labels are missing or not the model's, or
        the tokenizer is not the model's. Rows are counted from 1, without the header.
    """
    source = _source(table)
    wanted = (*task.text_columns, task.label_column) if labelled else task.text_columns
    if missing := [name for name in wanted if name not in table.column_names]:
        raise InputError(f"{source}: no column {missing[0]!r}; the columns are {table.column_names}")
    if len(table) == 0:
        raise InputError(f"{source}: the table has no rows")
    texts = _read_texts(table, task)
    if task.problem == "question-answering":
        features, examples = _encode_questions(table, tokenizer, task, model_config, *texts, labelled)
        if not for_evaluation:
            features, examples = features.drop_columns("offset_mapping"), None
    else:
        features, examples = _encode_texts(tokenizer, task, model_config, texts), None
        if labelled:
            read = _read_numbers if task.problem == "regression" else _read_classes
            features = features.append_column("labels", read(table, task, model_config))
    _check_vocabulary(source, features, model_config)
    return _split(task, features, examples)


def _source(table: Dataset) -> str:
    return table.info.dataset_name or "the table"


def _read_texts(table: Dataset, task: Task) -> list[list[str]]:
    source, columns = _source(table), []
    for name in task.text_columns:
        columns.append(table[name][:])
        for row, text in enumerate(columns[-1], start=1):
            if text is None:
                raise InputError(f"{source}: row {row} has no text in column {name!r}; fill it or drop the row")
            if not isinstance(text, str):
                raise InputError(f"{source}: row {row} of column {name!r} is {text!r}, not text; quote it")
    for row, row_texts in enumerate(zip(*columns, strict=True), start=1):
        if not any(text.strip() for text in row_texts):
            raise InputError(
                f"{source}: row {row} is empty in column {' and '.join(map(repr, task.text_columns))}; "
                f"fill it or drop the row"
            )
    return columns


def _read_classes(table: Dataset, task: Task, config: PretrainedConfig) -> pa.Array:
    """Return class numbers [rows]."""
    source, name = _source(table), task.label_column
    names = {f"LABEL_{number}": number for number in range(config.num_labels)} | {
        str(key): int(number) for key, number in config.label2id.items()
    }
    names = {key.casefold(): number for key, number in names.items()} | names
    values = table[name][:]
    kind = table.features[name]
    if isinstance(kind, ClassLabel) and all(own.casefold() in names for own in kind.names):
        # The numbers are the table's; where the model knows the same names it may number them differently.
        values = [kind.names[value] if value in range(len(kind.names)) else value for value in values]

    classes = np.empty(len(values), dtype=np.int64)
    for row, value in enumerate(values):
        text = str(value)
        number = names.get(text, names.get(text.casefold()))
        if number is None:
            number = _whole_number(value)
        if number is None or not 0 <= number < config.num_labels:
            problem = "has no label" if value is None or text == "" else f"has the label {value!r}"
            raise InputError(
                f"{source}: row {row + 1} {problem} in column {name!r}; the model's classes are 0 to "
                f"{config.num_labels - 1}, named {list(config.label2id)}"
                + (" (-1 marks GLUE's unlabelled test rows)" if number == -1 else "")
            )
        classes[row] = number
    return pa.array(classes)


def _whole_number(value: Any) -> int | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() else None


def _read_numbers(table: Dataset, task: Task, config: PretrainedConfig) -> pa.Array:
    """Return the targets of a regression [rows], float32."""
    source, name = _source(table), task.label_column
    if config.num_labels != 1:
        raise InputError(
            f"task {task.name!r} is a regression, but the model has {config.num_labels} outputs; "
            f"use a model with num_labels 1"
        )
    numbers = np.empty(len(table), dtype=np.float32)
    for row, value in enumerate(table[name][:]):
        try:
            numbers[row] = float(value)
        except (TypeError, ValueError):
            numbers[row] = np.nan
        if not np.isfinite(numbers[row]):
            raise InputError(f"{source}: row {row + 1} of column {name!r} is {value!r}, not a number")
    return pa.array(numbers)


def _longest(tokenizer: PreTrainedTokenizerBase, task: Task, config: PretrainedConfig) -> int:
    positions = config.max_position_embeddings
    if config.model_type in ("roberta", "xlm-roberta", "camembert"):
        positions -= config.pad_token_id + 1  # these count positions from just after the padding index
    return min(task.max_length, tokenizer.model_max_length, positions)


def _check_vocabulary(source: str, features: pa.Table, config: PretrainedConfig) -> None:
    highest = pc.max(pc.list_flatten(features["input_ids"])).as_py()
    if highest is None or highest >= config.vocab_size:
        raise InputError(
            f"{source}: the tokenizer gives "
            + ("no tokens" if highest is None else f"token {highest}, beyond the model's {config.vocab_size}")
            + "; use the tokenizer that belongs to the model"
        )


def _token_columns(encoded: Any, config: PretrainedConfig) -> dict[str, pa.Array]:
    """Return the model's inputs as columns; type ids only where the model tells one type from another."""
    types = {"input_ids": pa.int32(), "attention_mask": pa.int8()}
    if getattr(config, "type_vocab_size", 1) > 1:
        types["token_type_ids"] = pa.int8()
    return {name: pa.array(encoded[name], pa.list_(kind)) for name, kind in types.items() if name in encoded}


def _encode_texts(
    tokenizer: PreTrainedTokenizerBase, task: Task, config: PretrainedConfig, texts: list[list[str]]
) -> pa.Table:
    longest, tables = _longest(tokenizer, task, config), []
    for first in range(0, len(texts[0]), _ROWS_AT_ONCE):
        rows = [column[first : first + _ROWS_AT_ONCE] for column in texts]
        encoded = tokenizer(*rows, truncation=True, max_length=longest, return_attention_mask=True)
        tables.append(pa.table(_token_columns(encoded, config)))
    return pa.concat_tables(tables)


def _example_schema(labelled: bool) -> pa.Schema:
    fields = [(name, pa.string()) for name in ("id", "question", "context")]
    return pa.schema([*fields, ("answers", _ANSWERS)] if labelled else fields)


def _encode_questions(
    table: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    config: PretrainedConfig,
    questions: list[str],
    contexts: list[str],
    labelled: bool,
) -> tuple[pa.Table, pa.Table]:
    """Return the features and the examples of question answering."""
    source = _source(table)
    if not tokenizer.is_fast:
        raise InputError(
            f"{type(tokenizer).__name__} gives no character offsets, which question answering needs; "
            f"use the model's fast tokenizer"
        )
    ids = [str(number) for number in (table["id"] if "id" in table.column_names else range(len(table)))]
    if len(set(ids)) < len(ids):
        raise InputError(f"{source}: column 'id' has the same value twice; make the ids unique")
    answers = _read_answers(table, task, contexts) if labelled else None
    # Blanks before a question say nothing, and a long run of them leaves the context no room.
    questions = [question.lstrip() for question in questions]

    longest = _longest(tokenizer, task, config)
    stride = min(DOC_STRIDE, longest // 3)
    room = longest - stride - tokenizer.num_special_tokens_to_add(pair=True) - 1
    tables = []
    for first in range(0, len(questions), _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        alone = tokenizer(questions[rows], add_special_tokens=False)["input_ids"]
        for row, tokens in enumerate(alone, start=first + 1):
            if len(tokens) > room:
                raise InputError(
                    f"{source}: row {row} of column {task.text_columns[0]!r} has {len(tokens)} tokens; at "
                    f"{longest} tokens in all, {room} leave room for the context"
                )
        encoded = tokenizer(
            questions[rows],
            contexts[rows],
            truncation="only_second",
            max_length=longest,
            stride=stride,
            return_attention_mask=True,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        owners = [first + owner for owner in encoded["overflow_to_sample_mapping"]]
        offsets = [
            np.where([[sequence == 1] for sequence in encoded.sequence_ids(feature)], pairs, -1)
            for feature, pairs in enumerate(encoded["offset_mapping"])
        ]
        columns = _token_columns(encoded, config)
        columns["example_id"] = pa.array([ids[owner] for owner in owners])
        columns["offset_mapping"] = _pair_lists(offsets)
        if answers is not None:
            spans = [_answer_span(o, answers[owner]) for o, owner in zip(offsets, owners, strict=True)]
            columns["start_positions"] = pa.array([start for start, _ in spans], pa.int64())
            columns["end_positions"] = pa.array([end for _, end in spans], pa.int64())
        tables.append(pa.table(columns))

    examples = {"id": ids, "question": questions, "context": contexts}
    if answers is not None:
        examples["answers"] = answers
    return pa.concat_tables(tables), pa.table(examples, _example_schema(labelled))


def _pair_lists(offsets: list[np.ndarray]) -> pa.Array:
    """Return lists of pairs of which each array [length, 2] makes one."""
    ends = np.cumsum([0, *map(len, offsets)])
    pairs = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(offsets).ravel(), pa.int32()), 2)
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pairs)


def _read_answers(table: Dataset, task: Task, contexts: list[str]) -> list[dict[str, list]]:
    source, name = _source(table), task.label_column
    answers = table[name][:]
    for row, (answer, context) in enumerate(zip(answers, contexts, strict=True), start=1):
        if not isinstance(answer, dict) or not {"text", "answer_start"} <= answer.keys():
            raise InputError(
                f"{source}: row {row} of column {name!r} does not hold lists text and answer_start"
            )
        if not answer["text"] or not all(answer["text"]):
            raise InputError(
                f"{source}: row {row} has no answer in column {name!r}; the unanswerable questions of "
                f"SQuAD 2.0 are not supported, drop them"
            )
        for text, start in zip(answer["text"], answer["answer_start"], strict=True):
            found = context[start : start + len(text)]
            if start < 0 or found.casefold().strip() != text.casefold().strip():
                raise InputError(
                    f"{source}: row {row}: the answer {text!r} is not at character {start} of the context, where "
                    f"{found!r} is; answer_start counts characters, not bytes"
                )
    return answers


def _answer_span(offsets: np.ndarray, answer: dict[str, list]) -> tuple[int, int]:
    """Return the first and last token of the first answer, or [CLS], token 0, if the window lacks it.

    ``offsets`` [length, 2] are characters of the context, -1 outside it.
    """
    start, end = answer["answer_start"][0], answer["answer_start"][0] + len(answer["text"][0])
    tokens = np.flatnonzero(offsets[:, 0] >= 0)
    if not len(tokens):
        return 0, 0
    starts, ends = offsets[tokens].T
    if start < starts[0] or ends[-1] < end:
        return 0, 0
    first = tokens[np.searchsorted(starts, start, side="right") - 1]
    return int(first), int(tokens[np.searchsorted(ends, end)])


# Sampling and batches


def draw_sample(split: Split, num_samples: int, seed: int) -> Split:
    """Draw examples without replacement, or keep the whole split if it has no more than that.

    For question answering, ``num_samples`` questions are drawn, each with all of its features.

    Raises
    ------
    InputError
        If ``num_samples`` is less than 1.
    """
    if num_samples < 1:
        raise InputError(f"num_samples is {num_samples}; draw at least 1")
    groups = _rows_of_examples(split)
    if num_samples >= len(groups):
        return split
    drawn = np.random.default_rng(seed).choice(len(groups), num_samples, replace=False)
    return split.select(np.concatenate([groups[number] for number in drawn]))


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
    if split.task.problem != "question-answering":
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
        tokens = _arrow(split.features.select_columns("input_ids"))["input_ids"]
        rows = np.argsort(-pc.list_value_length(tokens).to_numpy(), kind="stable")
    return [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]


def collate(split: Split, rows: np.ndarray, pad_token_id: int) -> dict[str, torch.Tensor]:
    """Return features as CPU tensors [rows, longest of them], padded on the right, with their targets [rows].

    All are int64 but the labels of a regression, float32.
    """
    names = [name for name in (*MODEL_INPUTS, *LABELS) if name in split.features.column_names]
    values = split.features.select_columns(names)[rows.tolist()]
    batch = {}
    for name in names:
        if name in LABELS:
            kind = torch.float32 if split.task.problem == "regression" else torch.int64
            batch[name] = torch.tensor(values[name], dtype=kind)
        else:
            batch[name] = torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(tokens, dtype=torch.int64) for tokens in values[name]],
                batch_first=True,
                padding_value=pad_token_id if name == "input_ids" else 0,
            )
    return batch


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
