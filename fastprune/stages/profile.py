"""The look-up table of a latency budget (paper, section 3.1)."""

from __future__ import annotations

import time
from pathlib import Path

from fastprune.environment import choose_device
from fastprune.latency.lut import LatencyTable
from fastprune.latency.table_store import stored_table
from fastprune.model.architectures import describe
from fastprune.settings import Precision
from fastprune.stages.folders import load_model, write_record
from fastprune.store import copies
from fastprune.store.artifacts import makes
from fastprune.store.output import new_folder


@makes("table", reads=("lut",))
def profile(
    *,
    model: Path,
    table: Path,
    lut: str = "",
    lut_store: str = "",
    latency_batch_size: int = 8,
    latency_seq_len: int = 64,
    latency_dtype: Precision = "float32",
    device: str = "auto",
) -> dict:
    """Get the look-up table of this device for a latency budget: the given one, the store's, or a new one.

    Parameters
    ----------
    model : Path
    table : Path
        Output: ``lut.json``.
    lut : str
        A table that was measured before.
    lut_store : str
        A folder or an ``s3://`` prefix where tables are kept by device and shape, so that a team measures each once.
    latency_batch_size, latency_seq_len : int
        Shape of the batch to measure with, see :func:`fastprune.latency.profiler.profile`.
    latency_dtype : str
        The precision that the model will be served in.
    """
    begin = time.perf_counter()
    encoder = describe(load_model(model, "cpu"))
    if lut:
        measured, origin = LatencyTable.load(copies.local(lut)), lut
    else:
        measured, origin = stored_table(
            lut_store,
            encoder,
            choose_device(device),
            batch_size=latency_batch_size,
            seq_len=latency_seq_len,
            dtype=latency_dtype,
        )
    measured.check_shape(encoder)
    with new_folder(table) as folder:
        measured.save(folder / "lut.json")
        return write_record(
            folder,
            "profile",
            begin,
            {"latency_ms_dense": measured.dense_ms(encoder.num_layers)},
            {"lut": measured.key, "lut_from": origin},
        )
