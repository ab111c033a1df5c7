"""The configuration file: what it becomes, and that whatever is wrong in it is named with its line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_config import SWEEP, write_config

from fastprune.cli.main import main
from fastprune.data import glue_task
from fastprune.errors import InputError
from fastprune.sweep.graph import nodes
from fastprune.sweep.reading import parse_config, read_config
from fastprune.sweep.stages import STAGES


@pytest.fixture
def config(tmp_path):
    def write(text=SWEEP):
        (tmp_path / "sweep.yaml").write_text(text)
        return tmp_path / "sweep.yaml"

    return write


def test_a_stage_has_the_default_where_it_says_nothing(config):
    sweep = read_config(config())
    assert sweep.task_settings("tune").model_dump(exclude_defaults=True) == {"cpu": "2", "memory": "8Gi", "retries": 1}
    assert sweep.task_settings("profile").retries == 3 and sweep.task_settings("profile").cpu == "2"
    assert sweep.accelerator("profile").resource == "nvidia.com/gpu" and sweep.accelerator("tune") is None


def test_paths_are_relative_to_the_file(tmp_path, source, monkeypatch):
    monkeypatch.chdir("/")
    (tmp_path / "train.csv").write_text("text,label\n")
    (tmp_path / "policy.yaml").write_text("max_accuracy_drop: 0.01\n")
    path = write_config(tmp_path / "c.yaml", source | {"train_file": "train.csv"}, release={"policy": "policy.yaml"})
    sweep = read_config(path)
    assert sweep.models[0].train_file == str(tmp_path / "train.csv") and sweep.models[0].source == source["source"]
    assert json.loads(sweep.release.policy)["max_accuracy_drop"] == 0.01
    (tmp_path / "whole.yaml").write_text(sweep.to_yaml())
    (tmp_path / "policy.yaml").unlink()
    assert read_config(tmp_path / "whole.yaml") == sweep


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("    source: org/two\n", "    sorce: org/two\n", "line 6: models.1.source: this key is missing"),
        (
            "    source: org/two\n",
            "    source: org/two\n    metrics: f1\n",
            "line 8: models.1.metrics: unknown key; did you mean metric?",
        ),
        ("name: two", "name: one", "line 6: models.1: a second one of models is one"),
        ("  - keep_ratio: 0.5\n    constraint: latency\n", "  - keep_ratio: 0.6\n", "line 11: budgets.1: a second one"),
        (
            "keep_ratio: 0.6",
            "keep_ratio: 1.6",
            "line 10: budgets.0: keep_ratio is the fraction of MACs or latency that is kept, between 0 and 1 "
            "(both excluded); got 1.6",
        ),
        (
            "keep_ratio: 0.6",
            "latency_ms: 3\n    keep_ratio: 0.6",
            "line 10: budgets.0: give one of keep_ratio, latency_ms "
            "and max_accuracy_drop; here are keep_ratio and latency_ms",
        ),
        ("    constraint: latency\n", "", "line 13: latency: no budget has constraint: latency"),
        ("0 30 2 * * mon-fri", "30 2 * * *", "line 17: schedule.cron: cron '30 2 * * *': 5 fields, not 6"),
        (
            "accelerator: v100",
            "accelerator: a100",
            "line 26: cluster.stages.profile.accelerator: 'a100' is not among the accelerators: v100",
        ),
        ("    profile: {", "    profil: {", "line 26: cluster.stages.profil"),
        ("cpu: 2", "cpu: two", "line 25: cluster.stages.default.cpu"),
        ("task: sst2", "task: sst3", "line 5: models.0.task"),
        ("task: sst2", "train_file: a.csv", "line 3: models.0: no data"),
        (
            "task: sst2",
            "task: sst2\n    validation_file: v.csv",
            "line 6: models.0.validation_file: no budget is a max_accuracy_drop",
        ),
        ("source: org/one", "source: ./one", "line 4: models.0.source: there is no"),
        (
            "importance_shards: 2",
            "fisher_shards: 2",
            "line 13: fisher_shards: is called importance_shards since version 0.2.0; rename it",
        ),
        ("name: reviews", "name: The Reviews", "line 1: name"),
        ("name: reviews", "name: [", "not YAML"),
        ("name: reviews", "name: reviews\nname: other", "line 2: the key name is here a second time"),
        ("name: reviews", "name: reviews\nlatency: &a [*a]", "line 2: *a stands for another part"),
        ("name: reviews", "name: !!python/name:os.system x", "line 1: the tag tag:yaml.org,2002:python/name:os.system"),
        ("name: reviews", "name: " + "[" * 60, "line 1: nested more than 50 deep"),
        ("name: reviews", f"seed: {'9' * 5000}", "line 1: a number of 5000 characters"),
        ("name: reviews", "seed: 2147483648", "line 1: seed"),
        ("name: reviews", 'name: "a\\0"', "line 1: has the control character"),
        ("source: org/one", "source: ''", "line 4: models.0.source"),
        ("task: sst2", "task: sst2\n    metric: bleu", "line 6: models.0.metric"),
        ("batch_size: 16", "batch_size: 65536", "line 14: latency: batch_size times seq_len is 4194304 tokens"),
        ("schedule:", "release: {policy: '{not JSON'}\nschedule:", "line 16: release.policy, line 1: not YAML"),
        ("schedule:", "release: {policy: '{\"a\": 1}'}\nschedule:", "line 16: release.policy: a: Extra inputs"),
        ("schedule:", "release: {policy: none.yaml}\nschedule:", "line 16: release.policy: there is no"),
        ("schedule:", f"release: {{policy: {'x' * 5000}}}\nschedule:", "line 16: release.policy: there is no"),
        ("schedule:", f"# {'x' * (1 << 18)}\nschedule:", "and at most 262,144 are read"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(config, old, new, message):
    assert old in SWEEP
    path = config(SWEEP.replace(old, new))
    with pytest.raises(InputError) as refused:
        read_config(path)
    assert str(path) in str(refused.value) and message in str(refused.value)


def test_a_cluster_does_not_have_this_machines_files(config, source):
    path = config(
        SWEEP.replace(
            "task: sst2", "train_file: a.csv\n    eval_file: s3://b/e.csv\n    text_columns: [t]\n    label_column: y"
        )
    )
    with pytest.raises(InputError, match="line 5: models.0.train_file: a.csv is a path on this machine"):
        read_config(path, here=False)
    with pytest.raises(InputError, match="there is no"):
        read_config(path)


@pytest.mark.parametrize("name", ["a folder", "a pipe", "/dev/zero"])
def test_a_file_that_is_none_is_refused_where_it_is_named(config, tmp_path, name):
    (tmp_path / "a folder").mkdir()
    os.mkfifo(tmp_path / "a pipe")
    (tmp_path / "e.csv").touch()
    given = f"train_file: {name}\n    eval_file: e.csv\n    text_columns: [t]\n    label_column: y"
    with pytest.raises(InputError, match=r"line 5: models.0.train_file: .* is a folder, a pipe or a device"):
        read_config(config(SWEEP.replace("task: sst2", given)))
    with pytest.raises(InputError, match=r"is a folder|is a pipe|is a device"):
        read_config(tmp_path / name)


def test_the_tasks_of_a_file_are_those_of_the_library():
    for task in ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli", "squad"):
        text = SWEEP.replace("task: sst2", f"task: {glue_task(task).name}")
        assert parse_config(text, Path("sweep.yaml")).models[0].task == task


def test_reading_it_needs_no_torch(config):
    """Airflow's environment has none."""
    code = (
        "import sys; from fastprune.sweep.reading import read_config; from fastprune.sweep.graph import nodes; "
        f"nodes(read_config({str(config())!r})); heavy = {{'torch', 'transformers', 'kfp', 'mlflow', 'numpy'}}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tasks_come_after_those_they_wait_for_and_the_fisher_once_a_model(config):
    found, seen = nodes(read_config(config())), set()
    for node in found:
        assert set(node.after) <= seen and node.name not in seen
        assert {maker for makers in node.inputs.values() for maker, _ in makers} <= set(node.after)
        seen.add(node.name)
    stages = [node.stage.name for node in found]
    count = {stage.name: stages.count(stage.name) for stage in STAGES}
    assert count["merge_importance"] == count["profile"] == count["summarise"] == 2
    assert count["importance"] == count["gate"] == 0
    assert count["importance_shard"] == count["tune"] == 4
    by_name = {node.name: node for node in found}
    assert by_name["merge-importance-two"].inputs["part"] == (
        ("importance-shard-two-0", "part"),
        ("importance-shard-two-1", "part"),
    )
    assert by_name["summarise-one"].inputs["released"] == (
        ("register-one-macs-0-6", "released"),
        ("register-one-latency-0-5", "released"),
    )
    assert not any("two" in before for node in found if node.model.name == "one" for before in node.after)
    assert by_name["conclude-two"].inputs["before"] == (("conclude-one", "conclusion"),)
    waited = {maker for node in found for maker in node.after}
    assert [node.name for node in found if node.name not in waited] == ["conclude-two"]


def test_the_command_of_a_task_takes_the_configuration_from_a_variable(monkeypatch):
    monkeypatch.setenv("SWEEP", SWEEP)
    for config, message in (
        ("env:SWEEP", "reviews has no task 'nothing'; it has prepare-one,"),
        ("env:NOWHERE", "the environment has no variable NOWHERE"),
        ("nowhere.yaml", "nowhere.yaml: the configuration cannot be read"),
    ):
        done = CliRunner().invoke(main, ["stage", config, "nothing", "--root", "out"])
        assert done.exit_code == 2 and message in " ".join(done.output.split()), done.output
