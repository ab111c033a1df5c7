"""Which stages a sweep has, in which order, and which folders pass between them: the one place that says so.

The pipeline of Kubeflow and the DAG of Airflow are made from it. It imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Scope = Literal["model", "shard", "budget"]


@dataclass(frozen=True)
class Stage:
    """A stage, and the names of the folders that it reads and makes.

    Attributes
    ----------
    name : str
        Of its function, which takes each folder as a keyword argument of that name, then its own parameters.
    scope : {"model", "shard", "budget"}
        It runs once for a model, for every part of its sample, or for every budget.
    inputs, outputs : tuple of str
    lists : tuple of str
        Inputs that are lists, with one folder of every shard or budget.
    after : tuple of str
        Stages to wait for although nothing of theirs is read.
    parameters : tuple of str
        Keys of the configuration that it takes.
    releases : bool
        Whether it acts on MLflow itself, and so takes ``run_id`` and ``tracking_uri`` too.
    regardless : bool
        It runs although what it waits for has failed, and is told so by the folders that it gets.
    module : str
        Where its function is, in :mod:`fastprune.stages`; by default in the file of its name.
    """

    name: str
    scope: Scope
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    after: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    releases: bool = False
    regardless: bool = False
    module: str = ""

    @property
    def place(self) -> str:
        """The module of its function."""
        return f"fastprune.stages.{self.module or self.name}"


_RUNS = ("batch_size", "device")
_MEASURES = ("selection", "estimator", "effort", *_RUNS)

STAGES = (
    Stage(
        "prepare",
        "model",
        (),
        ("model", "sample", "evaluation"),
        parameters=(
            "source",
            "task",
            "train_file",
            "eval_file",
            "validation_file",
            "text_columns",
            "label_column",
            "problem",
            "metric",
            "pooling",
            "max_length",
            "num_samples",
            "seed",
            "selection",
            "effort",
            "set_apart",
            "allow_untuned",
        ),
    ),
    # It refuses a model that was never fine-tuned, before the rest costs anything.
    Stage("evaluate_dense", "model", ("model", "evaluation"), ("dense",), parameters=(*_RUNS, "allow_untuned")),
    Stage(
        "profile",
        "model",
        ("model",),
        ("table",),
        ("evaluate_dense",),
        parameters=("lut", "lut_store", "latency_batch_size", "latency_seq_len", "latency_dtype", "device"),
    ),
    Stage(
        "importance",
        "model",
        ("model", "sample"),
        ("importance",),
        ("evaluate_dense", "profile"),
        (*_MEASURES, "processes"),
        module="importance",
    ),
    Stage(
        "importance_shard",
        "shard",
        ("model", "sample"),
        ("part",),
        ("evaluate_dense", "profile"),
        (*_MEASURES, "shards"),
        module="importance",
    ),
    Stage(
        "merge_importance",
        "model",
        ("model", "sample", "part"),
        ("importance",),
        parameters=_MEASURES,
        lists=("part",),
        module="importance",
    ),
    Stage(
        "budget",
        "budget",
        ("model", "sample", "importance", "table"),
        ("chosen",),
        parameters=("solver", "tuning", "layout", "format", "quantize", "processes", *_RUNS),
    ),
    Stage("search", "budget", ("importance", "table", "chosen"), ("searched",)),
    Stage("rearrange", "budget", ("importance", "table", "chosen", "searched"), ("rearranged",)),
    Stage(
        "tune",
        "budget",
        ("model", "sample", "evaluation", "importance", "table", "chosen", "rearranged"),
        ("pruned", "tuned"),
        parameters=("tuning", "processes", *_RUNS),
    ),
    Stage(
        "evaluate_pruned",
        "budget",
        ("model", "evaluation", "table", "chosen", "searched", "rearranged", "pruned"),
        ("measured",),
        parameters=_RUNS,
    ),
    Stage(
        "export",
        "budget",
        ("model", "sample", "evaluation", "pruned"),
        ("exported",),
        parameters=("format", "quantize"),
    ),
    Stage(
        "report",
        "budget",
        ("model", "dense", "table", "importance", "chosen", "searched", "rearranged", "pruned", "measured", "exported"),
        ("report",),
    ),
    Stage(
        "register",
        "budget",
        ("evaluation", "pruned", "exported", "report"),
        ("released",),
        parameters=("model_name", "tags"),
        releases=True,
    ),
    Stage(
        "summarise",
        "model",
        ("report", "released"),
        ("summary",),
        parameters=("policy", "compressions"),
        lists=("report", "released"),
        releases=True,
        regardless=True,
    ),
    Stage("gate", "model", ("summary",), ("verdict",), parameters=("model_name", "policy"), releases=True),
    # It also gets the conclusion of the model before, and fails the run behind the last: see CONCLUDES.
    Stage(
        "conclude",
        "model",
        ("released", "summary", "verdict"),
        ("conclusion",),
        parameters=("compressions", "required", "last"),
        lists=("released",),
        regardless=True,
    ),
)

CONCLUDES = "conclude"
"""The stage that says what has failed, and alone fails a run for it; to try it again would change nothing."""

ACTING = ("prepare", "budget", "register", "summarise", "gate")
"""Stages that open or change MLflow runs: to skip one because of an earlier run's outputs would leave that undone."""


def stages_of(
    *, latency: bool = False, shards: int = 1, budgets: int = 1, policy: bool = False, export: bool = False
) -> tuple[Stage, ...]:
    """The stages that a sweep needs, in order, with the inputs and predecessors that they have there.

    Nothing is profiled without a latency budget; the Fisher is merged only where it was split; a single compression
    without a policy has nothing to sum up or to promote; nothing is exported unless that is asked for.
    """
    needed = {
        "profile": latency,
        "importance": shards == 1,
        "importance_shard": shards > 1,
        "merge_importance": shards > 1,
        "export": export,
        "summarise": budgets > 1 or policy,
        "gate": policy,
    }
    stages = [stage for stage in STAGES if needed.get(stage.name, True)]
    names = {stage.name for stage in stages}
    made = {output for stage in stages for output in stage.outputs}
    return tuple(
        replace(
            stage,
            inputs=tuple(name for name in stage.inputs if name in made),
            after=tuple(name for name in stage.after if name in names),
        )
        for stage in stages
    )
