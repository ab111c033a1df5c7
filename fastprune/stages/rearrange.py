"""Swaps within each layer (paper, section 3.3)."""

from __future__ import annotations

import time
from pathlib import Path

from fastprune import method
from fastprune.model.masks import Masks
from fastprune.stages.folders import load_budget, load_information, load_method, save_masks
from fastprune.store.artifacts import makes


@makes("rearranged")
def rearrange(*, importance: Path, chosen: Path, searched: Path, rearranged: Path, table: Path | None = None) -> dict:
    """Rearrange the masks within each layer, if the selection does so; else pass them on.

    Parameters
    ----------
    importance, chosen, searched : Path
    rearranged : Path
        Output: ``masks.safetensors``.
    """
    begin, chosen_method = time.perf_counter(), load_method(importance)
    masks = Masks.load(searched / "masks.safetensors")
    masks = method.rearrange(masks, load_information(importance, chosen_method), chosen_method)
    return save_masks(rearranged, masks, load_budget(importance, table, chosen)[0], "rearrange", begin)
