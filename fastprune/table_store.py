"""Where a team keeps look-up tables: a folder or an ``s3://`` prefix, a file per device and shape."""

from __future__ import annotations

import torch

from fastprune import storage
from fastprune.architectures import Encoder
from fastprune.lut import LatencyTable, table_key
from fastprune.profiler import profile
from fastprune.timing import device_name


def stored_table(root: str, encoder: Encoder, device: torch.device, *, batch_size: int,
                 seq_len: int) -> tuple[LatencyTable, str]:
    """The table of this device for an encoder's shape: the store's, or one measured now and left there for others.

    Of two that measure at once, the first to finish is taken by both.

    Parameters
    ----------
    root : str
        The store; empty measures and keeps nothing.
    encoder : Encoder
    device : torch.device
    batch_size, seq_len : int

    Returns
    -------
    table : LatencyTable
    origin : str
        Where it is from, in words.
    """
    config = encoder.model.config
    key = table_key(device_name(device), torch.get_num_threads() if device.type == "cpu" else 0, encoder.hidden_size,
                    encoder.num_heads, encoder.num_filters, batch_size, seq_len, "float32",
                    config._attn_implementation) + ".json"
    store = storage.open_store(root) if root else None
    if store and (content := store.read(key)) is not None:
        return LatencyTable.parse(content, f"{root}/{key}"), f"{root}/{key}"
    table = profile(config, batch_size=batch_size, seq_len=seq_len, device=device,
                    attention=config._attn_implementation)
    if store and not store.create(key, table.content):
        return LatencyTable.parse(store.read(key), f"{root}/{key}"), f"{root}/{key}"
    return table, "measured now"
