"""How often a task was begun on Kubeflow and did not end: a pod that is killed cannot say so, the next one can.

Argo begins a pod that was killed again, once more than the stage's ``retries``. Each notes below
``FASTPRUNE_ARTIFACT_ROOT`` that it has begun, and takes the note away when it ends; the last one finds the notes of all
before, and does no more than to put the failure into its outputs.
"""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastprune.errors import InputError
from fastprune.store import storage

_POD = "KFP_POD_NAME"
"""In every pod of Kubeflow."""

_log = logging.getLogger(__name__)


@contextmanager
def noted(output: Path) -> Iterator[int]:
    """How many tries of this task have not ended; within the ``with`` block this one is among them.

    Parameters
    ----------
    output : Path
        Where one of its results goes: the run and the task are in it, and a second try is given the same.
    """
    root = os.environ.get("FASTPRUNE_ARTIFACT_ROOT")
    if not root or not os.environ.get(_POD):
        yield 0
        return
    folder = f"tries/{hashlib.sha256(str(output).encode()).hexdigest()}/"
    own = f"{folder}{uuid.uuid4().hex}"
    try:
        store = storage.open_store(root)
        before = store.keys(folder)
        store.create(own, b"{}")
    except InputError as error:
        _log.warning("%s; whether this task was killed before is not known", error)
        yield 0
        return
    yield len(before)
    try:
        for key in (*before, own):
            store.delete(key)
    except InputError as error:
        _log.warning("%s", error)
