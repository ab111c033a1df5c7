"""A SQLite store of MLflow, made by one process and whole, or not at all.

MLflow makes its tables in some sixty migrations, in the file itself: killed meanwhile, it leaves a file that it can
neither use nor finish. Here the file is made beside its place and renamed.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from fastprune.errors import InputError
from fastprune.store.partials import partial_folder

_PREFIX = "sqlite:///"
_log = logging.getLogger(__name__)


def file_of(uri: str) -> Path | None:
    """The file of a SQLite store; None for a store of another kind, or in memory."""
    name = uri.removeprefix(_PREFIX)
    return Path(name) if uri.startswith(_PREFIX) and name and not name.startswith(":") and "?" not in name else None


def prepare(file: Path, *, version: bool = False) -> None:
    """Make a store that is not there, and one whose making was cut off again.

    Parameters
    ----------
    file : Path
        Of processes that come at once, one makes it, and the others wait for it.
    version : bool
        Look also whether the migrations have all run: once for a compression, since it takes a tenth of a second.

    Raises
    ------
    InputError
        The file is no SQLite database, or one that holds runs and is not of the installed MLflow's version: it is left
        as it is, and the remedy named. Or it cannot be written.
    """
    from filelock import FileLock

    if file.is_file() and _is_whole(file, version):
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_name(f".{file.name}.lock")):
            if file.is_file():
                if _is_whole(file, version):  # by who had the lock
                    return
                _put_aside(file)
            _make(file)
    except OSError as error:
        raise InputError(
            f"{file}: the MLflow store cannot be made there ({error.strerror or error}); set MLFLOW_TRACKING_URI to "
            "another place"
        ) from error


def _is_whole(file: Path, version: bool) -> bool:
    from mlflow.store.db import utils

    if not set(utils.Base.metadata.tables) <= _tables(file):
        return False
    return not version or _ask(file, "SELECT version_num FROM alembic_version") == [utils._get_latest_schema_revision()]


def _put_aside(file: Path) -> None:
    """Give a store that holds nothing another name."""
    tables = _tables(file)
    if held := [
        name for name in ("runs", "registered_models") if name in tables and _ask(file, f"SELECT 1 FROM {name}")
    ]:
        raise InputError(
            f"{file}: this MLflow store is not of the version that is installed, or its upgrade was cut off, and it "
            f"holds {' and '.join(held)}; copy the file, then run `mlflow db upgrade {_PREFIX}{file}`, or set "
            "MLFLOW_TRACKING_URI to another store"
        )
    aside = next(path for n in range(1, 10**6) if not (path := file.with_name(f"{file.name}.cut-off-{n}")).exists())
    file.rename(aside)
    _log.warning("%s: its making was cut off, and it holds no run; it is made again (the old one: %s)", file, aside)


def _make(file: Path) -> None:
    from mlflow.store.db import utils

    with partial_folder(file) as folder:
        partial = folder / file.name
        engine = utils.create_sqlalchemy_engine_with_retry(f"{_PREFIX}{partial}")
        utils._initialize_tables(engine)
        engine.dispose()
        os.replace(partial, file)


def _tables(file: Path) -> set[str]:
    return set(_ask(file, "SELECT name FROM sqlite_master WHERE type = 'table'"))


def _ask(file: Path, query: str) -> list:
    """The first column of what a query finds."""
    try:  # not as read-only: that could not roll back the journal of one that was killed
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=20)) as database:
            return [row[0] for row in database.execute(query)]
    except sqlite3.DatabaseError as error:
        raise InputError(
            f"{file}: no MLflow store can be read there ({error}); move the file away, or set MLFLOW_TRACKING_URI to "
            "another store"
        ) from error
