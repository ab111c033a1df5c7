"""What is written follows the umask, so that a shared folder works for others too."""

import os
import tempfile

import pytest

from fastprune.store import storage
from fastprune.store.output import new_folder


@pytest.mark.parametrize("umask, file, folder", [(0o022, 0o644, 0o755), (0o002, 0o664, 0o775), (0o077, 0o600, 0o700)])
def test_files_and_folders_follow_the_umask(tmp_path, umask, file, folder):
    before = os.umask(umask)
    try:
        store = storage.open_store(tmp_path / "store")
        store.create("events/1.json", b"{}")
        (tmp_path / "weights").write_bytes(b"0")
        store.upload(tmp_path / "weights", "objects/1", "of other content")
        with new_folder(tmp_path / "out") as out:
            (out / "sub").mkdir()
            handle, name = tempfile.mkstemp(dir=out / "sub")  # as libraries do that write and rename
            os.close(handle)
    finally:
        os.umask(before)
    modes = {
        path.relative_to(tmp_path): path.stat().st_mode & 0o777
        for root in ("store", "out")
        for path in (tmp_path / root, *(tmp_path / root).rglob("*"))
    }
    assert len(modes) == 8
    for path, mode in modes.items():
        assert mode == (folder if (tmp_path / path).is_dir() else file), path
