"""``fastprune run`` and ``fastprune compile``: a configuration file, run here or compiled for a cluster."""

from pathlib import Path

import click

from fastprune.cli.group import command
from fastprune.store.output import check_file
from fastprune.sweep.reading import read_config


@command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--output-dir", required=True, type=click.Path(path_type=Path), help="Must not exist.")
@click.option(
    "--work-dir", default=".cache/pipeline", type=click.Path(path_type=Path), help="For what passes between the steps."
)
def run(config: Path, output_dir: Path, work_dir: Path) -> None:
    """Run the pipeline of CONFIG on this machine."""
    from fastprune.pipelines import local_run

    local_run.run(read_config(config), output_dir, work_dir=work_dir)
    click.echo(f"models, reports and metrics in {output_dir}")


@command("compile")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--output", default="pipeline.yaml", type=click.Path(path_type=Path))
def compile_command(config: Path, output: Path) -> None:
    """Write the pipeline of CONFIG as YAML for a cluster."""
    from fastprune.pipelines import kubeflow
    from fastprune.pipelines.package import read_package

    check_file(output, "compiled pipeline", read_package)
    kubeflow.compile_pipeline(read_config(config, here=False), output)
    click.echo(f"wrote {output}")
