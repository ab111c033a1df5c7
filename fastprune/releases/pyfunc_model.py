"""The pruned model as MLflow serves it (models from code: MLflow copies this file beside the model).

It needs mlflow, torch and transformers, not fastprune: the model's folder carries the file that sizes its layers.
"""

from __future__ import annotations

import json

import mlflow
import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification, AutoTokenizer

BATCH = 32
MAX_ANSWER_TOKENS = 30


class PrunedModel(mlflow.pyfunc.PythonModel):
    """Texts in, a row of answers each out.

    ``predict`` takes a DataFrame, a Series or a list: one text a row, two named ``text`` and ``text_pair``, or for
    question answering ``question`` and ``context``. It gives ``label``, ``probability`` and ``probabilities``
    (a JSON object by label) for classification, ``value`` for regression, ``answer`` and ``score`` for questions.
    """

    def load_context(self, context):
        folder = context.artifacts["model"]
        self.settings = context.model_config
        answers = self.settings["problem"] == "question-answering"
        auto = AutoModelForQuestionAnswering if answers else AutoModelForSequenceClassification
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.max_length = min(self.settings["max_length"], self.tokenizer.model_max_length)
        self.model = auto.from_pretrained(folder, trust_remote_code=True).eval()

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
        return list(table[columns].astype(str).itertuples(index=False, name=None))

    def _encode(self, rows, **options):
        return self.tokenizer(
            *map(list, zip(*rows)), padding=True, max_length=self.max_length, return_tensors="pt", **options
        )

    def _classify(self, rows) -> pd.DataFrame:
        probabilities = self.model(**self._encode(rows, truncation=True)).logits.softmax(-1).numpy()
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
        return pd.DataFrame({"value": self.model(**self._encode(rows, truncation=True)).logits[:, 0].double().numpy()})

    def _answer(self, rows) -> pd.DataFrame:
        """The best span over all windows of each context."""
        encoded = self._encode(
            rows,
            truncation="only_second",
            stride=min(128, self.max_length // 3),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        windows, offsets = encoded.pop("overflow_to_sample_mapping"), encoded.pop("offset_mapping")
        output = self.model(**encoded)
        answers = [("", -np.inf)] * len(rows)
        for window, row in enumerate(windows.tolist()):
            context = torch.tensor([part == 1 for part in encoded.sequence_ids(window)])
            start = output.start_logits[window].masked_fill(~context, -torch.inf)
            end = output.end_logits[window].masked_fill(~context, -torch.inf)
            spans = start[:, None] + end
            allowed = torch.ones_like(spans, dtype=torch.bool).triu().tril(MAX_ANSWER_TOKENS - 1)
            score, index = spans.masked_fill(~allowed, -torch.inf).flatten().max(0)
            if score > answers[row][1]:
                first, last = divmod(int(index), len(end))
                text = rows[row][1][offsets[window, first, 0] : offsets[window, last, 1]]
                answers[row] = (text, float(score))
        return pd.DataFrame(answers, columns=["answer", "score"])


mlflow.models.set_model(PrunedModel())
