"""Checking a table, and turning its texts and labels into what a model reads."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import transformers
from datasets import Dataset

from fastprune.data.labels import read_classes
from fastprune.data.splits import Split, arrow_of, make_split
from fastprune.data.tables import example_schema
from fastprune.data.tasks import Task
from fastprune.errors import InputError
from fastprune.model import model_inputs

_ROWS_AT_ONCE = 1_000


def encode(
    table: Dataset,
    tokenizer: transformers.PreTrainedTokenizerBase,
    task: Task,
    model_config: transformers.PretrainedConfig,
    *,
    rows: np.ndarray | None = None,
    labelled: bool = True,
    for_evaluation: bool = False,
) -> Split:
    """Check a table and turn its texts and labels into what the model reads.

    Texts are cut at ``task.max_length`` tokens, or where the tokenizer's or the model's own limit is lower.
    Class labels are read by the rules of :mod:`fastprune.data.labels`.
    A long context of question answering becomes overlapping features (stride 128);
    a feature that does not contain the first answer points to the [CLS] token.

    Parameters
    ----------
    table
        Rows with the task's columns.
    tokenizer
        The model's tokenizer; a fast one for question answering.
    task, model_config
        What the columns mean, and the number of classes, their names, and the sizes of the model.
    rows
        Encode these rows alone, counted from 0, in this order; the whole table is checked all the same.
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
    rows = np.arange(len(table)) if rows is None else np.asarray(rows)
    if task.problem == "question-answering":
        asked, contexts = (column.to_pylist() for column in texts)
        features, examples = _encode_questions(table, tokenizer, task, model_config, asked, contexts, rows, labelled)
        if not for_evaluation:
            features, examples = features.drop_columns("offset_mapping"), None
    else:
        features, examples = _encode_texts(tokenizer, task, model_config, [column.take(rows) for column in texts]), None
        if labelled:
            if task.problem == "regression":
                labels = _read_numbers(table, task, model_config)
            else:
                labels = read_classes(table, task.label_column, model_config, source)
            features = features.append_column("labels", labels.take(rows))
    _check_vocabulary(source, features, model_config)
    return make_split(task, features, examples)


def _source(table: Dataset) -> str:
    return table.info.dataset_name or "the table"


def _read_texts(table: Dataset, task: Task) -> list[pa.ChunkedArray]:
    """The text columns, once no row of them has proved to be null, empty or something else than text."""
    source, columns = _source(table), []
    whole = arrow_of(table.select_columns(list(dict.fromkeys(task.text_columns))))
    blank = np.ones(len(table), dtype=bool)
    for name in task.text_columns:
        column = whole[name]
        if column.null_count:
            row = pc.index(column.is_null(), True).as_py() + 1
            raise InputError(f"{source}: row {row} has no text in column {name!r}; fill or drop it")
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if kind not in (pa.string(), pa.large_string(), pa.string_view()):
            raise InputError(f"{source}: row 1 of column {name!r} is {column[0].as_py()!r}, not text; quote it")
        columns.append(column.cast(pa.string()))
        blank &= pc.equal(pc.utf8_trim_whitespace(columns[-1]), "").to_numpy()
    if blank.any():
        raise InputError(
            f"{source}: row {blank.argmax() + 1} is empty in column {' and '.join(map(repr, task.text_columns))}; "
            f"fill it or drop the row"
        )
    return columns


def _read_numbers(table: Dataset, task: Task, config: transformers.PretrainedConfig) -> pa.Array:
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


def _check_vocabulary(source: str, features: pa.Table, config: transformers.PretrainedConfig) -> None:
    highest = pc.max(pc.list_flatten(features["input_ids"])).as_py()
    if highest is None or highest >= config.vocab_size:
        raise InputError(
            f"{source}: the tokenizer gives "
            + ("no tokens" if highest is None else f"token {highest}, beyond the model's {config.vocab_size}")
            + "; use the tokenizer that belongs to the model"
        )


def _token_columns(encoded: Any, config: transformers.PretrainedConfig) -> dict[str, pa.Array]:
    """Return the model's inputs as columns; type ids only where the model tells one type from another."""
    types = {"input_ids": pa.int32(), "attention_mask": pa.int8(), "token_type_ids": pa.int8()}
    return {
        name: pa.array(rows, pa.list_(types[name])) for name, rows in model_inputs.inputs_of(encoded, config).items()
    }


def _encode_texts(
    tokenizer: transformers.PreTrainedTokenizerBase,
    task: Task,
    config: transformers.PretrainedConfig,
    texts: list[pa.ChunkedArray],
) -> pa.Table:
    tables = []
    for first in range(0, len(texts[0]), _ROWS_AT_ONCE):
        rows = [column.slice(first, _ROWS_AT_ONCE).to_pylist() for column in texts]
        encoded = model_inputs.tokenize(tokenizer, config, rows, task.max_length)
        tables.append(pa.table(_token_columns(encoded, config)))
    return pa.concat_tables(tables)


def _encode_questions(
    table: Dataset,
    tokenizer: transformers.PreTrainedTokenizerBase,
    task: Task,
    config: transformers.PretrainedConfig,
    questions: list[str],
    contexts: list[str],
    rows: np.ndarray,
    labelled: bool,
) -> tuple[pa.Table, pa.Table]:
    """Return the features and the examples of these rows of question answering."""
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
    ids, contexts = ([column[row] for row in rows] for column in (ids, contexts))
    questions = [questions[row].lstrip() for row in rows]
    answers = answers and [answers[row] for row in rows]

    longest = model_inputs.longest_text(tokenizer, config, task.max_length)
    stride = min(model_inputs.STRIDE, longest // 3)
    room = longest - stride - tokenizer.num_special_tokens_to_add(pair=True) - 1
    tables = []
    for first in range(0, len(questions), _ROWS_AT_ONCE):
        some = slice(first, first + _ROWS_AT_ONCE)
        alone = tokenizer(questions[some], add_special_tokens=False)["input_ids"]
        for row, tokens in zip(rows[some], alone, strict=True):
            if len(tokens) > room:
                raise InputError(
                    f"{source}: row {row + 1} of column {task.text_columns[0]!r} has {len(tokens)} tokens; at "
                    f"{longest} tokens in all, {room} leave room for the context"
                )
        encoded = model_inputs.tokenize_windows(tokenizer, config, questions[some], contexts[some], task.max_length)
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

    examples: dict = {"id": ids, "question": questions, "context": contexts}
    if answers is not None:
        examples["answers"] = answers
    return pa.concat_tables(tables), pa.table(examples, example_schema(labelled))


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
            raise InputError(f"{source}: row {row} of column {name!r} does not hold lists text and answer_start")
        if not answer["text"] or not all(answer["text"]):
            raise InputError(
                f"{source}: row {row} has no answer in column {name!r}; the unanswerable questions of "
                f"SQuAD 2.0 are not supported, drop them"
            )
        for text, start in zip(answer["text"], answer["answer_start"], strict=True):
            in_context = context[start : start + len(text)]
            if start < 0 or in_context.casefold().strip() != text.casefold().strip():
                raise InputError(
                    f"{source}: row {row}: the answer {text!r} is not at character {start} of the context, "
                    f"where {in_context!r} is; answer_start counts characters, not bytes"
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
