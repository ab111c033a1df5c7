"""The tasks of a sweep: every stage of every model, shard and budget, and what each waits for. It imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby

from fastprune.settings import Budget
from fastprune.sweep.config import Model, Sweep
from fastprune.sweep.stages import Stage, stages_of


def stages_of_sweep(sweep: Sweep) -> tuple[Stage, ...]:
    """:func:`stages_of` a configuration."""
    return stages_of(
        latency=sweep.has_latency,
        shards=sweep.importance_shards,
        budgets=len(sweep.budgets),
        policy=bool(sweep.release.policy),
        export=sweep.export is not None,
    )


def parameters(sweep: Sweep, model: Model, stage: Stage) -> dict:
    """What a stage takes from the configuration, the same for every budget and shard of a model."""
    given = (
        sweep.model_dump()
        | model.model_dump()
        | {
            "task": model.task or "",
            "num_samples": sweep.num_samples or 0,
            "set_apart": sweep.has_accuracy_drop,
            "lut": sweep.latency.lut,
            "lut_store": sweep.latency.lut_store,
            "solver": sweep.latency.solver,
            "latency_batch_size": sweep.latency.batch_size,
            "latency_seq_len": sweep.latency.seq_len,
            "latency_dtype": sweep.latency.dtype,
            "shards": sweep.importance_shards,
            "format": sweep.export.format if sweep.export else "",
            "quantize": sweep.export.quantize if sweep.export else "",
            "model_name": sweep.model_name(model),
            "policy": sweep.release.policy,
            "tags": sweep.release.tags,
            "required": sweep.release.required,
            "compressions": [f"{model.name}/{budget.label}" for budget in sweep.budgets],
            "last": model is sweep.models[-1],
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
    made: list[Node] = []
    places: dict[str, list[tuple[Budget | None, int | None]]] = {
        "model": [(None, None)],
        "shard": [(None, shard) for shard in range(sweep.importance_shards)],
        "budget": [(budget, None) for budget in sweep.budgets],
    }
    for model in sweep.models:
        own: list[Node] = []
        for scope, group in groupby(stages_of_sweep(sweep), lambda stage: stage.scope):
            of_scope = list(group)
            for budget, shard in places[scope]:
                for stage in of_scope:
                    own.append(_node(stage, model, budget, shard, own))
        if made:
            own[-1] = _behind(own[-1], made[-1])
        made += own
    return made


def _behind(node: Node, before: Node) -> Node:
    """A model's conclusion, made of that of the model before too."""
    inputs = node.inputs | {"before": tuple((before.name, output) for output in before.stage.outputs)}
    return replace(node, inputs=inputs, after=(*node.after, before.name))


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
        "num_samples": sweep.num_samples or "",
        "seed": sweep.seed,
        "selection": sweep.selection,
        "estimator": sweep.estimator,
        "tuning": sweep.tuning,
        "effort": sweep.effort,
        "layout": sweep.layout,
    }
    if budget := budget or (sweep.budgets[0] if single else None):
        settings |= budget.settings
    return {"name": name, "parameters": settings, "experiment": sweep.tracking.experiment}
