"""Write what Airflow makes of a folder of DAG files, pods included, as JSON. Run by Airflow's own interpreter.

python describe.py DAGS_FOLDER OUTPUT
"""

import json
import sys
from datetime import UTC, datetime
from types import SimpleNamespace

from airflow.dag_processing.dagbag import DagBag


def describe_dag(dag) -> dict:
    return {
        "schedule": getattr(dag.timetable, "expression", None),
        "catchup": dag.catchup,
        "params": dag.params.dump(),
        "max_active_runs": dag.max_active_runs,
        "max_active_tasks": dag.max_active_tasks,
        "doc": dag.doc_md,
        "tasks": {name: describe_task(dag, task) for name, task in dag.task_dict.items()},
    }


def describe_task(dag, task) -> dict:
    """Of a task as it would run, with its templates filled in."""
    task.render_template_fields(
        {
            "dag": dag,
            "task": task,
            "ti": SimpleNamespace(try_number=1),
            "params": dag.params.dump(),
            "run_id": "run-1",
            "logical_date": datetime(2026, 1, 1, tzinfo=UTC),
        }
    )
    about = {
        "upstream": sorted(task.upstream_task_ids),
        "retries": task.retries,
        "trigger_rule": task.trigger_rule.value,
        "pool": task.pool,
        "timeout": task.execution_timeout and task.execution_timeout.total_seconds(),
    }
    if task.operator_name == "KubernetesPodOperator":
        from kubernetes.client import ApiClient

        pod = ApiClient().sanitize_for_serialization(task.build_pod_request_obj(dry_run=True))
        return {
            **about,
            "pod": pod,
            "startup_timeout": task.startup_timeout_seconds,
            "on_finish": task.on_finish_action.value,
        }
    return {**about, "command": task.bash_command, "env": task.env, "skip_on_exit_code": list(task.skip_on_exit_code)}


def main(folder: str, output: str) -> None:
    bag = DagBag(folder)
    heavy = [name for name in ("torch", "transformers", "kfp", "mlflow", "boto3") if name in sys.modules]
    with open(output, "w", encoding="utf-8") as file:
        json.dump(
            {
                "errors": bag.import_errors,
                "heavy": heavy,
                "dags": {name: describe_dag(dag) for name, dag in bag.dags.items()},
            },
            file,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
