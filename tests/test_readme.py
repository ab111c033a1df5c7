"""What the pages promise: README's blocks run as they stand; commands, options, links and folders are there."""

import re
import shlex
import shutil
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from fastprune.cli.main import main
from fastprune.sweep.config import Sweep
from fastprune.sweep.reading import parse_config, read_config

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not {part for part in path.relative_to(ROOT).parts if part.startswith(".") or part in ("build", "shared")}
)
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page that are marked with one of the languages; the shell's have no mark."""
    return [match[3] for match in FENCE.finditer(page.read_text()) if match[2] in languages]


def commands(block: str) -> list[list[str]]:
    """Words of every command of a shell block, without comments."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_readme_stays_short():
    assert len((ROOT / "README.md").read_text().split()) < 1300


def test_readmes_make_targets_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\S+)", "\n".join(blocks(ROOT / "README.md", "")), re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_readmes_blocks_run_as_they_stand(material, tmp_path, monkeypatch):
    """From top to bottom, in a folder that has what they name: MODEL, train.tsv and dev.tsv."""
    shutil.copytree(material / "model", tmp_path / "MODEL")
    rows = (material / "train.tsv").read_text().splitlines(keepends=True)
    (tmp_path / "train.tsv").write_text("".join(rows[:120]))
    shutil.copy(material / "eval.tsv", tmp_path / "dev.tsv")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the pipeline's steps: see conftest.py
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    ran = []
    for match in FENCE.finditer((ROOT / "README.md").read_text()):
        language, block = match[2], match[3]
        if language == "python":
            exec(compile(block, "README.md", "exec"), {})
            ran.append("python")
        elif language == "yaml":
            Path("sweep.yaml").write_text(block)
            assert len(read_config("sweep.yaml").budgets) == 2
        else:
            for program, *arguments in commands(block):
                if program == "fastprune":
                    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
                    assert result.exit_code == 0, result.output
                    ran.append(arguments[0])
                else:
                    assert program == "make"
    assert ran == ["compress", "python", "python", "run"]
    files = {path.name for path in Path("OUT").iterdir()}
    assert {"model.safetensors", "config.json", "manifest.json", "metrics.json"} <= files
    assert {name for name in files if name.endswith(".py")} == {"modeling_fastprune.py", "families.py"}
    assert len(list(Path("RUN").rglob("metrics.json"))) == 2


def documented() -> list:
    return [
        pytest.param(words[1:], id=f"{page.relative_to(ROOT)}: {' '.join(words[:3])}")
        for page in PAGES
        for block in blocks(page, "")
        for words in commands(block)
        if words[0] == "fastprune"
    ]


@pytest.mark.parametrize("arguments", documented())
def test_every_command_of_the_pages_is_one_with_these_options(arguments):
    """Parsed, not run; `...` stands for options left out."""
    command = main.get_command(None, arguments[0])
    assert command is not None, f"there is no command fastprune {arguments[0]}"
    given = [word for word in arguments[1:] if word != "..."]
    if isinstance(command, click.Group):
        command, *given = command.commands[given[0]], *given[1:]
    with command.make_context(arguments[0], given, parent=click.Context(main)) as context:
        assert not context.args


def yaml_blocks() -> list:
    return [
        pytest.param(block, id=f"{page.relative_to(ROOT)}, {number}")
        for page in PAGES
        for number, block in enumerate(blocks(page, "yaml"))
        if set(yaml.safe_load(block)) & set(Sweep.model_fields)
    ]


@pytest.mark.parametrize("block", yaml_blocks())
def test_every_configuration_of_the_pages_is_accepted(block, tmp_path):
    """A part of a configuration is completed by a model and a budget; files of this machine are made."""
    document = {"name": "x", "models": [{"name": "x", "source": "s3://x/m", "task": "sst2"}]}
    document |= {"budgets": [{"keep_ratio": 0.5}]} | yaml.safe_load(block)
    (tmp_path / "policy.yaml").write_text("max_accuracy_drop: 0.02\n")
    for name in ("train.tsv", "dev.tsv", "texts.jsonl", "pairs.jsonl"):
        (tmp_path / name).write_text("text\tlabel\n")
    here = "s3://" not in block
    assert parse_config(yaml.safe_dump(document), tmp_path / "sweep.yaml", here=here).models


def linked() -> list:
    return [
        pytest.param(page, target, id=f"{page.relative_to(ROOT)}: {target}")
        for page in PAGES
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text())
        if not target.startswith("http")
    ]


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(("page", "target"), linked())
def test_every_link_leads_somewhere(page, target):
    name, _, anchor = target.partition("#")
    file = page.parent / name if name else page
    assert file.exists()
    assert not anchor or anchor in anchors(file)


def test_every_folder_of_the_package_is_in_the_architecture():
    """And every file or folder that the table names is there."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for path in (ROOT / "fastprune").iterdir():
        if path.is_dir() and (path / "__init__.py").exists():
            assert f"`{path.name}/`" in text, path.name
    for name in re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.py)?)`", text):
        assert (ROOT / "fastprune" / name).exists() or (ROOT / name).exists(), name


def libraries() -> list:
    text = (ROOT / "ARCHITECTURE.md").read_text().split("## What imports what", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| ([a-z0-9, ]+) \| (.+) \|$", text, re.MULTILINE)
    return [(library, places) for names, places in rows for library in names.split(", ") if library != "library"]


@pytest.mark.parametrize(("library", "places"), libraries())
def test_libraries_are_imported_only_where_the_architecture_says(library, places):
    allowed = re.findall(r"`([\w./]+)`", places)
    importing = re.compile(rf"^\s*(import|from) {library}\b", re.MULTILINE)
    files = [path for top in ("fastprune", "components", "pipelines") for path in (ROOT / top).rglob("*.py")]
    using = [
        str(path.relative_to(ROOT)).removeprefix("fastprune/") for path in files if importing.search(path.read_text())
    ]
    assert using, f"{library} is imported nowhere"
    assert [name for name in using if not name.removeprefix("fastprune/").startswith(tuple(allowed))] == []


def named_tests() -> list:
    """Of the table in tests/README.md: a file, then the tests in it that are named behind it."""
    rows = [line.split("|")[3] for line in (ROOT / "tests/README.md").read_text().splitlines() if line.count("|") == 4]
    found = [re.findall(r"`([\w/]+\.py)`:((?: `\w+`,?)+)", row) for row in rows]
    return [(file, name) for row in found for file, names in row for name in re.findall(r"`(\w+)`", names)]


@pytest.mark.parametrize(("file", "name"), named_tests())
def test_every_test_of_the_table_exists(file, name):
    assert re.search(rf"^def test_{name}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE)


def test_every_row_of_the_table_names_a_test():
    table = (ROOT / "tests/README.md").read_text().split("## Kinds of fault", 1)[1]
    rows = [line for line in table.splitlines()[4:] if line.startswith("| ") and not line.startswith("| **")]
    assert len(rows) > 20 and all(".py`: `" in row for row in rows[2:])
