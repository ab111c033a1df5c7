"""What all commands share."""

import sys

import click
import pytest
from click.testing import CliRunner
from reviews import run, table_arguments
from tiny_config import write_config

import fastprune
from fastprune.cli.group import command
from fastprune.cli.main import main
from fastprune.errors import InputError, lacks_extra
from fastprune.store.output import check_file


@command()
@click.option("--one")
@click.option("--many", multiple=True)
def given(one, many):
    click.echo(f"{one} {many}")


def test_an_option_is_given_once():
    assert "1 ('2', '3')" in CliRunner().invoke(given, ["--one", "1", "--many", "2", "--many", "3"]).output
    twice = CliRunner().invoke(given, ["--one", "1", "--one", "2"])
    assert twice.exit_code == 2 and "--one is given twice" in twice.output


def test_a_repeated_option_of_compress(material, tmp_path):
    done = run("m", *table_arguments(material), "--label-column", "other", "--output-dir", tmp_path / "out")
    assert done.exit_code == 2 and "--label-column is given twice" in done.output


def test_a_pair_by_the_same_option_twice(material, tmp_path):
    arguments = table_arguments(material)
    done = run(material / "model", *arguments, "--text-column", "text", "--dry-run")
    assert done.exit_code == 0, done.output  # the column beside itself: a pair


def test_an_old_name_is_told(material):
    done = run("m", *table_arguments(material), "--fisher", "per_batch", "--dry-run")
    assert done.exit_code == 2 and "--fisher is called --estimator since version 0.2.0" in done.output


@pytest.mark.parametrize("device", ["meta", "tpu", "cuda:x"])
def test_a_device_that_cannot_compute(material, device):
    done = run(material / "model", *table_arguments(material, device=device), "--dry-run")
    assert done.exit_code == 2 and device in done.output and "use auto, cpu or cuda" in done.output


def test_a_file_of_another_kind_is_not_overwritten(material, tmp_path):
    file = tmp_path / "config.json"
    file.write_text("mine")
    for arguments in (["profile", material / "model"], ["compile", file]):
        done = CliRunner().invoke(main, [*map(str, arguments), "--output", str(file)])
        assert done.exit_code == 2 and "config.json exists and is no" in done.output and file.read_text() == "mine"


def test_links_and_folders_are_no_files_to_write(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "away")
    for name in ("", "link"):
        with pytest.raises(InputError, match="is a folder, a link or a device"):
            check_file(tmp_path / name, "table", lambda path: None)
    assert not (tmp_path / "away").exists()


@pytest.fixture
def pipelines_anew(monkeypatch):
    """The modules of the pipelines are imported again in a test; behind it the old ones are there, and no other."""

    def loaded():
        return [name for name in sys.modules if name.startswith("fastprune.pipelines")]

    for name in loaded():
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(fastprune, "pipelines", raising=False)
    yield
    for name in loaded():
        del sys.modules[name]
    vars(fastprune).pop("pipelines", None)


@pytest.mark.parametrize(
    "extra, module, arguments",
    [
        ("pipeline", "kfp", ["run", "CONFIG", "--output-dir", "out"]),
        ("pipeline", "kfp", ["compile", "CONFIG"]),
        ("pipeline", "kfp", ["submit", "CONFIG"]),
        ("pipeline", "kfp", ["schedules"]),
        ("mlflow", "mlflow", ["verify", "m", "champion"]),
        ("mlflow", "mlflow", ["verify", "m", "1"]),
        ("s3", "boto3", ["stage", "CONFIG", "prepare-bert", "--root", "s3://bucket/root"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_missing_extra_is_named_with_its_remedy(
    tmp_path, monkeypatch, pipelines_anew, source, extra, module, arguments
):
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    config = str(write_config(tmp_path / "c.yaml", source))
    done = CliRunner().invoke(main, [config if argument == "CONFIG" else argument for argument in arguments])
    assert done.exit_code == 2, done.output
    assert f"this needs {module}" in done.output and f"pip install 'fastprune[{extra}]'" in done.output


def test_a_missing_module_of_no_extra_keeps_its_traceback():
    assert lacks_extra(ModuleNotFoundError("no", name="nowhere")) is None
