"""``fastprune sync``: what MLflow could not be told, told; runs whose process is gone, closed."""

from __future__ import annotations

import click

from fastprune.cli.answers import Answer, release_command
from fastprune.tracking import mlflow_store


@release_command
@click.option("--root", default="", help="As of `fastprune stage`; by default what the runs of this machine have left.")
def sync(root: str, uri: str) -> Answer:
    """Send MLflow what could not be tracked, each thing once, and close the runs whose process is gone."""
    from fastprune.tracking import sync as kept
    from fastprune.tracking.spool import Spool, place

    with mlflow_store.explained(uri):
        sent = kept.send_kept(uri, Spool.open(place(root)))
        sent.closed = kept.close_orphans(mlflow_store.connect(uri))
    return Answer(vars(sent), kept.told(sent), 1 if sent.left else 0)
