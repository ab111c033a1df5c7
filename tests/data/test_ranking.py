"""Rankings against scikit-learn, and against what is worked out by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score

from fastprune.data.ranking import average_precision_rows, ranking_scores

RANDOM = np.random.default_rng(0)


def test_ndcg_is_that_of_scikit_learn():
    queries = [
        (RANDOM.normal(size=size), RANDOM.integers(0, 4, size) * (RANDOM.random(size) < 0.5)) for size in range(2, 40)
    ]
    for (scores, relevance), found in zip(queries, ranking_scores(queries)["ndcg_at_10"], strict=True):
        assert found == pytest.approx(ndcg_score([relevance], [scores], k=10) if relevance.any() else 0)


@pytest.mark.parametrize(
    "relevance, reciprocal, first_ten, first",
    [
        ([1, 0, 0], 1, 1, 1),
        ([0, 0, 2], 1 / 3, 1, 0),
        ([1, 1, 0], 1, 1, 0.5),
        ([0, 0, 0], 0, 0, 0),
        ([0] * 10 + [1], 0, 0, 0),
        ([0] * 9 + [1, 1], 0.1, 0.5, 0),
        ([3], 1, 1, 1),
    ],
)
def test_by_hand(relevance, reciprocal, first_ten, first):
    relevance = np.array(relevance)
    found = ranking_scores([(-np.arange(len(relevance)), relevance)])
    assert found["mrr_at_10"] == pytest.approx([reciprocal])
    assert found["recall_at_10"] == [first_ten]
    assert found["recall_at_1"] == [first]


def test_pseudo_values_of_average_precision():
    scores, labels = RANDOM.normal(size=50), RANDOM.integers(0, 2, 50)
    whole = average_precision_score(labels, scores)
    without = [average_precision_score(np.delete(labels, row), np.delete(scores, row)) for row in range(50)]
    np.testing.assert_allclose(average_precision_rows(scores, labels), 50 * whole - 49 * np.array(without))


@pytest.mark.parametrize("labels", [[0, 1], [1, 0, 0], [0, 0, 0]])
def test_pseudo_values_of_too_few_pairs(labels):
    scores = -np.arange(len(labels))
    expected = average_precision_score(labels, scores) if any(labels) else 0.0
    assert average_precision_rows(scores, np.array(labels)) == pytest.approx([expected] * len(labels))
