"""What a grid is: models, methods, keep ratios and seeds, read from YAML; and its cells on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated

from pydantic import Field, model_validator

from fastprune.errors import InputError
from fastprune.settings import Method
from fastprune.store.bounded import CONFIG_BYTES, decode, read_bytes, read_json
from fastprune.store.partials import partial_file
from fastprune.sweep.config import Model, Section
from fastprune.sweep.reading import validated, with_files

PAPER = Path(__file__).with_name("paper.yaml")


class Grid(Section):
    """Every model by every method at every keep ratio and seed."""

    name: str
    models: list[Model] = Field(min_length=1)
    methods: dict[str, Method] = Field(min_length=1)
    keep_ratios: list[Annotated[float, Field(gt=0, lt=1)]] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    num_samples: int = Field(2048, ge=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Grid:
        _check_unique(self.models)
        return self


class Local(Section):
    """Models that stand in for those of the same names in a grid."""

    models: list[Model] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Local:
        _check_unique(self.models)
        return self


@dataclass(frozen=True)
class Cell:
    """One result: a model by a method at a keep ratio and a seed."""

    model: Model
    method: str
    settings: Method
    keep_ratio: float
    seed: int
    num_samples: int

    @property
    def made_of(self) -> dict:
        """What the result depends on; one that was made of something else is made again."""
        return {
            "model": self.model.model_dump(),
            "method": asdict(self.settings),
            "keep_ratio": self.keep_ratio,
            "seed": self.seed,
            "num_samples": self.num_samples,
        }

    def file(self, folder: Path) -> Path:
        return folder / "cells" / f"{self.model.name}-{self.method}-{self.keep_ratio:g}-seed-{self.seed}.json"

    def result(self, folder: Path) -> dict | None:
        """What was measured; None where nothing was, or of something else."""
        file = self.file(folder)
        if not file.is_file():
            return None
        content = read_json(file)
        return content if isinstance(content, dict) and content.get("made_of") == self.made_of else None

    def save(self, folder: Path, result: Mapping) -> None:
        file = self.file(folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        with partial_file(file) as partial:
            partial.write_text(json.dumps({"made_of": self.made_of, **result}, indent=2) + "\n", encoding="utf-8")
            partial.replace(file)


def read_grid(file: Path, local: Path | None = None, only: Sequence[str] = ()) -> Grid:
    """Read a grid, with models of a second file in place of its own.

    Parameters
    ----------
    file, local : Path
        YAML. Paths in them are relative to them.
    only : sequence of str
        Names of the models to keep; all of them if empty.

    Raises
    ------
    InputError
        Anything wrong in a file, or a name that the grid has not.
    """
    grid = _read(Grid, file)
    own = {model.name: model for model in (_read(Local, local).models if local else ())}
    names = [model.name for model in grid.models]
    for name in [*own, *only]:
        if name not in names:
            raise InputError(
                f"{local if name in own else '--only'}: the grid has no {name!r}; it has {', '.join(names)}"
            )
    models = [own.get(model.name, model) for model in grid.models if not only or model.name in only]
    return grid.model_copy(update={"models": models})


def cells_of(grid: Grid) -> list[Cell]:
    return [
        Cell(model, name, settings, ratio, seed, grid.num_samples)
        for model in grid.models
        for seed in grid.seeds
        for name, settings in grid.methods.items()
        for ratio in grid.keep_ratios
    ]


def needs(model: Model) -> str:
    """What a model needs that is not on this machine; empty where all of it is."""
    wanted = []
    if not Path(model.source).is_dir() and not model.source.startswith("s3://"):
        wanted.append(f"model {model.source} from the hub")
    if model.task:
        wanted.append(f"data of task {model.task} from the hub")
    return " and ".join(wanted)


def table(grid: Grid, folder: Path) -> str:
    """A page of what is measured: means over the seeds, a row for each model and method."""
    lines = [
        f"| model | metric | dense | method | {' | '.join(f'{ratio:g}' for ratio in grid.keep_ratios)} |",
        f"|{'---|' * (4 + len(grid.keep_ratios))}",
    ]
    cells = cells_of(grid)
    for model in grid.models:
        for method in grid.methods:
            found = [
                [
                    result
                    for cell in cells
                    if (cell.model.name, cell.method, cell.keep_ratio) == (model.name, method, ratio)
                    and (result := cell.result(folder))
                ]
                for ratio in grid.keep_ratios
            ]
            if first := next((results[0] for results in found if results), None):
                shown = [f"{mean(one['pruned'] for one in results):.4f}" if results else "" for results in found]
                dense = f"{first['dense']:.4f} ± {first['standard_error'] or 0:.4f}"
                lines.append(f"| {model.name} | {first['metric']} | {dense} | {method} | {' | '.join(shown)} |")
    seeds = ", ".join(map(str, grid.seeds))
    return "\n".join(
        [
            f"# {grid.name}",
            "",
            f"By the part of the MACs that is kept. Means over the seeds {seeds}, as far as they are done; ± is the "
            "standard error of the dense model's metric over the evaluation rows.",
            "",
            *lines,
            "",
        ]
    )


def _read(kind, file: Path):
    try:
        text = decode(read_bytes(file, CONFIG_BYTES), file)
    except OSError as error:
        raise InputError(f"{file}: the file cannot be read ({error})") from error
    content, node = validated(kind, text, file)
    return content.model_copy(update={"models": with_files(content.models, file, node)})


def _check_unique(models: Sequence[Model]) -> None:
    names = [model.name for model in models]
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise ValueError(f"models: a second one is named {twice[0]}; each once")
