"""The smallest model within a loss of accuracy, instead of the most accurate within a budget of MACs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from fastprune.errors import InputError


@dataclass(frozen=True)
class Curve:
    """Metrics at the keep ratios that were tried.

    Attributes
    ----------
    keep_ratio : float
        The smallest whose metric is within the allowed drop.
    points : list of (keep_ratio, metric)
        In the order in which they were tried.
    dense : float
        The dense model's metric on the same data.
    margins : list of float
        By how much the loss of each may be greater on other rows, where that was asked for.
    form : str
        In which the tries were measured, such as ``onnx int8``; empty where it was the pruned model itself.
    """

    keep_ratio: float
    points: list[tuple[float, float]]
    dense: float
    margins: list[float] = field(default_factory=list)
    form: str = ""


def smallest_keep_ratio(
    metric_at: Callable[[float], float],
    dense: float,
    max_drop: float,
    *,
    margin_at: Callable[[float], float] | None = None,
    passed: Callable[[float], object] | None = None,
    resolution: float = 0.02,
    least: float = 0.0,
    form: str = "",
) -> Curve:
    """Bisect for the smallest keep ratio that loses at most ``max_drop``.

    Parameters
    ----------
    metric_at : callable
        Prunes to a keep ratio and measures the result.
    dense, max_drop : float
        The least metric allowed is ``dense - max_drop``, an absolute difference.
    margin_at : callable, optional
        By how much the loss of a ratio that was just tried may be greater on other rows; it counts as lost.
    passed : callable, optional
        Told of each ratio that is within the drop, right after it was tried; the last of them is the result.
    resolution : float
        Ends when the ratio is known this closely.
    least : float
        No smaller ratio can be pruned to.
    form : str
        In which ``metric_at`` measures, for what is told.

    Returns
    -------
    Curve
        One ratio at least is tried. A ratio whose metric is NaN, as a correlation with constant predictions is, has
        lost too much.

    Raises
    ------
    InputError
        The dense model's metric is NaN, no ratio below 1 can be pruned to, or even the largest ratio tried loses more.
    """
    if math.isnan(dense):
        raise InputError(
            "the dense model's metric on the validation rows is NaN, so no drop from it can be measured; "
            "give validation rows whose labels differ, or another metric"
        )
    if not least < (least + 1) / 2 < 1:
        raise InputError(
            f"the smallest keep_ratio that this model and budget allow is {least:.4g}: there is nothing to prune "
            "within an accuracy drop; measure the look-up table again"
        )
    points: list[tuple[float, float]] = []
    margins: list[float] = []
    low, high = least, 1.0
    while high - low > resolution or not points:
        ratio = (low + high) / 2
        points.append((ratio, metric_at(ratio)))
        if margin_at is not None:
            margins.append(margin_at(ratio))
        needed = dense - max_drop + (margins[-1] if margins else 0)
        if points[-1][1] >= needed:
            high = ratio
            if passed is not None:
                passed(ratio)
        else:
            low = ratio
    if high == 1:
        ratio, metric = points[-1]
        margin = f", and on other rows perhaps {margins[-1]:.4f} more" if margins else ""
        rows = ", or more validation rows" if margins else ""
        served = f" as {form}" if form else ""
        raise InputError(
            f"no budget keeps within an accuracy drop of {max_drop}: keep_ratio {ratio:.3f}{served} still "
            f"loses {dense - metric:.4f}{margin}; allow a greater drop or give a larger sample{rows}"
        )
    return Curve(high, points, dense, margins, form)
