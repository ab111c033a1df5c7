"""What a model made of every evaluation row: one number a row, whose mean is the metric.

From it come the standard error of a metric, and the comparison of two models on the same rows. Accuracy and SQuAD's
scores are means as they are. Of other metrics a row's number is its jackknife pseudo-value, n m - (n - 1) m', where m'
is the metric without the row: their mean is nearly the metric, and their spread gives its standard error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fastprune.errors import InputError
from fastprune.store.bounded import check_regular

OUTCOMES = "outcomes.parquet"
"""The file beside ``metrics.json``."""


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of several models on the same rows.

    Attributes
    ----------
    metric : str
    evaluation_sha256 : str
        Digest of the evaluation rows, in their order.
    values : mapping
        By model (``dense``, ``pruned``): float64 [rows].
    """

    metric: str
    evaluation_sha256: str
    values: Mapping[str, np.ndarray]

    def save(self, folder: Path) -> None:
        """Write ``OUTCOMES`` into a folder."""
        about = {"metric": self.metric, "evaluation_sha256": self.evaluation_sha256}
        columns = {name: np.asarray(rows, dtype=np.float64) for name, rows in self.values.items()}
        pq.write_table(pa.table(columns).replace_schema_metadata(about), folder / OUTCOMES)

    @classmethod
    def load(cls, file: Path) -> Outcomes:
        """Raises InputError for a file that is none."""
        check_regular(file)
        try:
            table = pq.ParquetFile(file).read()
            about = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
            values = {name: table[name].cast(pa.float64()).to_numpy() for name in table.column_names}
            outcomes = cls(about["metric"], about["evaluation_sha256"], values)
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            raise InputError(f"{file}: holds no outcomes of evaluation rows ({error}); evaluate again") from error
        if not values or any(not len(rows) or not np.isfinite(rows).all() for rows in values.values()):
            raise InputError(f"{file}: an outcome is not one finite number for each row; evaluate again")
        return outcomes

    def __or__(self, other: Outcomes) -> Outcomes:
        """The outcomes of both. Raises InputError where they are of other rows or of another metric."""
        check_comparable(self, other)
        return Outcomes(self.metric, self.evaluation_sha256, {**self.values, **other.values})

    @property
    def standard_errors(self) -> dict[str, float | None]:
        """By model; with ``drop``, that of dense minus pruned on the same rows, where both are there."""
        errors = {name: standard_error(rows) for name, rows in self.values.items()}
        if {"dense", "pruned"} <= errors.keys():
            errors["drop"] = standard_error(self.values["dense"] - self.values["pruned"])
        return errors


@dataclass(frozen=True)
class Difference:
    """By how much a metric fell from one model to another, on the same rows.

    Attributes
    ----------
    mean, standard_error : float
    upper : float
        The fall is at most this much, with ``confidence``.
    confidence : float
    rows : int
    """

    mean: float
    standard_error: float
    upper: float
    confidence: float
    rows: int

    def __str__(self) -> str:
        return (
            f"{self.mean:.4g} +- {self.standard_error:.2g}, at most {self.upper:.4g} with confidence "
            f"{self.confidence:g} ({self.rows:,} rows)"
        )


def fall(before: np.ndarray, after: np.ndarray, confidence: float) -> Difference:
    """By how much the metric falls from ``before`` to ``after``, outcomes [rows] of the same rows.

    The interval is that of a paired difference, with half a row added that is lost and half a row that is won (Agresti
    and Min 2005): two models that agree on all of a few rows are not proven equal.
    """
    lost = before - after
    rows = len(lost)
    padded = (lost**2).sum() + 1 - lost.sum() ** 2 / (rows + 2)
    margin = NormalDist().inv_cdf(confidence) * math.sqrt(max(padded, 0)) / (rows + 2)
    mean = float(lost.mean())
    return Difference(mean, standard_error(lost) or 0.0, mean + margin, confidence, rows)


