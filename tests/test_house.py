"""The layout: what is installed and declared, what imports what, and what starts without torch."""

import ast
import configparser
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import fastprune
from fastprune.cli.main import COMMANDS, main

ROOT = Path(fastprune.__file__).parents[1]
FOLDERS = {"fastprune": ROOT / "fastprune", "fastprune.components": ROOT / "components"}
FOLDERS["fastprune.pipelines"] = ROOT / "pipelines"
DISTRIBUTIONS = {
    "PIL": "pillow",
    "boto3": "boto3",
    "botocore": "boto3",
    "google": "protobuf",
    "kfp_kubernetes": "kfp-kubernetes",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Of modules that are not called like what installs them."""


def modules():
    """Every module of the package by its dotted name."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            parts = [*package.split("."), *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def settings():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def imports(path, *, everywhere):
    """What a module imports: at its top level when it is loaded, or everywhere in it."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if everywhere else tree.body
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_package_is_installed():
    declared = settings()["options"]["packages"].split()
    assert sorted(declared) == sorted(name for name, path in modules().items() if path.name == "__init__.py")


def test_what_is_imported_is_declared():
    config = settings()
    lines = [config["options"]["install_requires"], *(config["options.extras_require"].values())]
    declared = {
        line.split(";")[0].split("[")[0].split(">")[0].split("=")[0].split("<")[0].strip().lower()
        for block in lines
        for line in block.splitlines()
    }
    used = (
        {name.split(".")[0] for path in modules().values() for name in imports(path, everywhere=True)}
        - sys.stdlib_module_names
        - {"fastprune"}
    )
    used -= {"airflow", "kubernetes"}  # Airflow's own environment: pipelines/airflow-constraints.txt
    assert {DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in used} <= declared


def test_modules_import_each_other_without_a_circle():
    known = modules()
    graph = {name: {one for one in imports(path, everywhere=False) if one in known} for name, path in known.items()}
    state = {}

    def visit(name, way):
        if state.get(name) == "done":
            return
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        for other in sorted(graph[name]):
            visit(other, [*way, name])
        state[name] = "done"

    for name in sorted(graph):
        visit(name, [])


def test_no_file_is_too_long():
    long = {str(path): len(path.read_text().splitlines()) for path in modules().values()}
    assert {path: lines for path, lines in long.items() if lines > 400} == {}


def test_names_of_test_files_are_their_own():
    """pytest imports test files by their names alone, so that two of one name cannot be in one run."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize(
    "module", ["fastprune.cli.main", "fastprune.settings", "fastprune.sweep.reading", "fastprune.sweep.graph"]
)
def test_what_airflow_and_the_command_line_load_is_light(module):
    heavy = ("torch", "transformers", "kfp", "mlflow", "datasets")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_help_loads_no_command():
    code = (
        "import sys; from fastprune.cli.main import main; main(['--help'], standalone_mode=False); print(*sys.modules)"
    )
    taken = {"pass": [], code: []}  # an interpreter alone, and with fastprune
    for program in [*taken] * 3:
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
        taken[program].append(time.perf_counter() - begin)
    assert min(taken[code]) < 15 * min(taken["pass"]) and all(name in done.stdout for name in COMMANDS)
    loaded = done.stdout.splitlines()[-1].split()
    commands = {f"fastprune.cli.{path.stem}" for path in (ROOT / "fastprune" / "cli").glob("*.py")}
    assert commands & set(loaded) <= {"fastprune.cli.main", "fastprune.cli.group", "fastprune.cli.__init__"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_where_the_table_says(name):
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0, done.output


def test_no_code_of_a_models_folder_is_asked_for():
    """transformers asks on a terminal whether to run it, unless it is told not to."""
    for path in modules().values():
        nodes = [*ast.walk(ast.parse(path.read_text()))]
        told = {
            node.func for node in nodes if isinstance(node, ast.Call) and "trust_remote_code=False" in ast.unparse(node)
        }
        for node in nodes:
            if isinstance(node, ast.Attribute) and node.attr == "from_pretrained":
                assert "auto" not in ast.unparse(node).lower() or node in told, f"{path}:{node.lineno}"
