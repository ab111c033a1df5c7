"""How far predictions are from others."""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax, rel_entr


def class_divergence(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The Kullback-Leibler divergence of logits from other logits, over the last axis."""
    wanted, found = (log_softmax(logits.astype(np.float64), axis=-1) for logits in (wanted, found))
    return (np.exp(wanted) * (wanted - found)).sum(-1)


def yes_or_no_divergence(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The same of logits that each stand for a yes or no of their own."""
    p, q = (1 / (1 + np.exp(-logits.astype(np.float64))) for logits in (wanted, found))
    return rel_entr(p, q) + rel_entr(1 - p, 1 - q)
