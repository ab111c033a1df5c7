"""What a killed process leaves unfinished is removed by the next one; what a living one makes stays."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastprune.store import partials, storage
from fastprune.store.output import new_folder
from fastprune.store.partials import DAY, partial_folder, remove_left

HOLDS = """
import sys, time
from pathlib import Path
from fastprune.store.partials import partial_file, partial_folder
with partial_folder(Path(sys.argv[1], "out")) as folder, partial_file(Path(sys.argv[1], "key")) as file:
    (folder / "model").write_text("half")
    print(folder.name, file.name, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def held(tmp_path):
    """A process that is making a folder and a file, and their names."""
    environment = {**os.environ, "PYTHONPATH": str(Path(partials.__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    names = process.stdout.readline().split()
    yield process, [tmp_path / name for name in names]
    process.kill()
    process.wait()


def test_what_a_living_process_makes_stays_and_what_a_killed_one_left_goes(tmp_path, held):
    process, made = held
    assert all(path.name.startswith(".") and path.exists() for path in made) and len(made) == 2
    (tmp_path / ".out-mine").write_text("not of a partial's name")
    with new_folder(tmp_path / "one"):
        pass
    assert all(path.exists() for path in made)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert all(path.exists() for path in made)
    with new_folder(tmp_path / "two"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out-mine", "one", "two"]


def test_a_store_removes_what_a_killed_upload_left(tmp_path, held):
    process, made = held
    process.kill()
    process.wait()
    assert storage.open_store(tmp_path).create("key", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["key"] and made


def test_what_another_machine_left_stays_for_a_day(tmp_path, monkeypatch):
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(partials, "_machine", lambda: "0" * 8)
        left = partials._hidden(tmp_path / "out")
    left.mkdir()
    remove_left(tmp_path)
    assert left.exists()
    yesterday = time.time() - DAY - 60
    os.utime(left, (yesterday, yesterday))
    remove_left(tmp_path)
    assert not left.exists()


@pytest.mark.parametrize("old", [True, False])
def test_a_file_system_without_locks(tmp_path, monkeypatch, old):
    """There nobody can tell whether it is held: it stays for a day, whosever it is."""

    def no_locks(handle, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(partials.fcntl, "flock", no_locks)
    left = partials._hidden(tmp_path / "out")
    left.mkdir()
    if old:
        os.utime(left, (0, 0))
    with partial_folder(tmp_path / "next") as folder:
        assert folder.is_dir() and left.exists() == (not old)
    assert not folder.exists()


def test_a_folder_removed_before_it_could_be_opened_is_made_again(tmp_path):
    seen = []

    def make_and_lose(path):
        path.mkdir()
        if not seen:  # another process is faster
            path.rmdir()
        seen.append(path)

    with partials._held(tmp_path / "out", make_and_lose) as folder:
        assert folder.is_dir() and len(seen) == 2
    assert not folder.exists()


def test_a_folder_taken_for_left_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    lock, seen = partials.fcntl.flock, []

    def slow(handle, how):
        if how & partials.fcntl.LOCK_SH and not seen:  # another process is faster
            seen.append(handle)
            [made] = tmp_path.iterdir()
            made.rmdir()
        lock(handle, how)

    monkeypatch.setattr(partials.fcntl, "flock", slow)
    with partial_folder(tmp_path / "out") as folder:
        assert folder.is_dir() and seen


def test_pipes_and_links_of_such_a_name_are_left_alone(tmp_path):
    (tmp_path / "file").write_text("mine")
    link, pipe = partials._hidden(tmp_path / "link"), partials._hidden(tmp_path / "pipe")
    link.symlink_to(tmp_path / "file")
    os.mkfifo(pipe)
    remove_left(tmp_path)  # and does not wait for a writer
    assert link.is_symlink() and (tmp_path / "file").read_text() == "mine"
