"""Sweeps as Airflow DAGs: one a config file, a task for every node of its graph. AIRFLOW.md is about operating them.

Airflow has an environment of its own, without torch, kfp and MLflow: of fastprune only the config and the graph are
imported here. A task is one command, ``python -m fastprune stage``: run by the interpreter of the project's own
environment (the local form), or in a pod of the config's image (the cluster form). Airflow's environment says which:

    FASTPRUNE_CONFIGS           the configs: files, or folders of *.yaml, with ":" in between
    FASTPRUNE_ROOT              where outputs go, below DAG/RUN: an absolute path or an s3:// prefix
    FASTPRUNE_AIRFLOW           local (the default) or kubernetes
    FASTPRUNE_PYTHON            local form: the interpreter that has fastprune and all it needs
    FASTPRUNE_POD_TEMPLATE      cluster form: YAML of a pod to build on (service account, pull secrets, volumes)
    FASTPRUNE_POOL              Airflow's pool of the tasks, and of those that have an accelerator
    FASTPRUNE_ACCELERATOR_POOL
    FASTPRUNE_START             for schedule.catchup: missed runs since this date are run too
"""

import os
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, BaseOperator, Param, literal

from fastprune.errors import InputError
from fastprune.sweep.config import Sweep
from fastprune.sweep.disclosed import check_disclosed
from fastprune.sweep.graph import Node, nodes
from fastprune.sweep.reading import read_config
from fastprune.sweep.release import check_release, pod_environment

ROOT = "{{ params.root }}/{{ dag.dag_id }}/{{ run_id }}"
DEVICE = "{{ params.device }}"
PLACE = "^(/|s3://)"
LONGEST_WAIT = 3600
"""Seconds that a pod may wait for a node, where its stage has no timeout."""

# What Airflow gives to a process of its own; MLflow runs are tagged with it.
RUN = {
    "AIRFLOW_CTX_DAG_ID": "{{ dag.dag_id }}",
    "AIRFLOW_CTX_DAG_RUN_ID": "{{ run_id }}",
    "AIRFLOW_CTX_TASK_ID": "{{ task.task_id }}",
    "AIRFLOW_CTX_TRY_NUMBER": "{{ ti.try_number }}",
    "AIRFLOW_CTX_LOGICAL_DATE": "{{ logical_date.isoformat() if logical_date else '' }}",
}


def setting(name: str, default: str | None = None) -> str:
    """A variable of Airflow's environment; one without a default has to be there."""
    value = os.environ.get(name) or default
    if value is None:
        raise InputError(f"{name} is not set in Airflow's environment; see pipelines/AIRFLOW.md")
    return value


def config_files() -> Iterator[Path]:
    for place in map(Path, setting("FASTPRUNE_CONFIGS").split(os.pathsep)):
        if not place.exists():
            raise InputError(f"FASTPRUNE_CONFIGS: there is no {place}")
        yield from sorted(place.glob("*.yaml")) if place.is_dir() else [place]


def cron(sweep: Sweep) -> str | None:
    """The five fields that Airflow knows of a schedule's six; none for a sweep that is started by hand."""
    if sweep.schedule is None or not sweep.schedule.enabled:
        return None
    seconds, fields = sweep.schedule.cron.split(maxsplit=1)
    if seconds != "0":
        raise InputError(
            f"schedule.cron {sweep.schedule.cron!r}: Airflow starts runs at full minutes; the seconds, "
            "the first field, must be 0"
        )
    return fields


def local_task(sweep: Sweep, node: Node, config: dict, **settings) -> BaseOperator:
    """A stage run by ``FASTPRUNE_PYTHON`` on the worker's machine."""
    return BashOperator(
        bash_command='exec "$FASTPRUNE_PYTHON" -m fastprune stage env:FASTPRUNE_CONFIG "$FASTPRUNE_NODE" '
        '--root "$FASTPRUNE_RUN_ROOT" --device "$FASTPRUNE_DEVICE"',
        env={
            **config,
            "FASTPRUNE_PYTHON": setting("FASTPRUNE_PYTHON"),
            "FASTPRUNE_NODE": node.name,
            "FASTPRUNE_RUN_ROOT": ROOT,
            "FASTPRUNE_DEVICE": DEVICE,
        },
        append_env=True,
        skip_on_exit_code=None,
        do_xcom_push=False,
        **settings,
    )


