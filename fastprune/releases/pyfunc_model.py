"""The pruned model as MLflow serves it (models from code: MLflow copies this file beside the model).

It needs mlflow, torch and transformers, not fastprune: the model's folder carries the file that sizes its layers, and
``model_inputs.py`` beside it turns texts into the model's inputs just as they were at its evaluation.
"""

from __future__ import annotations

import json
from importlib.machinery import SourceFileLoader
from types import ModuleType

import mlflow.models
import numpy as np
import pandas as pd
import torch
from mlflow.pyfunc import PythonModel
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification, AutoTokenizer

BATCH = 32


class PrunedModel(PythonModel):
    """Texts in, a row of answers each out.

    ``predict`` takes a DataFrame, a Series or a list: one text a row, two named ``text`` and ``text_pair``, or for
    question answering ``question`` and ``context``. It gives ``label``, ``probability`` and ``probabilities``
    (a JSON object by label) for classification, ``value`` for regression, ``answer`` and ``score`` for questions.
    A cell that holds anything but a text is refused with ValueError.
    """

    def load_context(self, context):
        folder = context.artifacts["model"]
        self.settings = context.model_config
        answers = self.settings["problem"] == "question-answering"
        auto = AutoModelForQuestionAnswering if answers else AutoModelForSequenceClassification
        self.inputs = _load(context.artifacts["inputs"])
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = auto.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()

    @torch.inference_mode()
    def predict(self, context, model_input: pd.DataFrame, params=None) -> pd.DataFrame:
        rows = self._rows(model_input)
        answer = {"classification": self._classify, "regression": self._value, "question-answering": self._answer}[
            self.settings["problem"]
        ]
        batches = [answer(rows[first : first + BATCH]) for first in range(0, len(rows), BATCH)]
        return pd.concat(batches, ignore_index=True)

    def _rows(self, table: pd.DataFrame) -> list[tuple[str, ...]]:
        if self.settings["problem"] == "question-answering":
            columns = ["question", "context"]
        elif len(self.settings["text_columns"]) == 2:
            columns = ["text", "text_pair"]
        else:
            columns = list(table.columns[:1])
            known = ["text", *self.settings["text_columns"]]
            if isinstance(columns[0], str) and columns[0] not in known:
                raise ValueError(f"the first column is {columns[0]!r}; the text belongs there, named {known[-1]!r}")
        if table.empty or table[columns].isna().any(axis=None):
            raise ValueError(f"every row needs text in {columns}, and there must be at least one row")
        for column in columns:
            for row, cell in enumerate(table[column], start=1):
                if not isinstance(cell, str):
                    raise ValueError(
                        f"row {row} of column {column!r} holds a {type(cell).__name__}, not a text; give one text a "
                        "row, as a DataFrame, a Series or a list of texts"
                    )
        return list(table[columns].itertuples(index=False, name=None))

    def _logits(self, rows) -> torch.Tensor:
        encoded = self.inputs.tokenize(self.tokenizer, self.model.config, list(zip(*rows)), self.settings["max_length"])
        return self.model(**self._pad(encoded)).logits

    def _pad(self, encoded) -> dict[str, torch.Tensor]:
        return self.inputs.pad(encoded, self.tokenizer.pad_token_id)

    def _classify(self, rows) -> pd.DataFrame:
        probabilities = self._logits(rows).softmax(-1).numpy()
        names = [self.model.config.id2label[index] for index in range(probabilities.shape[1])]
        best = probabilities.argmax(1)
        return pd.DataFrame(
            {
                "label": [names[index] for index in best],
                "probability": probabilities.max(1).astype(float),
                "probabilities": [json.dumps(dict(zip(names, map(float, row)))) for row in probabilities],
            }
        )

    def _value(self, rows) -> pd.DataFrame:
        return pd.DataFrame({"value": self._logits(rows)[:, 0].double().numpy()})

    def _answer(self, rows) -> pd.DataFrame:
        """The best span over all windows of each context, by the rule of the evaluation."""
        encoded = self.inputs.tokenize_windows(
            self.tokenizer, self.model.config, *zip(*rows), self.settings["max_length"]
        )
        output = self.model(**self._pad(self.inputs.inputs_of(encoded, self.model.config)))
        scores = torch.stack([output.start_logits, output.end_logits], dim=1).numpy()
        answers = [("", -np.inf)] * len(rows)
        for window, row in enumerate(encoded["overflow_to_sample_mapping"]):
            offsets = np.asarray(encoded["offset_mapping"][window])
            outside = [part != 1 for part in encoded.sequence_ids(window)]
            offsets[outside] = -1
            span = self.inputs.best_span(scores[window], offsets)
            if span and span[0] > answers[row][1]:
                answers[row] = (rows[row][1][span[1] : span[2]], span[0])
        return pd.DataFrame(answers, columns=["answer", "score"])


def _load(path):
    """Run ``model_inputs.py`` of this very version, whatever else is importable by that name."""
    loader = SourceFileLoader("fastprune_model_inputs", str(path))
    module = ModuleType(loader.name)
    loader.exec_module(module)
    return module


mlflow.models.set_model(PrunedModel())
