"""The commands of a configuration file: ``fastprune run | compile``, and a cluster's.

The latter are in :mod:`fastprune.pipelines.cluster_cli`. kfp is imported where a command
needs it: ``--help`` answers at once.
"""

from __future__ import annotations

from pathlib import Path

import click

from fastprune.pipelines import cluster_cli

_config = click.argument("config", type=click.Path(path_type=Path))


@click.command()
@_config
@click.option("--output-dir", required=True, type=click.Path(path_type=Path), help="Must not exist.")
@click.option(
    "--work-dir", default=".cache/pipeline", type=click.Path(path_type=Path), help="For what passes between the steps."
)
def run(config: Path, output_dir: Path, work_dir: Path) -> None:
    """Run the pipeline of CONFIG on this machine."""
    from fastprune.pipelines import local_run
    from fastprune.sweep.reading import read_config

    try:
        local_run.run(read_config(config), output_dir, work_dir=work_dir)
    except local_run.PipelineError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"models, reports and metrics in {output_dir}")


@click.command("compile")
@_config
@click.option("--output", default="pipeline.yaml", type=click.Path(path_type=Path))
def compile_command(config: Path, output: Path) -> None:
    """Write the pipeline of CONFIG as YAML for a cluster."""
    from fastprune.pipelines import kubeflow
    from fastprune.sweep.reading import read_config

    kubeflow.compile_pipeline(read_config(config, here=False), output)
    click.echo(f"wrote {output}")


COMMANDS = (run, compile_command, *cluster_cli.COMMANDS)
