"""Seconds that Kubeflow's local runner and MLflow add to the bare library, on a configuration of your own.

    python -m benchmarks.orchestration CONFIG [--repeat 1]

The library: every stage of the configuration in turn, in one process, untracked. The pipeline: the same stages as
steps of ``kfp.local``, tracked and registered in a SQLite store. Both in turn, from nothing.
"""

from __future__ import annotations

import io
import re
import statistics
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import click

from fastprune.pipelines import local_run
from fastprune.stages.run_node import run_node
from fastprune.sweep.config import Sweep
from fastprune.sweep.graph import nodes
from fastprune.sweep.reading import read_config
from fastprune.tracking import mlflow_store


@click.command(context_settings={"show_default": True})
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--repeat", default=1)
def main(config: Path, repeat: int) -> None:
    """Seconds that orchestration adds to the bare library."""
    sweep, measured = read_config(config), []
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as folder:
            measured.append({"the library": library(tracked(sweep, ""), folder), **pipeline(sweep, Path(folder))})
    medians = {name: statistics.median(one[name] for one in measured) for name in measured[0]}
    print(f"{len(nodes(sweep))} steps, seed {sweep.seed}, median of {repeat}")
    for name, seconds in medians.items():
        print(f"{name:<40}{seconds:8.2f} s{100 * seconds / medians['the library']:8.1f} % of the library")


def tracked(sweep: Sweep, uri: str) -> Sweep:
    return sweep.model_copy(update={"tracking": sweep.tracking.model_copy(update={"uri": uri})})


def library(sweep: Sweep, folder: str) -> float:
    begin = time.perf_counter()
    for node in nodes(sweep):
        run_node(sweep, node, f"{folder}/library")
    return time.perf_counter() - begin


def pipeline(sweep: Sweep, folder: Path) -> dict[str, float]:
    """The seconds of the whole run, and where those go that are not the stages' own."""
    uri = f"sqlite:///{folder}/mlflow.db"
    begin = time.perf_counter()
    with redirect_stdout(io.StringIO()) as said:
        local_run.run(tracked(sweep, uri), folder / "pipeline", work_dir=folder / "work")
    whole = time.perf_counter() - begin
    steps = [float(seconds) for seconds in re.findall(r" success +([\d.]+) s$", said.getvalue(), re.M)]
    client, stages = mlflow_store.connect(uri), {node.stage.name for node in nodes(sweep)}
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    own = {True: 0.0, False: 0.0}
    for run in client.search_runs(experiments, max_results=10_000):
        if run.info.run_name in stages:
            own[run.info.run_name in ("register", "gate")] += run.data.metrics["seconds"]
    return {
        "the pipeline": whole,
        "  its stages": own[False],
        "  registration and promotion": own[True],
        "  start and tracking of the steps": sum(steps) - sum(own.values()),
        "  Kubeflow around the steps": whole - sum(steps),
    }


if __name__ == "__main__":
    main()
