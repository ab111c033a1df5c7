"""A sweep as a Kubeflow pipeline: the stages of :mod:`fastprune.sweep.graph`, with what a cluster must be told."""

import json
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from kfp import compiler, dsl, kubernetes

from fastprune.components.budget import budget
from fastprune.components.conclude import conclude
from fastprune.components.evaluate_dense import evaluate_dense
from fastprune.components.evaluate_pruned import evaluate_pruned
from fastprune.components.export import export
from fastprune.components.gate import gate
from fastprune.components.importance import importance
from fastprune.components.importance_shard import importance_shard
from fastprune.components.merge_importance import merge_importance
from fastprune.components.prepare import prepare
from fastprune.components.profile import profile
from fastprune.components.rearrange import rearrange
from fastprune.components.register import register
from fastprune.components.report import report
from fastprune.components.search import search
from fastprune.components.summarise import summarise
from fastprune.components.tune import tune
from fastprune.stages.tries import ANNOTATION, NODE
from fastprune.sweep.config import Model, Sweep
from fastprune.sweep.disclosed import check_disclosed
from fastprune.sweep.graph import parameters, run_of, stages_of_sweep
from fastprune.sweep.release import check_release, pod_environment
from fastprune.sweep.stages import CONCLUDES, Stage

COMPONENTS = {
    component.name.replace("-", "_"): component
    for component in (
        prepare,
        evaluate_dense,
        profile,
        importance,
        importance_shard,
        merge_importance,
        budget,
        search,
        rearrange,
        tune,
        evaluate_pruned,
        export,
        report,
        register,
        summarise,
        gate,
        conclude,
    )
}


def define(sweep: Sweep, *, fails: bool = True):
    """The pipeline of a sweep.

    Every model's stages are unrolled; its shards and its budgets are loops. It takes one parameter, ``tracking_uri``,
    and its outputs are, for every model number n, the lists ``pruned_n``, ``report_n`` and ``released_n`` of all
    budgets, ``conclusion_n`` and, where there are any, ``exported_n`` and ``summary_n``.

    When a task fails, Argo begins no other one of the whole pipeline. So what fails in a compression is handed on in
    its artifacts, and only the last task of all fails for it.

    Parameters
    ----------
    sweep : Sweep
    fails : bool
        Without it the last task tells as well, and does not fail: whoever runs the pipeline reads its conclusion.
    """
    stages = stages_of_sweep(sweep)
    kinds = {
        "pruned": list[dsl.Model],
        "exported": list[dsl.Model],
        "report": list[dsl.Artifact],
        "released": list[dsl.Artifact],
        "summary": dsl.Artifact,
        "conclusion": dsl.Artifact,
    }
    made = {output for stage in stages for output in stage.outputs}
    outputs = NamedTuple(  # type: ignore[misc]
        "Outputs",
        [
            (f"{name}_{number}", kind)
            for number in range(len(sweep.models))
            for name, kind in kinds.items()
            if name in made
        ],
    )

    @dsl.pipeline(name=sweep.name, description="Prune fine-tuned encoders without retraining.")
    def pipeline(tracking_uri: str = sweep.tracking.uri) -> outputs:
        artifacts: list = []
        before: dict = {}
        for model in sweep.models:
            of_model = _of_model(sweep, model, stages, tracking_uri, before, fails)
            before = {"before": of_model["conclusion"]}
            artifacts += [of_model[name] for name in kinds if name in made]
        return outputs(*artifacts)

    return pipeline


def compile_pipeline(sweep: Sweep, path: str | Path) -> None:
    """Write the pipeline as YAML: the pipeline's spec and, for Kubernetes, the platform's.

    Raises InputError where its policy could promote nothing there, and for a password that it would hold.
    """
    check_disclosed(sweep, sweep.tracking.uri, sweep.cluster.env)
    check_release(sweep, pod_environment(sweep))
    compiler.Compiler().compile(define(sweep), str(path))


@dataclass
class _Made:
    """What the tasks of a model have made so far."""

    tasks: dict = field(default_factory=dict)
    channels: dict = field(default_factory=dict)
    collected: set = field(default_factory=set)

    def __getitem__(self, name: str):
        # The compiler changes a Collected where it is used: every use has its own.
        return dsl.Collected(self.channels[name]) if name in self.collected else self.channels[name]


