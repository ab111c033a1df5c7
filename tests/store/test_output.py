"""Where output cannot go is told before the work; a result that cannot be written when all is done is kept."""

import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner
from other_users import ALICE, as_user
from reviews import compress, files_under, run, table_arguments
from tiny_config import write_config

import fastprune
from fastprune import compression
from fastprune.cli.main import main
from fastprune.errors import InputError
from fastprune.model import checkpoint
from fastprune.store.output import check_file, check_output, check_place, new_folder, write_or_keep

IMPOSSIBLE = {
    "a folder": ("there", "the output folder exists; name another"),
    "a file": ("file", "a file of this name exists"),
    "a dangling link": ("link", "a link that leads nowhere of this name exists"),
    "below a file": ("file/deep/out", "file is a file and no folder"),
    "below a dangling link": ("link/out", "link is a link that leads nowhere and no folder"),
    "a long name": ("x" * 256, "File name too long"),
    "a long path": ("/".join(["y" * 200] * 25), "File name too long"),
    "in S3": ("s3://bucket/out", "output is written on this machine"),
    "somewhere else": ("gs://bucket/out", "output is written on this machine"),
    "where nothing can be made": ("/proc/out", "nothing can be written in /proc"),
}


@pytest.fixture
def place(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    return tmp_path


def below(place, name):
    return name if ":/" in name else place / name


@pytest.mark.parametrize("name, told", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_a_place_where_output_cannot_go_is_refused(place, name, told):
    before = files_under(place)
    with pytest.raises(InputError, match=told):
        check_output(below(place, name))
    with pytest.raises(InputError, match=told), new_folder(below(place, name)):
        pytest.fail("got a folder to fill")
    assert files_under(place) == before


@pytest.mark.parametrize("name, told", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_compress_and_run_refuse_it_before_any_work(place, material, source, monkeypatch, name, told):
    def work(*given, **named):
        raise AssertionError("the work has begun")

    monkeypatch.setattr(checkpoint, "load_dense", work)
    monkeypatch.setattr("fastprune.pipelines.local_run.forked_steps", work)
    monkeypatch.chdir(place)
    config = write_config(place / "c.yaml", source)
    before = files_under(place)
    commands = [["run", str(config), "--output-dir", str(below(place, name))]]
    if "/deep/" not in name:  # kept short: the other way to the same check
        commands.append(
            ["compress", str(material / "model"), *map(str, table_arguments(material))]
            + ["--output-dir", str(below(place, name))]
        )
    for command in commands:
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 2 and told in " ".join(done.output.split()), done.output
    assert files_under(place) == before


def test_a_folder_without_rights():
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o555)
        told = as_user(lambda: check_output(Path(place, "out")), ALICE if os.getuid() == 0 else os.getuid())
    assert re.search("nothing can be written in .*Permission denied", told)


@pytest.mark.parametrize("name", ["s3://bucket/lut.json", "file/lut.json", "x" * 300, "/proc/lut.json"])
def test_a_file_that_cannot_be_written(place, name):
    with pytest.raises(InputError, match="name"):
        check_file(Path(below(place, name)), "look-up table", lambda path: None)


def test_a_name_of_many_bytes(tmp_path):
    with new_folder(tmp_path / ("模" * 80)) as folder:
        (folder / "file").write_text("")
    assert [path.name for path in tmp_path.iterdir()] == ["模" * 80]


def test_a_disk_without_room_is_told_before_the_work(tmp_path, material, monkeypatch):
    needed = checkpoint.saved_bytes(checkpoint.load_dense(material / "model"))
    usage = shutil._ntuple_diskusage
    for free in (needed - 1, needed):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage(10 * needed, 0, free))
        check_place(tmp_path)
        done = run(material / "model", *table_arguments(material), "--output-dir", tmp_path / str(free))
        assert done.exit_code == (0 if free == needed else 2)
        assert ("MB are free there, and " in done.output) == (free < needed)
        assert (tmp_path / str(free)).exists() == (free == needed)


def taken_meanwhile(monkeypatch, output):
    """Somebody makes the output folder while the work is done."""
    prune = compression._prune

    def pruned(*given, **named):
        result = prune(*given, **named)
        output.mkdir()
        (output / "mine").write_text("mine")
        return result

    monkeypatch.setattr(compression, "_prune", pruned)


def test_a_name_that_is_taken_meanwhile_costs_nothing(tmp_path, material, monkeypatch):
    compress(material, output_dir=tmp_path / "undisturbed")
    (tmp_path / "out-1").mkdir()
    taken_meanwhile(monkeypatch, tmp_path / "out")
    with pytest.raises(InputError, match="out: the output folder exists.*the result is kept in .*out-2: move it"):
        compress(material, output_dir=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out-1", "out-2", "undisturbed"]
    for name in ("model.safetensors", "manifest.json"):
        assert (tmp_path / "out-2" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()
    fastprune.load(tmp_path / "out-2")


def test_a_name_that_is_taken_in_the_last_moment(tmp_path):
    with pytest.raises(InputError, match="exists"), new_folder(tmp_path / "out") as folder:
        (folder / "model").write_text("")
        (tmp_path / "out").write_text("mine")
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (tmp_path / "out").read_text() == "mine"


def test_what_can_be_written_nowhere_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def write(place):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(InputError, match="out: cannot be written .No space left.*the result is lost; make room"):
        write_or_keep(tmp_path / "out", write)
    with pytest.raises(ZeroDivisionError):  # a fault of the program is told as such
        write_or_keep(tmp_path / "out", lambda place: 1 / 0)
    assert not list(tmp_path.iterdir())


FULL = """
    import shutil, sys
    from pathlib import Path
    from fastprune import compression
    from fastprune.cli.main import main
    prune, disk = compression._prune, Path(sys.argv[1])
    def pruned(*given, **named):
        result = prune(*given, **named)
        (disk / "other").write_bytes(bytes(shutil.disk_usage(disk).free - 50_000))
        return result
    compression._prune = pruned
    main(sys.argv[2:])
"""


@pytest.mark.skipif(
    os.getuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0,
    reason="a disk to fill is mounted by root",
)
def test_a_disk_that_is_full_when_all_is_done(tmp_path, material):
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    kept.mkdir()
    arguments = ["compress", material / "model", *table_arguments(material), "--output-dir", disk / "out"]
    script = 'mount -t tmpfs -o size=16m disk "$1" && shift && "$@"; status=$?; ls -A "$DISK"; exit $status'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", disk]
        + [sys.executable, "-c", textwrap.dedent(FULL), disk, *map(str, arguments)],
        env={**os.environ, "DISK": str(disk), "TMPDIR": str(kept)},
        capture_output=True,
        text=True,
        check=False,
    )
    said = " ".join(done.stderr.split())
    assert done.returncode == 2 and "Traceback" not in said, done.stderr
    assert "No space left on device" in said and f"the result is kept in {kept}/out-" in said
    assert done.stdout.splitlines()[-1] == "other", "nothing half-written stays on the full disk"
    [model] = kept.iterdir()
    assert fastprune.load(model).config.kept_heads
