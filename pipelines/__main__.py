"""``python -m pipelines``: a configuration file, run here or brought to a cluster."""

from pathlib import Path

import click

from fastprune.errors import InputError
from fastprune.pipelines import cluster_cli
from fastprune.pipelines.local_run import PipelineError
from fastprune.sweep.reading import read_config


class _Commands(click.Group):
    def invoke(self, ctx: click.Context):
        try:
            return super().invoke(ctx)
        except InputError as error:
            raise click.UsageError(str(error)) from error
        except PipelineError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands, context_settings={"show_default": True})
def main() -> None:
    """Run a configuration file here, or bring it to a Kubeflow cluster."""


@main.command()
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


@main.command("compile")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--output", default="pipeline.yaml", type=click.Path(path_type=Path))
def compile_command(config: Path, output: Path) -> None:
    """Write the pipeline of CONFIG as YAML for a cluster."""
    from fastprune.pipelines import kubeflow

    kubeflow.compile_pipeline(read_config(config, here=False), output)
    click.echo(f"wrote {output}")


for _command in cluster_cli.COMMANDS:
    main.add_command(_command)


if __name__ == "__main__":
    main()
