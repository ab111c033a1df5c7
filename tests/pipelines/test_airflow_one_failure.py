"""A compression that fails under a real Airflow costs its own branch alone, and clearing it makes up for it."""

import json

import pytest
from airflow_home import REPOSITORY, needed, write_config
from faults import LONG
from killing import kill_at

import fastprune
from fastprune.sweep.graph import nodes
from fastprune.sweep.reading import read_config

pytestmark = needed

RATIOS = (0.8, 0.7, 0.6, 0.5, 0.4) if LONG else (0.6, 0.4)
ALL = len(RATIOS) + 1


def states_of(sweep, budget, **of_branch):
    """All succeed, but the given stages of one compression, and the conclusion."""
    expected = {node.name: "success" for node in nodes(sweep)} | {"conclude-tiny": "failed"}
    return expected | {f"{stage.replace('_', '-')}-tiny-{budget}": state for stage, state in of_branch.items()}


def check_others(root, sweep, failed):
    for budget in sweep.budgets:
        if budget.label != failed:
            metrics = json.loads((root / f"report-tiny-{budget.label}" / "report" / "metrics.json").read_text())
            model = fastprune.load(root / f"tune-tiny-{budget.label}" / "pruned")
            assert model.config.kept_heads == metrics["heads"]


@pytest.mark.faults
def test_an_impossible_budget_costs_itself_alone(airflow, source, tmp_path):
    import mlflow

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    (airflow.home / "policy.yaml").write_text("max_accuracy_drop: 1.0")
    config = write_config(
        airflow.configs,
        source,
        "sweep",
        budgets=[{"keep_ratio": ratio} for ratio in (*RATIOS, 0.0001)],
        tracking={"uri": uri},
        release={"model_name": "sweep", "policy": "../policy.yaml"},
    )
    sweep = read_config(config)
    done, states = airflow.run_dag("sweep")
    assert done.returncode == 1, done.stdout[-3000:]
    assert (
        f"1 of {ALL} compressions failed: tiny/macs-0-0001: search: keep_ratio 0.0001 keeps nothing at all"
        in done.stdout
    )
    after = dict.fromkeys(("rearrange", "tune", "evaluate_pruned", "report", "register"), "upstream_failed")
    assert states == states_of(sweep, "macs-0-0001", search="failed", **after)
    root = airflow.outputs("sweep")
    check_others(root, sweep, "macs-0-0001")
    summary = json.loads((root / "summarise-tiny" / "summary" / "summary.json").read_text())
    assert len(summary["compressions"]) == ALL - 1
    assert [(one["compression"], one["stage"]) for one in summary["failed"]] == [("tiny/macs-0-0001", "search")]
    page = (root / "summarise-tiny" / "summary" / "summary.html").read_text()
    assert f"1 of {ALL} compressions failed" in page and "<td>tiny/macs-0-0001</td><td>search</td>" in page
    client = mlflow.MlflowClient(uri)
    picked = summary["compressions"][summary["picked"]]
    assert picked["label"] == "MACs 0.4"
    assert str(client.get_model_version_by_alias("sweep", "champion").version) == picked["version"]
    assert len(client.search_model_versions("name='sweep'")) == ALL - 1


def test_a_killed_task_costs_its_branch_alone_and_what_is_cleared_is_made_again(airflow, source, tmp_path):
    budgets = [{"keep_ratio": 0.7}, {"keep_ratio": 0.6}]
    sweep = read_config(write_config(airflow.configs, source, "killed", budgets=budgets))
    killer = kill_at(tmp_path / "killer", 0.6)
    done, states = airflow.run_dag("killed", PYTHONPATH=f"{killer}:{REPOSITORY}")
    assert done.returncode == 1, done.stdout[-3000:]
    assert "1 of 2 compressions failed: tiny/macs-0-6: tune: did not end: it was killed" in done.stdout
    after = dict.fromkeys(("evaluate_pruned", "report", "register"), "upstream_failed")
    assert states == states_of(sweep, "macs-0-6", tune="failed", **after)
    root = airflow.outputs("killed")
    check_others(root, sweep, "macs-0-6")
    whole = {path: path.stat().st_mtime_ns for path in root.glob("tune-tiny-macs-0-7/pruned/*")}

    # What clearing the failed task with all behind it runs again, in the same root.
    from fastprune.stages.run_node import find_node, run_node

    behind = ["tune", "evaluate-pruned", "report", "register"]
    for name in [f"{stage}-tiny-macs-0-6" for stage in behind] + ["summarise-tiny", "conclude-tiny"]:
        run_node(sweep, find_node(sweep, name), root)
    assert not list(root.glob("*/failed.json"))
    summary = json.loads((root / "summarise-tiny" / "summary" / "summary.json").read_text())
    assert len(summary["compressions"]) == 2 and summary["failed"] == []
    assert whole and whole == {path: path.stat().st_mtime_ns for path in root.glob("tune-tiny-macs-0-7/pruned/*")}


def test_the_tasks_that_are_told_of_failures_run_whatever_happened(described, source):
    sweep = read_config(
        write_config(described.configs, source, "one", budgets=[{"keep_ratio": 0.5}, {"keep_ratio": 0.3}])
    )
    tasks = described.describe()["dags"]["one"]["tasks"]
    rules = {name: task["trigger_rule"] for name, task in tasks.items()}
    assert rules == {node.name: "all_done" if node.stage.regardless else "all_success" for node in nodes(sweep)}
    assert {name for name, rule in rules.items() if rule == "all_done"} == {"summarise-tiny", "conclude-tiny"}
