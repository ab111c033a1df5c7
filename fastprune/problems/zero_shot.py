"""One of several labels for each text, by a model of natural-language inference that knows none of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import ClassLabel

from fastprune.errors import InputError
from fastprune.problems.answers.zero_shot import entailment_of, hypothesis
from fastprune.problems.classification import Classification


class ZeroShot(Classification):
    """A text is the premise; each label that the table names is a hypothesis, and the most entailed one is told.

    The sample takes each text with one of the hypotheses in turn, whichever label is its own.
    """

    metrics = ("accuracy",)  # type: ignore[assignment]
    num_texts = (1,)
    usual = False  # the configuration is that of any model of inference: it is named
    answers = Path(__file__).with_name("answers") / "zero_shot.py"

    def takes(self, config):
        return super().takes(config) and entailment_of(config) is not None

    def rows_of(self, table, text_columns):
        """With labels to choose from as an example."""
        return ((text, "sport|politics") for text in table[text_columns[0]])

    def served(self, text_columns):
        return ["text", "labels"]

    def encode(self, source, rows, *, labelled, for_evaluation):
        names, own = _labels(source)
        [texts] = source.texts()
        hypotheses = [hypothesis(source.config, name) for name in names]
        if for_evaluation:
            rows, asked = np.repeat(rows, len(names)), np.tile(np.arange(len(names)), len(rows))
        else:
            asked = rows % len(names)
        said = pa.chunked_array([[hypotheses[number] for number in asked]])
        features = source.tokens([texts.take(pa.array(rows)), said])
        yes = entailment_of(source.config)
        if labelled:
            no = next(number for number in (_named(source.config, "contra"), int(yes == 0)) if number is not None)
            features = features.append_column("labels", pa.array(np.where(own[rows] == asked, yes, no)))
        if not for_evaluation:
            return features, None
        features = features.append_column("example_id", pa.array([str(row) for row in rows]))
        places = rows[:: len(names)]
        examples = {"id": [str(row) for row in places], "label": own[places], "entailment": [yes] * len(places)}
        return features, pa.table(examples)

    def beside_dense(self, metric):
        """By none: the labels of the rows are what is asked about."""
        return False

    def measure(self, split, outputs):
        rows = (_told(split, outputs) == np.asarray(split.examples["label"][:])).astype(np.float64)
        return {"accuracy": float(rows.mean())}, rows

    def compare(self, split, outputs, wanted):
        """By the label that is told; the divergence is the mean of that of a text's hypotheses."""
        same = _told(split, outputs) == _told(split, wanted)
        _, divergence = super().compare(split, outputs, wanted)
        return same.astype(np.float64), divergence.reshape(len(same), -1).mean(1)

    def constant(self, split, num_labels):
        wanted = np.asarray(split.examples["label"][:])
        return float(np.bincount(wanted).max() / len(wanted))

    def check_evaluation(self, split):
        if len(set(split.examples["label"][:])) == 1:
            raise InputError(
                f"task {split.task.name!r}: all evaluation rows have one label, so they tell nothing; give several"
            )

    def expected(self, outputs) -> None:
        """A single row has no padding."""
        return None


def _told(split, outputs) -> np.ndarray:
    """The most entailed label of each text [texts]."""
    scores = np.stack(outputs)[:, split.examples["entailment"][0]]  # of each text with each label
    return scores.reshape(len(split.examples), -1).argmax(1)


def _named(config, begin: str) -> int | None:
    names = {int(number): str(name).lower() for number, name in config.id2label.items()}
    return next((number for number, name in names.items() if name.startswith(begin)), None)


def _labels(source) -> tuple[list[str], np.ndarray]:
    """The names of all labels of a table, and the number of each row's own [rows]."""
    column, table = source.task.label_column, source.table
    if column not in table.column_names:
        raise InputError(
            f"{source.name}: there is no column {column!r}, whose labels are what the model is asked about; give both "
            "tables a column with them"
        )
    kind, values = table.features[column], table[column][:]
    if isinstance(kind, ClassLabel):
        values = [kind.names[value] for value in values]
    for row, value in enumerate(values, start=1):
        if not isinstance(value, str) or not value.strip() or value.strip().lstrip("-").isdigit():
            raise InputError(
                f"{source.name}: row {row} of column {column!r} is {value!r}, and the model is asked about labels by "
                "name; write names"
            )
    names = sorted(set(kind.names if isinstance(kind, ClassLabel) else values))
    numbers = {name: number for number, name in enumerate(names)}
    return names, np.array([numbers[value] for value in values])


PROBLEM = ZeroShot()
