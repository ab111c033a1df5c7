"""How well scores rank: of the passages of each query, and of pairs that are labelled."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fastprune.settings import RANKINGS

DEPTH = 10
"""Passages of a query that are looked at."""

RANDOM = {"ndcg_at_10": 4.54, "mrr_at_10": 2.93, "recall_at_10": 10.0, "recall_at_1": 1.0}
"""What a random order of passages reaches, times their number, where one of them is relevant."""


def ranking_scores(queries: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """What each query's ranking is worth, by the names of ``RANKINGS``.

    Parameters
    ----------
    queries
        Of each query the scores of its passages [passages] and how relevant each is [passages], 0 for not at all. A
        query without a relevant passage gets 0.

    Returns
    -------
    dict of ndarray [queries]
        The gain in nDCG is the relevance itself, as in trec_eval and scikit-learn.
    """
    rows = [_ranking_of(scores, relevance) for scores, relevance in queries]
    return dict(zip(RANKINGS, np.array(rows, dtype=np.float64).reshape(-1, len(RANKINGS)).T, strict=True))


def _ranking_of(scores: np.ndarray, relevance: np.ndarray) -> tuple[float, float, float, float]:
    """nDCG, the reciprocal rank, and the parts of the relevant passages among the first 10 and 1."""
    relevant = np.count_nonzero(relevance > 0)
    if not relevant:
        return 0.0, 0.0, 0.0, 0.0
    found = relevance[np.argsort(-scores, kind="stable")[:DEPTH]]  # by score
    best = -np.sort(-relevance)[:DEPTH]
    discounts = 1 / np.log2(np.arange(len(found)) + 2)
    places = np.flatnonzero(found > 0)
    return (
        float((found * discounts).sum() / (best * discounts).sum()),
        1 / (places[0] + 1) if len(places) else 0.0,
        len(places) / relevant,
        np.count_nonzero(places == 0) / relevant,
    )


def average_precision_rows(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Pseudo-values [pairs] of the average precision of labels 0 and 1: their mean is nearly the metric.

    Without a pair the precision at each positive below it is that of one place less; prefix sums give all of them.
    """
    order = np.argsort(-scores, kind="stable")
    positive = labels[order] > 0
    count, total, places = len(order), int(positive.sum()), np.arange(1, len(order) + 1)
    hits = positive.cumsum()
    if total < 2 or count < 3:
        return np.full(count, float((hits / places)[positive].mean()) if total else 0.0)

    def after(values: np.ndarray) -> np.ndarray:
        """Of the positives that stand behind each place."""
        sums = np.where(positive, values, 0.0).cumsum()
        return sums[-1] - sums

    before = np.where(positive, hits / places, 0.0).cumsum()
    whole = before[-1] / total
    less = np.maximum(places - 1, 1)
    without = before - np.where(positive, hits / places, 0.0) + after(hits / less) - positive * after(1 / less)
    rows = np.empty(count)
    rows[order] = count * whole - (count - 1) * without / (total - positive)
    return rows
