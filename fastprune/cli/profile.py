"""``fastprune profile``."""

from __future__ import annotations

from pathlib import Path

import click

from fastprune.cli.group import command


@command()
@click.argument("model")
@click.option("--batch-size", type=click.IntRange(min=1), default=8)
@click.option("--seq-len", type=click.IntRange(min=1), default=64, help="Tokens of each example; none is padding.")
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), default="float32")
@click.option(
    "--attention", type=click.Choice(["sdpa", "eager"]), help="Attention implementation; by default the model's usual."
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch on a CPU; by default torch decides.")
@click.option("--tolerance", type=float, default=0.02, help="Error allowed between the numbers of filters measured.")
@click.option("--every", is_flag=True, help="Measure every number of filters; takes many times as long.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="JSON file to write.")
def profile(model: str, device: str, dtype: str, output: Path, **settings) -> None:
    """Measure the latency of MODEL's blocks on this device, for compress --constraint latency."""
    import torch

    from fastprune.environment import choose_device
    from fastprune.latency import profiler
    from fastprune.latency.lut import LatencyTable
    from fastprune.model import checkpoint
    from fastprune.store.output import check_file, write_or_keep

    check_file(output, "look-up table", LatencyTable.load)  # before minutes of measuring
    table = profiler.profile(
        checkpoint.load_config(model), device=choose_device(device), dtype=getattr(torch, dtype), **settings
    )
    write_or_keep(output, table.save)
    origin = table.origin
    click.echo(
        f"{table.device}: a layer takes {table.attention_ms[-1] + table.ffn_ms[-1]:.3f} ms, "
        f"{table.attention_ms[-1]:.3f} of it attention and {table.ffn_ms[-1]:.3f} FFN "
        f"(batch {table.batch_size}, {table.seq_len} tokens, {table.dtype}, {table.attention})\n"
        f"{origin['measurements']} blocks measured in {origin['seconds']:.0f} s; written to {output}"
    )
