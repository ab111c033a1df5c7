"""``fastprune reproduce``: the paper's grid, or one of your own."""

from __future__ import annotations

from pathlib import Path

import click

from fastprune.cli.group import command
from fastprune.errors import InputError, PipelineError


@command()
@click.argument("grid")
@click.option(
    "--output-dir", type=click.Path(path_type=Path), help="Of the results; what is in it already is not made again."
)
@click.option("--local", type=click.Path(path_type=Path), help="YAML with models in place of those of the same names.")
@click.option("--only", multiple=True, help="Names of models of the grid; by default all.")
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
@click.option("--list", "list_only", is_flag=True, help="Say what each model needs and what is done; measure nothing.")
def reproduce(
    grid: str, output_dir: Path | None, local: Path | None, only: tuple[str, ...], device: str, list_only: bool
) -> None:
    """Measure GRID: paper, or a YAML file of models, methods, keep ratios and seeds."""
    from fastprune.reproduce.grid import PAPER, cells_of, needs, read_grid, table
    from fastprune.reproduce.run import go_offline, run

    content = read_grid(PAPER if grid == "paper" else Path(grid), local, only)
    cells = cells_of(content)
    if list_only:
        for model in content.models:
            own = [cell for cell in cells if cell.model == model]
            done = sum(output_dir is not None and cell.result(output_dir) is not None for cell in own)
            click.echo(f"{model.name}: {done} of {len(own)} done; needs {needs(model) or 'nothing from the hub'}")
        return
    if output_dir is None:
        raise InputError("no --output-dir: name a folder for the results, or use --list")
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"{output_dir} is no folder; name another")
    if any(map(needs, content.models)):
        go_offline()
    lacking = run(cells, output_dir, device, click.echo)
    page = table(content, output_dir)
    if len(lacking) < len(content.models):
        (output_dir / f"{content.name}.md").write_text(page, encoding="utf-8")
        click.echo(page)
    if lacking:
        raise PipelineError(
            f"{len(lacking)} of {len(content.models)} models are not measured; give local copies by --local, and run "
            "the same command again:\n" + "\n".join(f"  {name} {why}" for name, why in lacking.items())
        )