def _of_model(sweep: Sweep, model: Model, stages: tuple[Stage, ...], tracking_uri, before: dict, fails: bool) -> _Made:
    """Add the tasks of a model; ``before`` has the conclusion of the model before."""
    made, run = _Made(), None
    for scope, members in groupby(stages, lambda stage: stage.scope):
        group = list(members)
        if scope == "model":
            for stage in group:
                own = {"tracking_uri": tracking_uri, "run": run}
                if stage.name == "prepare":
                    own = {
                        "tracking_uri": tracking_uri,
                        "run_settings": json.dumps(run_of(sweep, model)),
                        "pipeline_job": dsl.PIPELINE_JOB_ID_PLACEHOLDER,
                    }
                elif stage.name == CONCLUDES:
                    own = before
                task = _add_task(sweep, model, stage, made, fails, **own)
                run = run or task.outputs["run"]
            continue
        items = (
            list(range(sweep.importance_shards))
            if scope == "shard"
            else [
                json.dumps({"settings": budget.settings, "run": run_of(sweep, model, budget)})
                for budget in sweep.budgets
            ]
        )
        inner = run
        with dsl.ParallelFor(items, parallelism=sweep.cluster.parallelism) as item:
            for stage in group:
                own = {scope: item} if stage.name in ("importance_shard", "budget") else {}
                task = _add_task(sweep, model, stage, made, fails, tracking_uri=tracking_uri, run=inner, **own)
                if stage.name == "budget":
                    inner = task.outputs["budget_run"]
        made.collected.update(name for stage in group for name in stage.outputs)
    return made


def _add_task(sweep: Sweep, model: Model, stage: Stage, made: _Made, fails: bool, **own) -> dsl.PipelineTask:
    given = parameters(sweep, model, stage)
    if stage.name == CONCLUDES:
        given["last"] &= fails
    else:  # a task that hands on what failed in it is none that Argo would try again
        given["retries"] = sweep.task_settings(stage.name).retries
    task = COMPONENTS[stage.name](**{name: made[name] for name in stage.inputs}, **given, **own)
    task.after(*(made.tasks[name] for name in stage.after))
    task.set_display_name(f"{stage.name.replace('_', ' ')}: {model.name}")
    pods = fails and stage.name != CONCLUDES
    _configure(sweep, stage, task, pods=pods)
    if pods:  # of one that is killed the next one says so in its outputs: see fastprune.stages.tries
        kubernetes.use_field_path_as_env(task, NODE, ANNOTATION)
    made.tasks[stage.name] = task
    made.channels |= {name: task.outputs[name] for name in stage.outputs}
    return task


def _configure(sweep: Sweep, stage: Stage, task: dsl.PipelineTask, *, pods: bool) -> None:
    """Tell a task what the configuration says of its stage; a local run reads little of it.

    With ``pods`` it is begun once more than its ``retries``.
    """
    settings, cluster, accelerator = (sweep.task_settings(stage.name), sweep.cluster, sweep.accelerator(stage.name))
    task.set_caching_options(settings.caching)
    if cluster.image:
        task.set_container_image(cluster.image)
    if settings.cpu:
        task.set_cpu_request(settings.cpu).set_cpu_limit(settings.cpu)
    if settings.memory:
        task.set_memory_request(settings.memory).set_memory_limit(settings.memory)
    if settings.retries or pods:
        task.set_retry(settings.retries + pods, backoff_duration="30s", backoff_factor=2)
    if settings.timeout_s:
        kubernetes.set_timeout(task, settings.timeout_s)
    if cluster.image_pull_policy:
        kubernetes.set_image_pull_policy(task, cluster.image_pull_policy)
    for name, value in cluster.env.items():
        task.set_env_variable(name, value)
    for secret in cluster.secrets:
        kubernetes.use_secret_as_env(task, secret.name, secret.env)
    if accelerator:
        task.set_accelerator_type(accelerator.resource).set_accelerator_limit(accelerator.count)
        for label, value in accelerator.node_selector.items():
            kubernetes.add_node_selector(task, label, value)
        for toleration in accelerator.tolerations:
            kubernetes.add_toleration(task, **{name: value for name, value in toleration.model_dump().items() if value})
