"""Look-up tables with given times."""

from dataclasses import replace

import torch
from tiny_models import build

from fastprune.environment import device_name
from fastprune.latency import table_store
from fastprune.latency.lut import LatencyTable
from fastprune.model.architectures import describe

CPU = torch.device("cpu")


def make_table(attention, ffn, overhead=0.0, hidden=64):
    return LatencyTable(
        list(map(float, attention)), list(map(float, ffn)), overhead, hidden, 8, 32, "float32", "sdpa", "a device"
    )


def profile_twice(root, monkeypatch):
    """One table per shape is measured, whoever asks; also used with a store in S3."""
    encoder, calls = describe(build()), []

    def profile(config, *, batch_size, seq_len, **options):
        calls.append(options)
        return replace(
            make_table(range(1, 6), range(1, 26), hidden=16),
            batch_size=batch_size,
            seq_len=seq_len,
            device=device_name(CPU),
            threads=torch.get_num_threads(),
        )

    monkeypatch.setattr(table_store, "profile", profile)
    shape = {"batch_size": 2, "seq_len": 8}
    first, origin = table_store.stored_table(root, encoder, CPU, **shape)
    assert origin == "measured now" and len(calls) == 1
    again, origin = table_store.stored_table(root, encoder, CPU, **shape)
    assert again == first and origin.startswith(root) and len(calls) == 1
    table_store.stored_table(root, encoder, CPU, batch_size=4, seq_len=8)
    table_store.stored_table("", encoder, CPU, **shape)
    assert len(calls) == 3
