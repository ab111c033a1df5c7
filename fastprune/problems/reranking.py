"""A score for each pair of a query and a passage, by which the passages of a query are ranked: a cross-encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from fastprune.data.ranking import ranking_scores
from fastprune.errors import InputError
from fastprune.model.losses import random_signs
from fastprune.model.model_inputs import longest_input
from fastprune.problem import Problem

_ORDERS = 10
"""Random orders of the passages whose mean metric is that of a model that cannot tell them apart."""


_NOTHING_RANKED = (
    "task {name!r}: no query has more than one passage, so that nothing is ranked; give every query a row for each of "
    "its passages"
)


class Reranking(Problem):
    """Rows of a query and a passage, labelled with how relevant it is, 0 for not at all; equal queries are one."""

    heads = ("ForSequenceClassification",)
    metrics = ("ndcg_at_10", "mrr_at_10")
    num_texts = (2,)
    usual = False
    answers = Path(__file__).with_name("answers") / "reranking.py"

    def takes(self, config):
        return config.num_labels == 1 and getattr(config, "problem_type", None) != "single_label_classification"

    def length(self, config):
        return longest_input(config)

    def encode(self, source, rows, *, labelled, for_evaluation):
        queries, passages = (column.take(rows) for column in source.texts(each=True))
        features = source.tokens([queries, passages])
        if labelled:
            features = features.append_column("labels", source.numbers().take(pa.array(rows)))
        if not for_evaluation:
            return features, None
        return features, pa.table({"query": queries.combine_chunks().dictionary_encode().indices})

    def loss(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Binary cross-entropy of relevant, to whatever degree, against not."""
        logits = outputs.logits.squeeze(-1)
        relevant = (batch["labels"].to(logits.device) > 0).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, relevant, reduction="none")

    def score(
        self, outputs: Any, batch: Mapping[str, Tensor], temperature: float, generator: torch.Generator
    ) -> Tensor:
        """Of the squared distance to the dense model's score, whatever a sigmoid makes of it: the Hessian is one."""
        return (outputs.logits * random_signs(outputs.logits, generator)).sum()

    def measure(self, split, outputs):
        ranked = ranking_scores(_queries(split, np.stack(outputs)[:, 0]))
        return {name: float(ranked[name].mean()) for name in self.metrics}, ranked[split.task.metric]

    def compare(self, split, outputs, dense):
        """Agreement is the part of the pairs of a query's passages that both put into the same order.

        It is of the queries with several passages; the divergence, the squared difference of scores, of all rows.
        """
        one, other = (np.stack(kept)[:, 0].astype(np.float64) for kept in (outputs, dense))
        ranked = [rows for rows in _rows_of_queries(split) if len(rows) > 1]
        if not ranked:
            raise InputError(_NOTHING_RANKED.format(name=split.task.name))
        agreement = []
        for rows in ranked:
            pairs = np.triu_indices(len(rows), 1)
            found, wanted = (np.sign(scores[rows, None] - scores[rows])[pairs] for scores in (one, other))
            agreement.append((found == wanted).mean())
        return np.array(agreement), (one - other) ** 2

    def constant(self, split, num_labels):
        """Of a random order of each query's passages."""
        draw = np.random.default_rng(0)
        orders = (ranking_scores(_queries(split, draw.random(len(split)))) for _ in range(_ORDERS))
        return float(np.mean([order[split.task.metric].mean() for order in orders]))

    def margin(self, metric):
        return 0.01

    def check_evaluation(self, split):
        sizes = np.bincount(split.examples["query"])
        if sizes.max() < 2:
            raise InputError(_NOTHING_RANKED.format(name=split.task.name))
        if not any(label > 0 for label in split.features["labels"]):
            raise InputError(f"task {split.task.name!r}: no passage is relevant to its query; give rows that are")

    def told(self, answers):
        return answers["score"].tolist()

    def expected(self, outputs: Sequence[Sequence[float]]) -> list[float]:
        return [row[0] for row in outputs]


def _queries(split, scores: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each query the scores of its passages, and how relevant they are."""
    labels = np.asarray(split.features["labels"])
    for rows in _rows_of_queries(split):
        yield scores[rows], labels[rows]


def _rows_of_queries(split) -> list[np.ndarray]:
    """Of each query the rows of its passages."""
    query = np.asarray(split.examples["query"])
    order = np.argsort(query, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(query[order])) + 1)


PROBLEM = Reranking()
