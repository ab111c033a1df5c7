"""Where a team keeps look-up tables: a folder or an ``s3://`` prefix, a file per device and shape."""

from __future__ import annotations

import torch

from fastprune.environment import device_name, usable_threads
from fastprune.errors import InputError
from fastprune.latency.lut import LatencyTable, table_key
from fastprune.latency.profiler import profile
from fastprune.model.architectures import Encoder
from fastprune.store import storage


def stored_table(
    root: str, encoder: Encoder, device: torch.device, *, batch_size: int, seq_len: int, dtype: str = "float32"
) -> tuple[LatencyTable, str]:
    """The table of this device for an encoder's shape: the store's, or one measured now and stored there for others.

    Of two processes that measure at the same time, both take the table of the first to finish.

    Parameters
    ----------
    root : str
        The store; empty measures and keeps nothing.
    encoder : Encoder
    device : torch.device
    batch_size, seq_len : int
    dtype : str
        What the model will be served in.

    Returns
    -------
    table : LatencyTable
    origin : str
        Where it is from, in words.

    Raises
    ------
    InputError
        What is stored there is no look-up table, or that of another device or shape, or it was removed meanwhile.
    """
    config = encoder.model.config
    key = (
        table_key(
            device_name(device),
            usable_threads() if device.type == "cpu" else 0,
            encoder.hidden_size,
            encoder.num_heads,
            encoder.num_filters,
            batch_size,
            seq_len,
            dtype,
            config._attn_implementation,
        )
        + ".json"
    )
    store = storage.open_store(root) if root else None
    content = store.read(key) if store else None
    if content is None:
        table = profile(
            config,
            batch_size=batch_size,
            seq_len=seq_len,
            device=device,
            dtype=getattr(torch, dtype),
            attention=config._attn_implementation,
        )
        if not store or store.create(key, table.content):
            return table, "measured now"
        content = store.read(key)
        if content is None:
            raise InputError(f"{root}/{key}: the table that another process left there is gone; run this again")
    found = LatencyTable.parse(content, f"{root}/{key}")
    if f"{found.key}.json" != key:
        raise InputError(f"{root}/{key}: holds the table of {found.key}; remove it, and it is measured again")
    return found, f"{root}/{key}"
