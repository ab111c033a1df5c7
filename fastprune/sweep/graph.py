"""Which stages a sweep has, in which order, and which folders pass between them: the one place that says so.

The pipeline of Kubeflow and the DAG of Airflow are made from it. It imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fastprune.sweep.config import Budget, Model, Sweep

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
    module : str
        Where its function is, in :mod:`fastprune.stages`.
    """

    name: str
    scope: Scope
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    after: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    module: str = "pruning"

    @property
    def releases(self) -> bool:
        """Whether it acts on MLflow itself, and so takes ``run_id`` and ``tracking_uri`` too."""
        return self.module == "release"


_RUNS = ("batch_size", "device")
_MEASURES = ("selection", "estimator", *_RUNS)

STAGES = (
    Stage(
        "prepare",
        "model",
        (),
        ("model", "calibration", "evaluation"),
        parameters=(
            "source",
            "task",
            "train_file",
            "eval_file",
            "validation_file",
            "text_columns",
            "label_column",
            "metric",
            "max_length",
            "num_samples",
            "seed",
            "selection",
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
        parameters=("lut", "lut_store", "latency_batch_size", "latency_seq_len", "device"),
    ),
    Stage(
        "fisher",
        "model",
        ("model", "calibration"),
        ("fisher",),
        ("evaluate_dense", "profile"),
        _MEASURES,
        module="fisher",
    ),
    Stage(
        "fisher_shard",
        "shard",
        ("model", "calibration"),
        ("part",),
        ("evaluate_dense", "profile"),
        (*_MEASURES, "shards"),
        module="fisher",
    ),
    Stage(
        "merge_fisher",
        "model",
        ("model", "calibration", "part"),
        ("fisher",),
        parameters=_MEASURES,
        lists=("part",),
        module="fisher",
    ),
    Stage(
        "budget",
        "budget",
        ("model", "calibration", "fisher", "table"),
        ("chosen",),
        parameters=("solver", "tuning", *_RUNS),
    ),
    Stage("search", "budget", ("fisher", "table", "chosen"), ("searched",)),
    Stage("rearrange", "budget", ("fisher", "table", "chosen", "searched"), ("rearranged",)),
    Stage(
        "tune",
        "budget",
        ("model", "calibration", "evaluation", "fisher", "table", "chosen", "rearranged"),
        ("pruned", "tuned"),
        parameters=("tuning", *_RUNS),
    ),
    Stage(
        "evaluate_pruned",
        "budget",
        ("model", "evaluation", "table", "chosen", "searched", "rearranged", "pruned"),
        ("measured",),
        parameters=_RUNS,
    ),
    Stage(
        "report",
        "budget",
        ("model", "dense", "table", "fisher", "chosen", "searched", "rearranged", "pruned", "measured"),
        ("report",),
    ),
    Stage("register", "budget", ("pruned", "report"), ("released",), parameters=("model_name",), module="release"),
    Stage(
        "summarise",
        "model",
        ("report", "released"),
        ("summary",),
        parameters=("policy",),
        lists=("report", "released"),
        module="release",
    ),
    Stage("gate", "model", ("summary",), ("verdict",), parameters=("model_name", "policy"), module="release"),
)

ACTING = ("prepare", "budget", "register", "summarise", "gate")
"""Stages that open or change MLflow runs: to skip one because of an earlier run's outputs would leave that undone."""


def stages_of(*, latency: bool = False, shards: int = 1, budgets: int = 1, policy: bool = False) -> tuple[Stage, ...]:
    """The stages that a sweep needs, in order, with the inputs and predecessors that they have there.

    Nothing is profiled without a latency budget; the Fisher is merged only where it was split; a single compression
    without a policy has nothing to sum up or to promote.
    """
    needed = {
        "profile": latency,
        "fisher": shards == 1,
        "fisher_shard": shards > 1,
        "merge_fisher": shards > 1,
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


def stages_of_sweep(sweep: Sweep) -> tuple[Stage, ...]:
    """:func:`stages_of` a configuration."""
    return stages_of(
        latency=sweep.has_latency,
        shards=sweep.fisher_shards,
        budgets=len(sweep.budgets),
        policy=bool(sweep.release.policy),
    )


def parameters(sweep: Sweep, model: Model, stage: Stage) -> dict:
    """What a stage takes from the configuration, the same for every budget and shard of a model."""
    given = (
        sweep.model_dump()
        | model.model_dump()
        | {
            "task": model.task or "",
            "set_apart": sweep.has_accuracy_drop,
            "lut": sweep.latency.lut,
            "lut_store": sweep.latency.lut_store,
            "solver": sweep.latency.solver,
            "latency_batch_size": sweep.latency.batch_size,
            "latency_seq_len": sweep.latency.seq_len,
            "shards": sweep.fisher_shards,
            "model_name": sweep.model_name(model),
            "policy": sweep.release.policy,
        }
    )
    return {name: given[name] for name in stage.parameters}


@dataclass(frozen=True)
class Node:
    """One task of a sweep: a stage of a model, and perhaps of a shard or a budget.

    Attributes
    ----------
    name : str
        Unique, and an identifier for Kubernetes and Airflow, such as ``tune-sst2-macs-0-6``.
    inputs : dict
        For every input the pairs (name of the node, its output) that it is made of.
    after : tuple of str
        The names of all nodes that it waits for.
    """

    name: str
    stage: Stage
    model: Model
    budget: Budget | None
    shard: int | None
    inputs: dict[str, tuple[tuple[str, str], ...]]
    after: tuple[str, ...]


def nodes(sweep: Sweep) -> list[Node]:
    """Every task of a sweep, each after those that it waits for."""
    found: list[Node] = []
    places = {
        "model": [(None, None)],
        "shard": [(None, shard) for shard in range(sweep.fisher_shards)],
        "budget": [(budget, None) for budget in sweep.budgets],
    }
    for model in sweep.models:
        own: list[Node] = []
        for scope, group in groupby(stages_of_sweep(sweep), lambda stage: stage.scope):
            group = list(group)
            for budget, shard in places[scope]:
                for stage in group:
                    own.append(_node(stage, model, budget, shard, own))
        found += own
    return found


def _node(stage: Stage, model: Model, budget: Budget | None, shard: int | None, before: list[Node]) -> Node:
    place = budget.label if budget else "" if shard is None else str(shard)
    seen = [
        node
        for node in before
        if (stage.scope == "model" or node.stage.scope == "model" or (node.budget, node.shard) == (budget, shard))
    ]
    inputs = {name: tuple((node.name, name) for node in seen if name in node.stage.outputs) for name in stage.inputs}
    waits = [maker for makers in inputs.values() for maker, _ in makers]
    waits += [node.name for node in seen if node.stage.name in stage.after]
    return Node(
        "-".join(filter(None, (stage.name.replace("_", "-"), model.name, place))),
        stage,
        model,
        budget,
        shard,
        inputs,
        tuple(dict.fromkeys(waits)),
    )


def run_of(sweep: Sweep, model: Model, budget: Budget | None = None) -> dict:
    """The MLflow run of a model, or of one of its budgets; empty where the model's is the budget's."""
    single = len(sweep.budgets) == 1
    if budget and single:
        return {}
    name = f"{model.name} {sweep.budgets[0].label}" if single else budget.label if budget else model.name
    settings = {
        "sweep": sweep.name,
        "model": model.name,
        "source": model.source,
        "task": model.task or "",
        "train_file": model.train_file,
        "eval_file": model.eval_file,
        "validation_file": model.validation_file,
        "num_samples": sweep.num_samples,
        "seed": sweep.seed,
        "selection": sweep.selection,
        "fisher": sweep.estimator,
        "tuning": sweep.tuning,
    }
    if budget := budget or (sweep.budgets[0] if single else None):
        settings |= budget.settings
    return {"name": name, "parameters": settings, "experiment": sweep.tracking.experiment}
