"""A vector for each text, as sentence-transformers has it, without labels: the dense model's vectors are the target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from fastprune.data.outcomes import jackknife_correlation
from fastprune.data.ranking import RANDOM, average_precision_rows, ranking_scores
from fastprune.errors import InputError
from fastprune.model.losses import random_signs
from fastprune.model.model_inputs import longest_input
from fastprune.model.sentence import DOCUMENTS, embedding_of, lowercases
from fastprune.problem import Problem
from fastprune.settings import COSINE_TO_DENSE, RANKINGS

_ROLES = (("query",), ("document", "passage", "corpus"))
"""Prompts of queries and of passages, by the names that sentence-transformers looks for."""

_QUERIES = 256
"""Queries whose similarities to all passages are held at once."""


@dataclass(frozen=True)
class Embedded:
    """The vectors of a batch [B, D], of length one where they are compared by their cosine."""

    vectors: Tensor
    tokens: Tensor


class Embedding(Problem):
    """Every text is an example. Evaluation rows are pairs of texts with a score, or of a query and its passage.

    Of the text columns that are named each table has some: the sample takes the texts of all that it has, an evaluation
    is of two.
    """

    heads = ("Model",)
    metrics = (
        "spearman",
        "average_precision",
        "ndcg_at_10",
        "mrr_at_10",
        "recall_at_10",
        "recall_at_1",
        "cosine_to_dense",
    )
    num_texts = (1, 2, 3)
    loss_reads_labels = False
    answers = Path(__file__).with_name("answers") / "embedding.py"

    def takes(self, config):
        return bool(embedding_of(config))

    def read_positions(self, config):
        return "first" if embedding_of(config)["pooling"] == "cls" else "every"

    def length(self, config):
        return embedding_of(config)["max_length"] or longest_input(config)

    def usual_metric(self, label_column):
        return self.metrics[0] if label_column else COSINE_TO_DENSE

    def needs_label(self, metric):
        """A query and its passage in one row belong together unless a label says otherwise."""
        return metric not in (*RANKINGS, COSINE_TO_DENSE)

    def texts_in(self, table, text_columns):
        """One at least."""
        return [name for name in text_columns if name in table.column_names] or list(text_columns)

    def examples_in(self, table, task):
        return len(table) * len(self.texts_in(table, task.text_columns))

    def rows_of(self, table, text_columns):
        return ((text,) for name in self.texts_in(table, text_columns) for text in table[name])

    def served(self, text_columns):
        return list(text_columns[:1])

    def row_outputs(self, model, tokenizer, texts, max_length):
        prompt = embedding_of(model.config)["prompt"]
        return super().row_outputs(model, tokenizer, [prompt + text for text in texts], max_length)

    def encode(self, source, rows, *, labelled, for_evaluation):
        _check_case(source)
        names = self.texts_in(source.table, source.task.text_columns)
        prompts = _prompts(source.task.metric, source.config, len(names))
        columns = [
            pa.chunked_array([[prompt + text for text in column.to_pylist()]], pa.string())
            for prompt, column in zip(prompts, source.texts(names, each=True), strict=True)
        ]
        if not for_evaluation or source.task.metric == COSINE_TO_DENSE:
            rows = (
                rows
                if not for_evaluation
                else np.concatenate([rows * len(names) + place for place in range(len(names))])
            )
            numbers, places = np.divmod(rows, len(names))
            texts = np.array([column.to_pylist() for column in columns], dtype=object)[places, numbers]
            return source.tokens([pa.chunked_array([texts.tolist()], pa.string())]), None
        if len(names) != 2:
            raise InputError(
                f"{source.name}: has {len(names)} of the text columns {', '.join(source.task.text_columns)}; an "
                "evaluation is of pairs: name two columns of its"
            )
        texts = pa.chunked_array([chunk for column in columns for chunk in column.take(rows).chunks])
        unique = texts.combine_chunks().dictionary_encode()
        first, second = np.split(unique.indices.to_numpy(), 2)
        examples = {"first": first, "second": second}
        if source.task.label_column:
            examples["label"] = source.numbers().take(pa.array(rows))
        return source.tokens([pa.chunked_array([unique.dictionary])]), pa.table(examples)

    def run(self, model, batch):
        how = embedding_of(model.config)
        how = {**how, "normalize": how["normalize"] or how["similarity"] == "cosine"}
        states = super().run(model, batch).last_hidden_state
        ids, mask = (batch[name].to(states.device) for name in ("input_ids", "attention_mask"))
        return Embedded(embed(states, mask, how), ids * mask)

    def loss(self, outputs: Embedded, batch: Mapping[str, Tensor]) -> Tensor:
        """The vector along random signs of each text's own.

        The distance to the dense model's vector has no gradient at the dense model. Over the signs the gradient of this
        has the second moments of all of the vector's numbers, which are the curvature of that distance.
        """
        signs = torch.empty_like(outputs.vectors)
        for row, tokens in enumerate(outputs.tokens.sum(1).tolist()):
            signs[row] = random_signs(outputs.vectors[row], torch.Generator().manual_seed(int(tokens)))
        return (outputs.vectors * signs).sum(-1)

    def score(self, outputs: Embedded, batch, temperature: float, generator: torch.Generator) -> Tensor:
        """Of half the squared distance to the dense model's vectors, whose Hessian is one."""
        return (outputs.vectors * random_signs(outputs.vectors, generator)).sum()

    def outputs(self, outputs: Embedded) -> Tensor:
        return outputs.vectors

    def measure(self, split, outputs):
        from scipy.stats import rankdata, spearmanr  # half a second
        from sklearn.metrics import average_precision_score

        vectors, examples, metric = np.stack(outputs), split.examples, split.task.metric
        if metric in RANKINGS:
            ranked = ranking_scores(_rankings(vectors, examples))
            return {name: float(rows.mean()) for name, rows in ranked.items()}, ranked[metric]
        self.check_evaluation(split)  # of labels other than 0 and 1 there is no average precision
        similarities = (vectors[examples["first"]] * vectors[examples["second"]]).sum(1)
        labels = np.asarray(examples["label"])
        metrics = {"spearman": float(spearmanr(similarities, labels).statistic)}
        if set(labels) == {0, 1}:
            metrics["average_precision"] = float(average_precision_score(labels, similarities))
        if metric == "spearman":
            return metrics, jackknife_correlation(rankdata(similarities), rankdata(labels))
        return metrics, average_precision_rows(similarities, labels)

    def beside_dense(self, metric):
        return metric == COSINE_TO_DENSE

    def likeness(self, split, outputs, dense):
        pairs = torch.tensor(np.stack(outputs)), torch.tensor(np.stack(dense))
        cosines = torch.nn.functional.cosine_similarity(*pairs, dim=-1).double().numpy()
        return {COSINE_TO_DENSE: float(cosines.mean())}, cosines

    def check_evaluation(self, split):
        if split.task.metric in RANKINGS:
            if "label" in split.examples.column_names and not any(label > 0 for label in split.examples["label"]):
                raise InputError(f"task {split.task.name!r}: no passage is relevant to its query; give rows that are")
        elif split.task.metric == "average_precision" and set(split.examples["label"]) != {0, 1}:
            raise InputError(
                f"task {split.task.name!r}: average_precision is of labels 0 and 1, both of them; use spearman for "
                "other scores"
            )

    def constant(self, split, num_labels):
        """Of vectors that are all the same: the rankings are then by chance."""
        if split.task.metric in RANKINGS:
            passages = len(set(split.examples["second"]))
            return min(RANDOM[split.task.metric] / passages, 1.0)
        if split.task.metric != "average_precision":
            return 0.0
        return float((np.asarray(split.examples["label"]) > 0).mean())

    def margin(self, metric):
        return 0.01

    def told(self, answers):
        return _directions(answers["embedding"].tolist())

    def expected(self, outputs: Sequence[Sequence[float]]) -> list[float]:
        return _directions(outputs)


