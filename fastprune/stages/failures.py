"""What stands in the place of a result: a folder with ``failed.json``, which says what failed and why.

A stage that fails costs its own compression alone. Kubeflow stops everything when one task fails, so there no task of a
compression does: it puts this into its outputs, and the stages after it hand it on. It imports no torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from fastprune.errors import InputError
from fastprune.store.bounded import parse_json, read_bytes

MARK = "failed.json"

FAILED = "this goes no further:"
"""In the log of a task that failed, or that was handed a failure."""

KILLED = "FASTPRUNE_KILLED"
"""Set by the local runner for a step whose process was killed, when it asks the step to say so in its outputs."""

WAS_KILLED = "the process was killed; if it was for its memory, take a smaller batch_size"


@dataclass(frozen=True)
class Failure:
    """A stage that failed, and why, in one line."""

    stage: str
    why: str

    def __str__(self) -> str:
        return f"{self.stage}: {self.why}"

    @classmethod
    def of(cls, stage: str, error: BaseException) -> Failure:
        """From an exception; the type of a foreseen one says nothing to people."""
        said = " ".join(str(error).split())
        if isinstance(error, InputError):
            return cls(stage, said)
        return cls(stage, f"{type(error).__name__}: {said}".removesuffix(": "))

    @property
    def content(self) -> bytes:
        return (json.dumps(asdict(self), indent=2) + "\n").encode()

    @classmethod
    def parse(cls, content: bytes | None, name: object = MARK) -> Failure | None:
        """What a mark says. Raises InputError where it is none."""
        if not content:
            return None
        told = parse_json(content, name)
        if not (isinstance(told, dict) and isinstance(told.get("stage"), str) and isinstance(told.get("why"), str)):
            raise InputError(f"{name}: says no stage and no reason; run the pipeline again")
        return cls(told["stage"], told["why"])


def mark(folder: Path, failure: Failure) -> None:
    """Put a failure in the place of a result, and of whatever lies there."""
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.unlink(missing_ok=True)
    folder.mkdir(parents=True)
    (folder / MARK).write_bytes(failure.content)


def failure_in(folder: Path) -> Failure | None:
    """The failure that stands in the place of a result; None where the result is there."""
    file = folder / MARK
    return Failure.parse(read_bytes(file), file) if file.exists() else None


def first_failure(folders: Iterable[Path]) -> Failure | None:
    """That of the first folder that holds one."""
    return next((failure for failure in map(failure_in, folders) if failure), None)


def told(conclusion: Mapping) -> str:
    """What a ``conclusion.json`` says has failed, in one line; empty where nothing has."""
    alike: dict[str, list[str]] = {}
    for one in conclusion["failed"]:
        alike.setdefault(f"{one['stage']}: {one['why']}", []).append(one["compression"])
    failed = "; ".join(f"{', '.join(names)}: {why}" for why, names in alike.items())
    count = f"{len(conclusion['failed'])} of {conclusion['compressions']} compressions failed: {failed}"
    return "; ".join([count] * bool(failed) + conclusion["problems"])
