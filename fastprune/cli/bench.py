"""``fastprune bench``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fastprune.cli.group import command
from fastprune.errors import InputError


@command()
@click.argument("folders", nargs=-1, required=True)
@click.option(
    "--eval-file", required=True, type=click.Path(path_type=Path), help="Rows to judge on; batches are of them."
)
@click.option("--text-column", "-A", "text_columns", multiple=True, help="Column of the text; twice for pairs.")
@click.option("--label-column", "-Y", help="Column of the label.")
@click.option("--metric", help="By default the first of the problem's.")
@click.option("--max-length", type=click.IntRange(min=8), help="Cut texts after this many tokens.")
@click.option("--batch-size", "batch_sizes", type=click.IntRange(min=1), multiple=True, default=(1, 8))
@click.option("--batches", type=click.IntRange(min=1), default=20, help="Batches of each size.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, help="How often each is timed.")
@click.option("--threads", type=click.IntRange(min=1), default=1, help="Of every runtime.")
@click.option("--cpu-time", is_flag=True, help="Count the processor's time: for a machine that does other work too.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
@click.option("--html", type=click.Path(path_type=Path), help="Page to write: accuracy against latency.")
def bench(folders: tuple[str, ...], as_json: bool, html: Path | None, **settings) -> None:
    """Measure FOLDERS (dense, pruned, exported) side by side: accuracy, agreement with the first, size, latency."""
    from fastprune.export import bench as measured
    from fastprune.store.output import check_place, write_or_keep

    if html is not None:
        from fastprune.reports.bench import render

        if html.is_dir():
            raise InputError(f"{html} is a folder; name a file")
        check_place(html.parent)
    record = measured.bench(folders, **settings)
    if html is not None:
        text = render(record)
        html.parent.mkdir(parents=True, exist_ok=True)
        write_or_keep(html, lambda place: place.write_text(text, encoding="utf-8"))
    click.echo(json.dumps(record) if as_json else measured.words(record))