def embed(states: Tensor, mask: Tensor, how: Mapping[str, Any]) -> Tensor:
    """The vectors [B, D] of texts from the last layer's states [B, T, D] of their tokens, which ``mask`` [B, T] marks.

    ``how`` has ``pooling`` ("mean", "cls" or "max") and ``normalize``. Padding stands on the right.
    """
    if how["pooling"] == "cls":
        vectors = states[:, 0]
    elif how["pooling"] == "max":
        vectors = states.masked_fill(mask[..., None] == 0, float("-inf")).max(1).values
    else:
        weights = mask[..., None].to(states)
        vectors = (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
    return torch.nn.functional.normalize(vectors, dim=-1) if how["normalize"] else vectors


def _rankings(vectors: np.ndarray, examples) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each query the similarities of all passages, and how relevant each is."""
    first, second = np.asarray(examples["first"]), np.asarray(examples["second"])
    gains = np.asarray(examples["label"]) if "label" in examples.column_names else np.ones(len(first))
    queries, query = np.unique(first, return_inverse=True)
    passages, passage = np.unique(second, return_inverse=True)
    order = np.argsort(query, kind="stable")
    bounds = np.searchsorted(query[order], np.arange(len(queries) + 1))
    for begin in range(0, len(queries), _QUERIES):
        similarities = vectors[queries[begin : begin + _QUERIES]] @ vectors[passages].T
        for number, scores in enumerate(similarities, start=begin):
            rows = order[bounds[number] : bounds[number + 1]]
            relevance = np.zeros(len(passages))
            relevance[passage[rows]] = gains[rows]
            yield scores, relevance


def _directions(vectors: Sequence[Sequence[float]]) -> list[float]:
    rows = torch.tensor(vectors, dtype=torch.float64)
    return torch.nn.functional.normalize(rows, dim=-1).flatten().tolist()


def _prompts(metric: str, config, columns: int) -> list[str]:
    """What stands before the texts of each column: queries and passages have their own where rankings are judged."""
    how = embedding_of(config)
    if metric not in RANKINGS or columns != 2:
        return [how["prompt"]] * columns
    return [next((how["prompts"][name] for name in names if name in how["prompts"]), how["prompt"]) for names in _ROLES]


def _check_case(source) -> None:
    """sentence-transformers may make texts lower case before a tokenizer that would not."""
    asked = lowercases(getattr(source.config, DOCUMENTS, {}))
    if asked and source.tokenizer.tokenize("A Text") != source.tokenizer.tokenize("a text"):
        raise InputError(
            "do_lower_case is set for sentence-transformers, and the tokenizer keeps capital letters; save the model "
            "again with sentence-transformers 3 or newer, or with a tokenizer that makes them small"
        )


PROBLEM = Embedding()
