"""A real Airflow in its own environment, with configs of tiny sweeps."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import yaml

from tests import servers

REPOSITORY = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("FASTPRUNE_AIRFLOW_PYTHON", REPOSITORY / ".venv-airflow/bin/python"))
needed = servers.skip_without("" if PYTHON.exists() else f"no Airflow in {PYTHON}: make airflow")


class Airflow:
    """An Airflow with a database of its own, the DAG file of this repository, and a folder of configs."""

    def __init__(self, home: Path):
        self.home, self.root, self.configs = home, home / "out", home / "configs"
        self.configs.mkdir(parents=True)
        (home / "dags").mkdir()
        (home / "dags" / "airflow_dag.py").symlink_to(REPOSITORY / "pipelines" / "airflow_dag.py")
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "AIRFLOW_HOME": str(home),
            "HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
            "FASTPRUNE_CONFIGS": str(self.configs),
            "FASTPRUNE_ROOT": str(self.root),
            "FASTPRUNE_PYTHON": sys.executable,
        }

    def run(self, *command: str | Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [PYTHON, *command],
            env=self.environment | environment,
            cwd=self.home,
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert not check or done.returncode == 0, done.stdout
        return done

    def describe(self, **environment: str) -> dict:
        """What ``in_airflow/describe.py`` says of the configs that lie here."""
        self.run(
            REPOSITORY / "tests/pipelines/in_airflow/describe.py",
            self.home / "dags",
            self.home / "seen.json",
            **environment,
        )
        return json.loads((self.home / "seen.json").read_text())

    def run_dag(self, name: str, **environment: str) -> tuple[subprocess.CompletedProcess, dict[str, str]]:
        """Run a DAG to its end; the process, and the state of every task."""
        done = self.run("-m", "airflow", "dags", "test", name, check=False, **environment)
        with closing(sqlite3.connect(self.home / "airflow.db")) as database:
            return done, dict(database.execute("SELECT task_id, state FROM task_instance WHERE dag_id = ?", (name,)))

    def outputs(self, name: str) -> Path:
        """The folder of the only run of a DAG."""
        [run] = (self.root / name).iterdir()
        return run


def write_config(folder: Path, source: dict, name: str, **changes) -> Path:
    model = {key: value for key, value in source.items() if key != "num_samples"}
    config = {
        "name": name,
        "models": [{"name": "tiny", **model}],
        "num_samples": source["num_samples"],
        "budgets": [{"keep_ratio": 0.5}],
        "device": "cpu",
        **changes,
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config))
    return file
