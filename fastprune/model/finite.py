"""Refuses what a model made of the sample where it is no number."""

from __future__ import annotations

from torch import Tensor

from fastprune.errors import InputError


def check_finite(values: Tensor, what: str, where: str) -> None:
    """Raise InputError unless ``values``, taken from ``what`` (activations or gradients) at ``where``, are finite.

    Callers pass sums that they have anyway, such as second moments, so that no activation is looked at twice: NaN and
    infinity stay in every sum.
    """
    if not values.isfinite().all():
        raise InputError(
            f"the {what} of the sample at {where} are not finite, or too large to be squared in float32; check the "
            "dense model's predictions on the sample, and fine-tune it again if they are not sound"
        )