def pod_task(sweep: Sweep, node: Node, config: dict, **settings) -> BaseOperator:
    """A stage run in a pod of the config's image."""
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
    from airflow.providers.cncf.kubernetes.secret import Secret
    from kubernetes.client import models as k8s

    cluster, wanted = sweep.cluster, sweep.task_settings(node.stage.name)
    if not cluster.image:
        raise InputError("cluster.image is missing: pods need one")
    limits, placed = {"cpu": wanted.cpu, "memory": wanted.memory}, {}
    if accelerator := sweep.accelerator(node.stage.name):
        limits[accelerator.resource] = str(accelerator.count)
        placed = {
            "node_selector": accelerator.node_selector,
            "tolerations": [
                k8s.V1Toleration(**toleration.model_dump(exclude_defaults=True))
                for toleration in accelerator.tolerations
            ],
        }
    limits = {name: amount for name, amount in limits.items() if amount}
    return KubernetesPodOperator(
        name=node.name,
        image=cluster.image,
        image_pull_policy=cluster.image_pull_policy or None,
        cmds=["python", "-m", "fastprune"],
        arguments=["stage", "env:FASTPRUNE_CONFIG", node.name, "--root", ROOT, "--device", DEVICE],
        container_resources=k8s.V1ResourceRequirements(requests=limits, limits=limits),
        env_vars={**{name: literal(value) for name, value in cluster.env.items()}, **config, **RUN},
        secrets=[
            Secret("env", variable, secret.name, key)
            for secret in cluster.secrets
            for key, variable in secret.env.items()
        ],
        pod_template_file=os.environ.get("FASTPRUNE_POD_TEMPLATE"),
        startup_timeout_seconds=wanted.timeout_s or LONGEST_WAIT,
        active_deadline_seconds=wanted.timeout_s,
        on_finish_action="delete_succeeded_pod",
        **placed,
        **settings,
    )


FORMS = {"local": local_task, "kubernetes": pod_task}


def build(file: Path) -> DAG:
    """The DAG of a config."""
    form = setting("FASTPRUNE_AIRFLOW", "local")
    if form not in FORMS:
        raise InputError(f"FASTPRUNE_AIRFLOW is {form!r}, and has to be one of {', '.join(FORMS)}")
    sweep = read_config(file, here=form == "local")
    schedule, root = sweep.schedule, setting("FASTPRUNE_ROOT")
    if not re.match(PLACE, root):  # tasks run in a folder of their own
        raise InputError(f"FASTPRUNE_ROOT is {root!r}, and has to be an absolute path or an s3:// prefix")
    given = os.environ | sweep.cluster.env if form == "kubernetes" else os.environ
    named = {"MLFLOW_TRACKING_URI": given.get("MLFLOW_TRACKING_URI", "")}
    check_disclosed(
        sweep, sweep.tracking.uri or named["MLFLOW_TRACKING_URI"], sweep.cluster.env if form == "kubernetes" else {}
    )
    check_release(sweep, named | pod_environment(sweep) if form == "kubernetes" else os.environ)
    params = {
        "root": Param(
            root,
            type="string",
            pattern=PLACE,
            description="Outputs go here, below DAG/RUN: an absolute path or an s3:// prefix.",
        ),
        "tracking_uri": Param(
            sweep.tracking.uri or given.get("MLFLOW_TRACKING_URI", ""),
            type="string",
            description="Of MLflow; without one nothing is tracked.",
        ),
        "device": Param(sweep.device, type="string", pattern=r"^(auto|cpu|cuda(:\d+)?)$"),
    }
    # The URI is a param, so that a run can have another: not in the config then.
    said = sweep.model_copy(update={"tracking": sweep.tracking.model_copy(update={"uri": ""})})
    config = {"FASTPRUNE_CONFIG": literal(said.to_yaml()), "MLFLOW_TRACKING_URI": "{{ params.tracking_uri }}"}
    runs: dict = {"max_active_runs": schedule.max_concurrency if schedule else 1, "catchup": False}
    if schedule and schedule.catchup:
        runs |= {"catchup": True, "start_date": datetime.fromisoformat(setting("FASTPRUNE_START"))}
    if form == "local":  # stages share the machine, and some of them measure time: one after the other
        runs["max_active_tasks"] = 1
    with DAG(sweep.name, schedule=cron(sweep), params=params, tags=["fastprune"], **runs) as dag:
        tasks: dict[str, BaseOperator] = {}
        for node in nodes(sweep):
            wanted = sweep.task_settings(node.stage.name)
            tasks[node.name] = FORMS[form](
                sweep,
                node,
                config,
                task_id=node.name,
                retries=wanted.retries,
                trigger_rule="all_done" if node.stage.regardless else "all_success",
                execution_timeout=timedelta(seconds=wanted.timeout_s) if wanted.timeout_s else None,
                pool=setting("FASTPRUNE_ACCELERATOR_POOL" if wanted.accelerator else "FASTPRUNE_POOL", "default_pool"),
            )
            tasks[node.name].set_upstream([tasks[name] for name in node.after])
    return dag


def refused(file: Path, error: InputError) -> DAG:
    """A DAG that says why a config makes none. An exception would take away the DAGs of all other configs too."""
    with DAG(
        "refused-" + re.sub(r"[^\w.-]", "-", file.stem),
        schedule=None,
        tags=["fastprune", "refused"],
        doc_md=f"This config was refused:\n\n```\n{error}\n```",
    ) as dag:
        BashOperator(task_id="config", bash_command='echo "$WHY"; exit 1', env={"WHY": literal(str(error))})
    return dag


DAGS: dict[str, DAG] = {}
for _file in config_files():
    try:
        _dag = build(_file)
        if _dag.dag_id in DAGS:
            raise InputError(f"{_file}: name: another config of FASTPRUNE_CONFIGS has the name {_dag.dag_id}")
    except InputError as _error:
        _dag = refused(_file, _error)
    DAGS[_dag.dag_id] = _dag
globals().update(DAGS)
