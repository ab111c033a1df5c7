"""The span of an answer, against all pairs of tokens."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fastprune.model.model_inputs import MAX_ANSWER_TOKENS, N_BEST, best_span


@settings(deadline=None)
@given(seed=st.integers(0, 1000), length=st.integers(1, N_BEST), outside=st.integers(0, N_BEST))
def test_the_best_of_all_pairs(seed, length, outside):
    scores = np.random.default_rng(seed).normal(size=(2, length + 3)).astype(np.float32)  # three of padding
    offsets = np.array([(3 * place, 3 * place + 2) for place in range(length)])
    offsets[:outside] = -1
    pairs = [
        (scores[0, first] + scores[1, last], 3 * first, 3 * last + 2)
        for first in range(outside, length)
        for last in range(first, length)
    ]
    assert best_span(scores, offsets) == (max(pairs) if pairs else None)


def test_an_answer_is_no_longer_than_the_limit():
    scores = np.zeros((2, 100), dtype=np.float32)
    scores[0, 0], scores[1, [MAX_ANSWER_TOKENS - 1, MAX_ANSWER_TOKENS]] = 9, [5, 9]
    offsets = np.array([(place, place + 1) for place in range(100)])
    assert best_span(scores, offsets) == (14, 0, MAX_ANSWER_TOKENS)
