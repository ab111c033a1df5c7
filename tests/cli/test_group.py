"""What all commands share."""

import click
import pytest
from click.testing import CliRunner
from reviews import run, table_arguments

from fastprune.cli.group import check_output, command
from fastprune.cli.main import main
from fastprune.errors import InputError, needs


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
            check_output(tmp_path / name, "table", lambda path: None)
    assert not (tmp_path / "away").exists()


def test_a_missing_extra_is_named_with_its_remedy():
    with (
        pytest.raises(InputError, match=r"needs nowhere_at_all, .* pip install 'fastprune\[pipeline\]'"),
        needs("pipeline"),
    ):
        import nowhere_at_all  # noqa: F401
