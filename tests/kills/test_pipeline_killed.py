"""``fastprune run``, killed at random moments: starting again completes it with the same bytes; nothing stays.

Half of the signals go to the whole group of processes, as from a terminal, the others to the parent of the steps alone.
"""

import re
import shutil
import signal
import time
from pathlib import Path

import mlflow
import pytest
from reviews import files_under
from signalling import COUNTS, LONG, Command, moments
from tiny_config import write_config

import fastprune
from fastprune.data import Task

OUT = "out"
STAYS = {"mlflow.db", ".mlflow.db.lock", "tmp", "work"}
"""What lies in the folder after a run whose output was taken away."""

IN_A_ROW = 8
"""Kills before the run is completed."""


@pytest.fixture
def command(source, tmp_path):
    return Command(
        ["run", str(write_config(tmp_path / "c.yaml", source)), "--output-dir", OUT, "--work-dir", "work"],
        tmp_path / "place",
        {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/place/mlflow.db"},
    )


def runs_of(command):
    """All that MLflow has: none before its store is there."""
    if not (command.folder / "mlflow.db").exists():
        return []
    client = mlflow.MlflowClient(command.variables["MLFLOW_TRACKING_URI"])
    return client.search_runs([one.experiment_id for one in client.search_experiments()], max_results=10_000)


def finished_models(command):
    """How many runs of a model have ended well; one that was killed behind its last stage is among them."""
    models = [one.info.status for one in runs_of(command) if "mlflow.parentRunId" not in one.data.tags]
    return models.count("FINISHED")


def completed(command):
    """Run the command to its end; nothing but its output is left, and no run in MLflow is open.

    Return its files, and its seconds.
    """
    before = finished_models(command)
    seconds = command.run()
    made = files_under(command.folder / OUT / "model")
    for name in ("stage.json", "artifact.json", "README.md"):  # they hold what was measured
        made.pop(Path(name), None)
    shutil.rmtree(command.folder / OUT)
    assert {path.name for path in command.folder.iterdir() if path.name != "mlruns"} == STAYS
    assert not [*(command.folder / "work").iterdir(), *(command.folder / "tmp").iterdir()]
    assert not [one.info.run_name for one in runs_of(command) if one.info.status == "RUNNING"]
    assert finished_models(command) == before + 1
    return made, seconds


def weights_of_the_one_call(source, folder):
    made = fastprune.compress(
        source["source"],
        dataset=source["train_file"],
        evaluation=source["eval_file"],
        task=Task("c", "classification", "accuracy", ("sentence",), "label"),
        keep_ratio=0.5,
        num_samples=source["num_samples"],
        device="cpu",
        progress=False,
    )
    made.model.save_pretrained(folder)
    return (folder / "model.safetensors").read_bytes()


def check_told(command, number):
    """A signal that can be heard: told in a word, and nothing is left but what MLflow has."""
    said = command.said.read_text()
    assert not said or (said.rstrip().endswith("Aborted") and "Traceback" not in said)  # nothing: before it could hear
    # SQLite's journal of what was cut off is taken back by whoever opens the store next.
    assert {path.name for path in command.folder.iterdir()} <= STAYS | {"mlruns", "mlflow.db-journal"}
    assert not [*(command.folder / "work").glob("*"), *(command.folder / "tmp").iterdir()], number.name


def test_a_signal_to_the_parent_alone_ends_the_step_and_no_other_begins(command, source, tmp_path):
    for number in (signal.SIGINT, signal.SIGKILL):
        began = time.monotonic()
        assert command.kill(number, 0.1, all_of_it=False, when=lambda: "  search " in command.said.read_text())
        assert time.monotonic() - began < 100
        steps = re.findall(r"^  ([a-z-]+) ", command.said.read_text(), re.MULTILINE)
        assert steps[-1] in ("search", "rearrange"), steps
        if number == signal.SIGINT:
            check_told(command, number)
    weights = completed(command)[0][Path("model.safetensors")]
    assert weights == weights_of_the_one_call(source, tmp_path / "reference")


@pytest.mark.faults
@pytest.mark.parametrize("number", COUNTS if LONG else [signal.SIGTERM], ids=lambda number: number.name)
def test_killed_at_random(command, number):
    expected, seconds = completed(command)
    killed, finished = 0, 1
    for count, (part, all_of_it) in enumerate(moments(number)):
        came = command.kill(number, part * seconds, all_of_it=all_of_it)
        killed += came
        if (command.folder / OUT).exists():  # it was done already
            finished += 1
            shutil.rmtree(command.folder / OUT)
        elif number != signal.SIGKILL:
            check_told(command, number)
        if count % IN_A_ROW == IN_A_ROW - 1 or count == COUNTS[number] - 1:
            assert finished <= finished_models(command) <= finished + count % IN_A_ROW + 1  # one for each at most
            made, seconds = completed(command)  # a machine may be busy for a while
            assert made == expected
            finished = finished_models(command)
    assert not LONG or killed >= COUNTS[number] / 2  # one alone may come too late
    print(f"{number.name}: {COUNTS[number]} sent, {killed} before the end, completed with the same bytes")
