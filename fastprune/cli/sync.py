"""``fastprune sync``: what MLflow could not be told, told; runs whose process is gone, closed."""

from __future__ import annotations

import click

from fastprune.cli.group import command
from fastprune.errors import PipelineError
from fastprune.tracking import mlflow_store


@command()
@click.option("--root", default="", help="As of `fastprune stage`; by default what the runs of this machine have left.")
@click.option("--tracking-uri", default="", help="MLflow store; else MLFLOW_TRACKING_URI, else mlflow.db here.")
def sync(root: str, tracking_uri: str) -> None:
    """Send MLflow what could not be tracked, each thing once, and close the runs whose process is gone."""
    from fastprune.tracking import sync as kept
    from fastprune.tracking.spool import Spool, place

    uri = tracking_uri or mlflow_store.tracking_uri()
    with mlflow_store.explained(uri):
        sent = kept.send_kept(uri, Spool.open(place(root)))
        sent.closed = kept.close_orphans(mlflow_store.connect(uri))
    if sent.left:
        raise PipelineError(kept.told(sent))
    click.echo(kept.told(sent))
