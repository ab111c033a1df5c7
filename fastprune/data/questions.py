"""Questions with their contexts: windows of tokens, the spans of answers, and SQuAD's arithmetic."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from datasets import Dataset

from fastprune.data.source import ROWS_AT_ONCE, Source, token_columns
from fastprune.data.tables import example_schema
from fastprune.errors import InputError
from fastprune.model import model_inputs


def encode_questions(
    source: Source, rows: np.ndarray, labelled: bool, *, may_lack: bool = False
) -> tuple[pa.Table, pa.Table]:
    """Return the features and the examples of these rows; a long context becomes windows that overlap.

    A window that does not contain the first answer points to the [CLS] token; with ``may_lack`` those of a question
    without an answer too.
    """
    table, tokenizer, task, config = source.table, source.tokenizer, source.task, source.config
    questions, contexts = (column.to_pylist() for column in source.texts())
    if not tokenizer.is_fast:
        raise InputError(
            f"{type(tokenizer).__name__} gives no character offsets, which question answering needs; "
            f"use the model's fast tokenizer"
        )
    ids = [str(number) for number in (table["id"] if "id" in table.column_names else range(len(table)))]
    if len(set(ids)) < len(ids):
        raise InputError(f"{source.name}: column 'id' has the same value twice; make the ids unique")
    answers = _read_answers(source, contexts, may_lack) if labelled else None
    ids, contexts = ([column[row] for row in rows] for column in (ids, contexts))
    questions = [questions[row].lstrip() for row in rows]
    answers = answers and [answers[row] for row in rows]

    longest = model_inputs.longest_text(tokenizer, config, task.max_length)
    stride = min(model_inputs.STRIDE, longest // 3)
    room = longest - stride - tokenizer.num_special_tokens_to_add(pair=True) - 1
    tables = []
    for first in range(0, len(questions), ROWS_AT_ONCE):
        some = slice(first, first + ROWS_AT_ONCE)
        alone = tokenizer(questions[some], add_special_tokens=False)["input_ids"]
        for row, tokens in zip(rows[some], alone, strict=True):
            if len(tokens) > room:
                raise InputError(
                    f"{source.name}: row {row + 1} of column {task.text_columns[0]!r} has {len(tokens)} tokens; at "
                    f"{longest} tokens in all, {room} leave room for the context"
                )
        encoded = model_inputs.tokenize_windows(tokenizer, config, questions[some], contexts[some], task.max_length)
        owners = [first + owner for owner in encoded["overflow_to_sample_mapping"]]
        offsets = [
            np.where([[sequence == 1] for sequence in encoded.sequence_ids(feature)], pairs, -1)
            for feature, pairs in enumerate(encoded["offset_mapping"])
        ]
        columns = token_columns(encoded, config)
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


def _read_answers(source: Source, contexts: list[str], may_lack: bool) -> list[dict[str, list]]:
    name = source.task.label_column
    answers = source.table[name][:]
    for row, (answer, context) in enumerate(zip(answers, contexts, strict=True), start=1):
        if not isinstance(answer, dict) or not {"text", "answer_start"} <= answer.keys():
            raise InputError(f"{source.name}: row {row} of column {name!r} does not hold lists text and answer_start")
        if not (answer["text"] or may_lack) or not all(answer["text"]):
            raise InputError(
                f"{source.name}: row {row} has no answer in column {name!r}; where questions may lack one, as in SQuAD "
                "2.0, name the problem question-answering-or-none"
            )
        for text, start in zip(answer["text"], answer["answer_start"], strict=True):
            in_context = context[start : start + len(text)]
            if start < 0 or in_context.casefold().strip() != text.casefold().strip():
                raise InputError(
                    f"{source.name}: row {row}: the answer {text!r} is not at character {start} of the context, "
                    f"where {in_context!r} is; answer_start counts characters, not bytes"
                )
    return answers


def _answer_span(offsets: np.ndarray, answer: dict[str, list]) -> tuple[int, int]:
    """Return the first and last token of the first answer, or [CLS], token 0, if the window lacks it.

    ``offsets`` [length, 2] are characters of the context, -1 outside it.
    """
    tokens = np.flatnonzero(offsets[:, 0] >= 0)
    if not answer["text"] or not len(tokens):
        return 0, 0
    start, end = answer["answer_start"][0], answer["answer_start"][0] + len(answer["text"][0])
    starts, ends = offsets[tokens].T
    if start < starts[0] or ends[-1] < end:
        return 0, 0
    first = tokens[np.searchsorted(starts, start, side="right") - 1]
    return int(first), int(tokens[np.searchsorted(ends, end)])


def squad_scores(predictions: Mapping[str, str], examples: Dataset) -> dict[str, list[float]]:
    """What SQuAD's official v1.1 evaluation gives each question, as fractions of 1.

    Parameters
    ----------
    predictions
        Answer by question id; a question without one scores 0.
    examples
        ``id`` and ``answers``; the best match over a question's gold answers counts.
    """
    scores: dict[str, list[float]] = {"squad_f1": [], "squad_exact_match": []}
    for example, gold in zip(examples["id"], examples["answers"], strict=True):
        answer = predictions.get(example)
        texts = gold["text"] if answer is not None else []
        scores["squad_f1"].append(max((token_f1(answer or "", text) for text in texts), default=0.0))
        wanted = {_normalise(text) for text in texts}
        scores["squad_exact_match"].append(float(_normalise(answer or "") in wanted))
    return scores


def squad_v2_scores(predictions: Mapping[str, str], examples: Dataset) -> dict[str, list[float]]:
    """What SQuAD's official v2.0 evaluation gives each question: an empty answer is right where there is none.

    Parameters
    ----------
    predictions, examples
        As of :func:`squad_scores`; a question without a prediction has an empty one.
    """
    scores: dict[str, list[float]] = {"squad_v2_f1": [], "squad_v2_exact_match": []}
    for example, gold in zip(examples["id"], examples["answers"], strict=True):
        answer = predictions.get(example, "")
        texts = [text for text in gold["text"] if _normalise(text)] or [""]
        exact = float(_normalise(answer) in {_normalise(text) for text in texts})
        scores["squad_v2_exact_match"].append(exact)
        # of an answer or a question without any words F1 is that both are so
        scores["squad_v2_f1"].append(max(exact, *(token_f1(answer, text) for text in texts)))
    return scores


def best_threshold(gains: np.ndarray, differences: np.ndarray, lacking: int) -> tuple[float, float]:
    """The best score that any threshold of no answer reaches, and the threshold, by SQuAD 2.0's official arithmetic.

    Parameters
    ----------
    gains : ndarray [questions with a span]
        What answering adds to the score: of a question that has an answer the score of the span, of another -1.
    differences : ndarray [questions with a span]
        By how much the score of no answer is above that of the span; a question is answered up to the threshold.
    lacking : int
        Of the questions those without an answer: the score of never answering. The official code tells 0 as its
        threshold, by which questions with a difference below it are answered; here it is one below all differences.

    Returns
    -------
    score : float
        A sum over the questions.
    threshold : float
    """
    order = np.argsort(differences, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(gains[order])])
    best = int(sums.argmax())
    never = float(differences.min(initial=1.0)) - 1
    return lacking + float(sums[best]), float(differences[order[best - 1]]) if best else never


def _normalise(answer: str) -> str:
    """Drop case, punctuation, English articles and extra blanks, in the official order."""
    kept = "".join(letter for letter in answer.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def token_f1(prediction: str, gold: str, of_nothing: float = 0.0) -> float:
    """Of the words of two answers; ``of_nothing`` where neither has any."""
    predicted, wanted = _normalise(prediction).split(), _normalise(gold).split()
    if not predicted and not wanted:
        return of_nothing
    shared = sum((Counter(predicted) & Counter(wanted)).values())
    return 2 * shared / (len(predicted) + len(wanted)) if shared else 0.0
