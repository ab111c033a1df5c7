"""``fastprune stage``: what the tasks of Airflow and pods call."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from fastprune.cli.group import command
from fastprune.errors import InputError


@command()
@click.argument("config")
@click.argument("task")
@click.option("--root", required=True, help="Folder or s3:// prefix of this run of the sweep alone.")
@click.option("--device", help="auto, cpu, cuda, cuda:1, ...; by default the config's.")
def stage(config: str, task: str, root: str, device: str | None) -> None:
    """Run one TASK of the sweep in CONFIG, such as tune-sst2-macs-0-6; its inputs must be below the root.

    CONFIG is a file, or env:NAME for a variable that holds a file's content, where there is no file.
    """
    from fastprune.stages.run_node import find_node, run_node
    from fastprune.sweep.reading import parse_config, read_config

    source, _, variable = config.partition(":")
    if source != "env":
        sweep = read_config(config)
    elif variable in os.environ:
        sweep = parse_config(os.environ[variable], Path(variable))
    else:
        raise InputError(f"{config}: the environment has no variable {variable}")
    if device:
        sweep = sweep.model_copy(update={"device": device})
    record = run_node(sweep, find_node(sweep, task), root)
    click.echo(json.dumps(record["metrics"]))
