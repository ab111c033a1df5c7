"""The best heads and filters within the budget (paper, algorithm 1)."""

from __future__ import annotations

import time
from pathlib import Path

from fastprune import method
from fastprune.stages.folders import load_budget, load_importance, save_masks
from fastprune.store.artifacts import makes


@makes("searched")
def search(*, importance: Path, chosen: Path, searched: Path, table: Path | None = None) -> dict:
    """Search the masks under the budget.

    Parameters
    ----------
    importance, chosen : Path
    searched : Path
        Output: ``masks.safetensors``.
    """
    begin = time.perf_counter()
    cost, keep_ratio = load_budget(importance, table, chosen)
    masks = method.search(cost, load_importance(importance), keep_ratio)
    return save_masks(searched, masks, cost, "search", begin, {"keep_ratio": keep_ratio, **cost.record})
