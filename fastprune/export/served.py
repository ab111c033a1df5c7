"""A model as it will be served, for whoever judges it before it is: the search for the smallest within a loss."""

from __future__ import annotations

import tempfile
from pathlib import Path

import transformers
from torch import nn

from fastprune.data import Split
from fastprune.method import Served


def as_served(
    format: str, quantize: str, sample: Split, pad_token_id: int, dense: transformers.PreTrainedModel
) -> Served | None:
    """What :func:`fastprune.export.exporting.export` makes of a model, to be run and not kept.

    Parameters
    ----------
    format, quantize : str
        As there; empty where nothing is exported.
    sample : Split
        Rows on which the weights that int8 hurts are found, as there.
    dense : PreTrainedModel
        What the models are pruned from.

    Returns
    -------
    Served or None
        None where nothing is quantised: an export that does not answer as the model itself is refused.
    """
    if not quantize:
        return None

    def of(model: transformers.PreTrainedModel) -> nn.Module:
        from fastprune.export import exporting  # onnx, where it is asked for alone

        rows, before = (sample, exporting.on_cpu(dense)) if quantize == "int8" else (None, None)
        with tempfile.TemporaryDirectory() as made:
            file, *_ = exporting.write_form(
                exporting.on_cpu(model), Path(made), format, quantize, exporting.OPSET, rows, pad_token_id, before
            )
            return exporting.load_runtime(file, model.config)

    return Served(f"{format} {quantize}", of)