def check_comparable(one: Outcomes, other: Outcomes) -> None:
    """Raise InputError where two sets of outcomes are of other rows, or of another metric."""
    if one.metric != other.metric:
        raise InputError(f"one was evaluated by {one.metric}, the other by {other.metric}; evaluate both by one metric")
    if one.evaluation_sha256 != other.evaluation_sha256:
        raise InputError(
            f"they were evaluated on other rows (evaluation_sha256 {one.evaluation_sha256[:12]} and "
            f"{other.evaluation_sha256[:12]}); evaluate both on the same rows"
        )


def standard_error(rows: np.ndarray) -> float | None:
    """Of the mean of outcomes [rows]; None of a single one."""
    return float(rows.std(ddof=1) / math.sqrt(len(rows))) if len(rows) > 1 else None


def jackknife(
    metric: Callable[[np.ndarray, np.ndarray], float], predictions: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Pseudo-values [rows] of a metric of classes, which is measured once for each pair of prediction and label."""
    whole, rows = metric(predictions, labels), len(labels)
    if rows == 1:
        return np.array([whole])
    _, first, kind = np.unique(np.stack([predictions, labels]), axis=1, return_index=True, return_inverse=True)
    without = np.array([metric(np.delete(predictions, row), np.delete(labels, row)) for row in first])
    return (rows * whole - (rows - 1) * without)[kind.reshape(-1)]


def jackknife_correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pseudo-values [rows] of Pearson's correlation of two columns [rows]; 0 where a column is constant."""
    rows = len(one)
    if rows < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return np.zeros(rows)
    a, b = (column.astype(np.float64) - column.mean(dtype=np.float64) for column in (one, other))
    # With the means of all rows at 0, sums without row i are those of all rows less a_i b_i n / (n - 1).
    part = rows / (rows - 1)
    products, squares_a, squares_b = ((column.sum() - part * column) for column in (a * b, a * a, b * b))
    with np.errstate(divide="ignore", invalid="ignore"):
        without = np.where((squares_a > 0) & (squares_b > 0), products / np.sqrt(squares_a * squares_b), 0.0)
    return rows * (a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()) - (rows - 1) * without


def ratio_of_sums(parts: np.ndarray, wholes: np.ndarray) -> tuple[float, np.ndarray]:
    """The sum of ``parts`` [rows] over that of ``wholes`` [rows], 0 where that is 0, with pseudo-values [rows]."""
    rows = len(parts)
    part, whole = parts.sum(dtype=np.float64), wholes.sum(dtype=np.float64)
    ratio = float(part / whole) if whole else 0.0
    rest = whole - wholes
    without = np.divide(part - parts, rest, out=np.zeros(rows), where=rest > 0)
    return ratio, rows * ratio - (rows - 1) * without


def jackknife_f1(right: np.ndarray, found: np.ndarray, wanted: np.ndarray) -> tuple[float, np.ndarray]:
    """F1 of counts [rows], 0 where nothing is found or wanted, with pseudo-values [rows]."""
    right, found, wanted = (counts.astype(np.float64) for counts in (right, found, wanted))
    return ratio_of_sums(2 * right, found + wanted)


def jackknife_average_precision(scores: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Pseudo-values [rows] of the average precision of ``scores`` [rows] for the rows that are ``wanted`` [rows]."""
    rows, order = len(scores), np.argsort(-scores, kind="stable")
    hits = wanted[order].astype(np.float64)
    rank, seen, total = np.arange(1, rows + 1), hits.cumsum(), hits.sum()
    above = (hits * seen / rank).cumsum() - hits * seen / rank  # of the wanted rows before each
    # Without row j the wanted rows behind it are one rank higher, and have one hit less before them if j was one.
    behind_all, behind_one = (
        np.concatenate([(values[::-1].cumsum()[::-1])[1:], [0]])
        for values in (hits * seen / np.maximum(rank - 1, 1), hits / np.maximum(rank - 1, 1))
    )
    rest = total - hits
    without = np.divide(above + behind_all - hits * behind_one, rest, out=np.zeros(rows), where=rest > 0)
    whole = (hits * seen / rank).sum() / total
    values = np.empty(rows)
    values[order] = rows * whole - (rows - 1) * without
    return values
