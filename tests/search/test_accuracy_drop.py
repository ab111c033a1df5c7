"""The smallest model within an accuracy drop."""

import pytest
from reviews import compress, reviews

from fastprune import method
from fastprune.data.preparation import hold_back
from fastprune.errors import InputError
from fastprune.search.accuracy_drop import smallest_keep_ratio


@pytest.mark.parametrize("knee", [0.11, 0.37, 0.5, 0.9])
def test_bisection_finds_the_knee(knee):
    passed: list[float] = []
    curve = smallest_keep_ratio(lambda ratio: 0.9 if ratio >= knee else 0.7, 0.9, 0.01, passed=passed.append)
    assert passed == [ratio for ratio, metric in curve.points if metric == 0.9] and passed[-1] == curve.keep_ratio
    assert knee <= curve.keep_ratio <= knee + 0.02
    assert len(curve.points) <= 7
    assert min(ratio for ratio, metric in curve.points if metric >= 0.89) == curve.keep_ratio


def test_the_drop_is_absolute_and_may_be_used_up():
    curve = smallest_keep_ratio(lambda ratio: 0.8 + 0.1 * ratio, 0.9, 0.05, resolution=1e-6)
    assert curve.keep_ratio == pytest.approx(0.5, abs=1e-5)
    assert curve.dense == 0.9


def test_what_may_be_luck_counts_as_lost():
    steps = {"metric_at": lambda ratio: 0.8 + 0.1 * ratio, "dense": 0.9, "max_drop": 0.05, "resolution": 1e-6}
    curve = smallest_keep_ratio(**steps, margin_at=lambda ratio: 0.02)
    assert curve.keep_ratio == pytest.approx(0.7, abs=1e-5) and set(curve.margins) == {0.02}
    with pytest.raises(InputError, match="perhaps 0.0600 more; .* more validation rows"):
        smallest_keep_ratio(**steps, margin_at=lambda ratio: 0.06)


def test_a_drop_that_no_budget_keeps_within():
    with pytest.raises(InputError, match="no budget keeps within.*keep_ratio 0.98.*still loses 0.4"):
        smallest_keep_ratio(lambda ratio: 0.5, 0.9, 0.01)


@pytest.mark.parametrize("least", [0.98, 0.985, 0.9999])
def test_one_ratio_at_least_is_tried(least):
    """Where the smallest possible ratio is nearer to 1 than the resolution."""
    curve = smallest_keep_ratio(lambda ratio: 0.9, 0.9, 0.01, least=least)
    assert curve.points == [((least + 1) / 2, 0.9)] and curve.keep_ratio == (least + 1) / 2
    with pytest.raises(InputError, match=r"no budget keeps within.*still loses 0\.4"):
        smallest_keep_ratio(lambda ratio: 0.5, 0.9, 0.01, least=least)


@pytest.mark.parametrize("least", [1.0, 1 - 2**-53, 1.5, float("nan")])
def test_no_ratio_is_possible(least):
    with pytest.raises(InputError, match="the smallest keep_ratio .* nothing to prune"):
        smallest_keep_ratio(lambda ratio: pytest.fail("tried"), 0.9, 0.01, least=least)


def test_a_metric_that_is_nan_has_lost_too_much():
    nan = float("nan")
    curve = smallest_keep_ratio(lambda ratio: 0.9 if ratio >= 0.6 else nan, 0.9, 0.0)
    assert 0.6 <= curve.keep_ratio < 0.62
    with pytest.raises(InputError, match="still loses nan"):
        smallest_keep_ratio(lambda ratio: nan, 0.9, 0.5)
    with pytest.raises(InputError, match="dense model's metric on the validation rows is NaN"):
        smallest_keep_ratio(lambda ratio: pytest.fail("tried"), nan, 0.5)


@pytest.mark.parametrize("drop", [-0.1, 1, 30, float("nan")])
def test_a_drop_out_of_range(material, drop):
    with pytest.raises(InputError, match="max_accuracy_drop"):
        compress(material, max_accuracy_drop=drop)


def test_rows_are_hold_back():
    table = reviews(50, 3)
    rest, apart = hold_back(table, 0)
    assert (len(rest), len(apart)) == (40, 10)
    assert sorted(rest["text"][:] + apart["text"][:]) == sorted(table["text"][:])
    assert hold_back(table, 0)[1]["text"][:] == apart["text"][:]


@pytest.mark.parametrize("options", [{"selection": "surgeon", "tuning": "weights"}, {}])
def test_compress_within_a_drop(material, options, monkeypatch):
    calls, tune = [], method.tune
    monkeypatch.setattr(method, "tune", lambda *given, **named: calls.append(given) or tune(*given, **named))
    result = compress(material, max_accuracy_drop=0.02, num_samples=128, **options)
    curve = result.metrics["curve"]
    assert result.metrics["keep_ratio"] == curve["keep_ratio"] < 0.9
    allowed = [ratio for ratio, metric in curve["points"] if metric >= curve["dense"] - 0.02]
    assert curve["keep_ratio"] == min(allowed)
    assert len(curve["points"]) == len(calls) == 6  # what has passed is not tuned again
    assert result.metrics["macs_kept"] <= curve["keep_ratio"]
    assert result.manifest["sample_size"] == 128


def test_a_sure_budget_counts_the_margin_of_every_try(material):
    given = {"validation": material / "eval.tsv", "num_samples": 128}
    lucky = compress(material, max_accuracy_drop=0.05, **given).metrics["curve"]
    sure = compress(material, max_accuracy_drop=0.05, confidence=0.95, **given).metrics["curve"]
    assert sure["keep_ratio"] >= lucky["keep_ratio"] and not lucky["margins"]
    tried = zip(sure["points"], sure["margins"], strict=True)
    needed = [(ratio, metric - margin) for (ratio, metric), margin in tried]
    assert sure["keep_ratio"] == min(ratio for ratio, least in needed if least >= sure["dense"] - 0.05)
    assert all(0 < margin < 0.2 for margin in sure["margins"])
    with pytest.raises(InputError, match="confidence goes with max_accuracy_drop"):
        compress(material, keep_ratio=0.5, confidence=0.9)


def test_a_drop_is_measured_on_the_rows_given_for_it(material):
    """Then the sample may be all of the training rows."""
    result = compress(material, max_accuracy_drop=0.02, validation=material / "eval.tsv", num_samples=300)
    assert result.manifest["sample_size"] == 300
    assert result.metrics["curve"]["dense"] == result.metrics["dense"]  # both are measured on eval.tsv
    with pytest.raises(InputError, match="only max_accuracy_drop is measured on it"):
        compress(material, validation=material / "eval.tsv")
