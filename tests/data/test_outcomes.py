"""Outcomes of rows: their mean is the metric, their spread its standard error, and two models are compared by them."""

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import f1_score, matthews_corrcoef

from fastprune.data import outcomes
from fastprune.data.outcomes import OUTCOMES, Outcomes, check_comparable, fall, standard_error
from fastprune.errors import InputError

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, 300)
PREDICTIONS = np.where(RNG.random(300) < 0.8, LABELS, 1 - LABELS)


def bootstrap_error(metric, *columns):
    draws = np.random.default_rng(1).integers(0, len(columns[0]), (400, len(columns[0])))
    return np.std([metric(*(column[draw] for column in columns)) for draw in draws])


@pytest.mark.parametrize("metric", [f1_score, matthews_corrcoef])
def test_pseudo_values_of_classes_have_the_metric_and_its_spread(metric):
    def measured(predictions, labels):
        return metric(labels, predictions)

    rows = outcomes.jackknife(measured, PREDICTIONS, LABELS)
    slow = [
        300 * measured(PREDICTIONS, LABELS) - 299 * measured(*(np.delete(c, row) for c in (PREDICTIONS, LABELS)))
        for row in range(20)
    ]
    assert rows[:20] == pytest.approx(slow)
    assert rows.mean() == pytest.approx(measured(PREDICTIONS, LABELS), abs=1e-3)
    assert standard_error(rows) == pytest.approx(bootstrap_error(measured, PREDICTIONS, LABELS), rel=0.15)


def test_pseudo_values_of_a_correlation():
    scores = LABELS + RNG.normal(0, 1, 300)
    rows = outcomes.jackknife_correlation(scores, LABELS)
    whole = pearsonr(scores, LABELS).statistic
    slow = [300 * whole - 299 * pearsonr(np.delete(scores, row), np.delete(LABELS, row)).statistic for row in range(20)]
    assert rows[:20] == pytest.approx(slow)
    assert rows.mean() == pytest.approx(whole, abs=1e-3)
    assert not outcomes.jackknife_correlation(np.ones(9), np.arange(9)).any()


def test_the_interval_holds_the_true_fall_as_often_as_it_says():
    rng, misses = np.random.default_rng(2), 0
    for _ in range(2000):
        before = rng.random(500) < 0.9
        after = np.where(rng.random(500) < 0.1, rng.random(500) < 0.6, before)  # a true fall of 0.03
        misses += fall(before.astype(float), after.astype(float), 0.95).upper < 0.03
    assert 0.03 < misses / 2000 < 0.07


def test_agreement_on_few_rows_proves_little():
    same = np.ones(20)
    assert fall(same, same, 0.95).mean == 0 and 0.05 < fall(same, same, 0.95).upper < 0.1
    many = np.ones(5000)
    assert fall(many, many, 0.95).upper < 0.001
    assert "0 +- 0, at most 0.0" in str(fall(many, many, 0.95)) and "5,000 rows" in str(fall(many, many, 0.95))


def test_saved_and_read_back(tmp_path):
    told = Outcomes("accuracy", "ab" * 32, {"dense": np.array([1.0, 0, 1]), "pruned": np.array([1.0, 0, 0])})
    told.save(tmp_path)
    again = Outcomes.load(tmp_path / OUTCOMES)
    assert (again.metric, again.evaluation_sha256) == (told.metric, told.evaluation_sha256)
    assert {name: rows.tolist() for name, rows in again.values.items()} == {"dense": [1, 0, 1], "pruned": [1, 0, 0]}
    assert again.standard_errors["drop"] == pytest.approx(1 / 3)
    (tmp_path / OUTCOMES).write_bytes(b"{}")
    with pytest.raises(InputError, match="holds no outcomes"):
        Outcomes.load(tmp_path / OUTCOMES)


@pytest.mark.parametrize(
    "other, words", [(("f1", "a"), "by accuracy, the other by f1"), (("accuracy", "b"), "other rows")]
)
def test_other_rows_are_not_compared(other, words):
    row = {"pruned": np.ones(3)}
    with pytest.raises(InputError, match=words):
        check_comparable(Outcomes("accuracy", "a", row), Outcomes(*other, row))
