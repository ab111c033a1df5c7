"""Typed artifacts: a folder of files and, written last, the manifest that proves them.

:func:`makes` turns a stage into one that refuses inputs that are damaged, of another kind or of different models, data
or seeds, and that skips work whose outputs are there and whole. With ``FASTPRUNE_ARTIFACT_ROOT`` (a folder or an
``s3://`` prefix) outputs are published there as well and found again by any machine::

    objects/<sha256>                    every file once, whichever artifacts hold it
    artifacts/<recipe>/<output>.json    the manifest, written when all of its files are there
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from fastprune.environment import choose_device, code_version, device_name
from fastprune.errors import InputError, Unreachable
from fastprune.store import copies, keys, storage
from fastprune.store.bounded import read_bytes, read_json
from fastprune.store.damage import Damaged
from fastprune.store.documents import Document
from fastprune.store.output import check_output
from fastprune.store.partials import partial_folder
from fastprune.store.paths import inside

MANIFEST = "artifact.json"
RECORD = "stage.json"

KINDS = {
    "model": "dense-model",
    "sample": "sample",
    "evaluation": "evaluation-data",
    "dense": "metrics",
    "table": "latency-table",
    "part": "importance-part",
    "importance": "importance",
    "chosen": "metrics",
    "searched": "masks",
    "rearranged": "masks",
    "tuned": "masks",
    "pruned": "pruned-model",
    "measured": "metrics",
    "exported": "exported-model",
    "report": "report",
}
"""The type of each folder that a stage reads or makes, by its name."""


class File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str
    bytes: int


class Artifact(Document):
    """What ``artifact.json`` says.

    Attributes
    ----------
    kind, stage : str
        Its type, and the stage that made it.
    files : dict
        SHA-256 and size of every file but the manifest, by path below the folder.
    inputs : dict
        The digest of every input artifact, by name.
    origin : dict
        Digests of the model and the data, and the seed, that it belongs to, as far as they matter to it.
    recipe : str
        SHA-256 of stage, inputs, settings, code and device: equal recipes make interchangeable artifacts.
    settings, code, device : dict, dict, str
        The stage's arguments; versions of what computed it; the processor it was computed on.
    """

    kind: str
    stage: str
    files: dict[str, File]
    inputs: dict[str, str] = {}
    origin: dict[str, str | int] = {}
    recipe: str = ""
    settings: dict = {}
    code: dict[str, str] = {}
    device: str = ""

    def write(self, folder: Path) -> None:
        (folder / MANIFEST).write_bytes(self.content)


def list_files(folder: Path) -> dict[str, File]:
    """Digest and size of every file of a folder, its manifest left out."""
    return {
        str(path.relative_to(folder)): File(sha256=storage.sha256_of(path), bytes=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }


def parse(content: bytes, name: object) -> Artifact:
    """Read a manifest; ``name`` says where it is from in what is refused."""
    return Artifact.parse(
        content, f"{name}, an artifact's manifest", "make the artifact again with this version of fastprune"
    )


def read(folder: Path, kind: str | None = None) -> Artifact:
    """The manifest of an artifact, once its files have proved to be what it says.

    Raises
    ------
    InputError
        No manifest, another kind, or a file that is missing, added or changed.
    """
    try:
        artifact = parse(read_bytes(folder / MANIFEST), folder / MANIFEST)
    except FileNotFoundError as error:
        raise InputError(f"{folder}: no {MANIFEST} here, so this is no whole artifact; make it again") from error
    except OSError as error:
        raise InputError(f"{folder / MANIFEST}: cannot be read ({error.strerror}); make the artifact again") from error
    if kind and artifact.kind != kind:
        raise InputError(f"{folder}: an artifact of kind {artifact.kind!r} where {kind!r} belongs")
    check_files(folder, artifact)
    return artifact


def check_files(folder: Path, artifact: Artifact) -> None:
    """Raise InputError naming the first file of ``folder`` that is not what the manifest says."""
    present = list_files(folder)
    for name in sorted(artifact.files.keys() | present.keys()):
        if name not in present:
            raise InputError(f"{folder / name}: missing, though the manifest lists it; make the artifact again")
        if name not in artifact.files:
            raise InputError(f"{folder / name}: not in the manifest; remove it, or make the artifact again")
        if present[name] != artifact.files[name]:
            raise InputError(
                f"{folder / name}: SHA-256 {present[name].sha256} where the manifest says "
                f"{artifact.files[name].sha256}: the file is damaged; make the artifact again"
            )


def common_origin(inputs: Mapping[str, Artifact]) -> dict[str, str | int]:
    """Model, data and seed of artifacts that are to be used together.

    Raises
    ------
    InputError
        Two of them are not of the same model, data or seed.
    """
    origin: dict[str, tuple[str, str | int]] = {}
    for name, artifact in inputs.items():
        for what, value in artifact.origin.items():
            first, known = origin.setdefault(what, (name, value))
            if known != value:
                raise InputError(
                    f"{name} is of another compression than {first}: {what} is {value} here and {known} "
                    "there; give artifacts of one compression"
                )
    return {what: value for what, (_, value) in origin.items()}


def makes(*outputs: str, reads: Iterable[str] = (), signs: bool = False, **origins: tuple[str, ...]) -> Callable:
    """Decorate a stage: its artifacts are checked, sealed, published and not made twice.

    Parameters
    ----------
    *outputs : str
        Names of the folders that the stage makes; all others of ``KINDS`` among its arguments are inputs. The first
        holds ``stage.json``, what the stage returns.
    reads : sequence of str
        Arguments that name files or models of the user's, told apart by their content.
    signs : bool
        What it makes is signed, if there is a key: what another key has signed is not taken for this one's.
    **origins : tuple of str
        Outputs whose origin the stage settles: the settings in ``stage.json`` that it consists of. Other outputs
        inherit that of the inputs.
    """
    outputs += tuple(origins)

    def decorate(run: Callable[..., dict]) -> Callable[..., dict]:
        signature = inspect.signature(run)

        @functools.wraps(run)
        def stage(**given) -> dict:
            bound = signature.bind(**given)
            bound.apply_defaults()
            arguments = bound.arguments
            folders = {name: Path(arguments[name]) for name in outputs}
            inputs = {
                label: read(folder, KINDS[name])
                for name, value in arguments.items()
                if name in KINDS and name not in outputs
                for label, folder in _folders(name, value)
            }
            origin = common_origin(inputs)
            settings = {name: _plain(value) for name, value in arguments.items() if name not in KINDS}
            # Figures of another processor are not taken for this one's.
            made: dict[str, Any] = {
                "stage": run.__name__,
                "inputs": {name: artifact.digest for name, artifact in inputs.items()},
                "settings": settings,
                "code": code_version(),
                "device": device_name(choose_device(str(settings.get("device", "cpu")))),
            }
            content = made | {"settings": settings | {name: _content(settings[name]) for name in reads}}
            if signs and (key := keys.public_key()):
                content["signed_by"] = key
            recipe = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
            root = os.environ.get("FASTPRUNE_ARTIFACT_ROOT")
            store = storage.open_store(root) if root else None

            _check_own(folders, recipe)
            there = all(folder.exists() for folder in folders.values())
            if not there and not (store and _pull(store, recipe, folders)):
                if store:
                    _check_writable(store)
                parent = folders[outputs[0]].parent
                parent.mkdir(parents=True, exist_ok=True)
                with partial_folder(parent / run.__name__) as work:
                    partial = {name: Path(work, name) for name in outputs}
                    record = run(**arguments | partial)
                    for name, folder in partial.items():
                        own = {what: record["settings"][what] for what in origins.get(name, ())}
                        Artifact(
                            kind=KINDS[name], files=list_files(folder), origin=origin | own, recipe=recipe, **made
                        ).write(folder)
                    _move(partial, folders)
            if store:
                _push(store, recipe, folders)
            return read_json(folders[outputs[0]] / RECORD)

        return stage

    return decorate


def _folders(name: str, value: object) -> list[tuple[str, Path]]:
    """The folders of an input, each with a name: none, one, or a list of them."""
    if value is None:
        return []
    if isinstance(value, list | tuple):
        return [(f"{name}.{index}", Path(folder)) for index, folder in enumerate(value)]
    return [(name, Path(str(value)))]


def _check_own(folders: Mapping[str, Path], recipe: str) -> None:
    """Refuse outputs that exist and are not whole, or not what this call makes."""
    for folder in folders.values():
        if not (folder / MANIFEST).is_file():
            check_output(folder)
        elif read(folder).recipe != recipe:
            raise InputError(
                f"{folder}: the output folder exists and is of other inputs, settings or code; name "
                "another or remove it first"
            )


def _move(partial: Mapping[str, Path], folders: Mapping[str, Path]) -> None:
    # What a killed run of the same recipe left behind is whole, and stays.
    for name, folder in folders.items():
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            partial[name].rename(folder)


def _manifest_key(recipe: str, name: str) -> str:
    return f"artifacts/{recipe}/{name}.json"


def _object_key(sha256: str) -> str:
    return f"objects/{sha256}"


def _check_writable(store: storage.Store) -> None:
    """Refuse a root that the result could not be published in, before the work. Raises InputError."""
    for prefix in ("objects/", "artifacts/"):
        try:
            store.check_writable(prefix)
        except Unreachable:
            raise
        except InputError as error:
            raise InputError(f"{error} (FASTPRUNE_ARTIFACT_ROOT)") from error


def _push(store: storage.Store, recipe: str, folders: Mapping[str, Path]) -> None:
    """Publish artifacts: files first, manifests last, and of two writers of one recipe the first."""
    for name, folder in folders.items():
        if store.read(_manifest_key(recipe, name)) is None:
            content = read_bytes(folder / MANIFEST)
            for path, file in parse(content, folder).files.items():
                store.upload(inside(folder, path), _object_key(file.sha256), file.sha256)
            store.create(_manifest_key(recipe, name), content)


def _pull(store: storage.Store, recipe: str, folders: Mapping[str, Path]) -> bool:
    """Fetch the published artifacts of a recipe; False where not all of them are there.

    One that has lost a file, to whoever cleared the store up, is taken out of it, so that it can be published again.
    """
    published: dict[str, bytes] = {}
    for name in folders:
        if (content := store.read(_manifest_key(recipe, name))) is None:
            return False
        published[name] = content
    parent = next(iter(folders.values())).parent
    parent.mkdir(parents=True, exist_ok=True)
    with partial_folder(parent / "artifacts") as work:
        partial = {name: Path(work, name) for name in folders}
        for name, folder in partial.items():
            artifact = parse(published[name], _manifest_key(recipe, name))
            for path, file in artifact.files.items():
                target = inside(folder, path)
                target.parent.mkdir(parents=True, exist_ok=True)
                if not _fetch(store, file, target):
                    store.delete(_manifest_key(recipe, name))
                    return False
            (folder / MANIFEST).write_bytes(published[name])
        _move(partial, folders)
    return True


def _fetch(store: storage.Store, file: File, target: Path) -> bool:
    """Get a file of an artifact; False where it is gone. Raises InputError where it is damaged."""
    try:
        return store.download(_object_key(file.sha256), target, size=file.bytes, sha256=file.sha256)
    except Damaged as error:
        raise Damaged(error.uri, error.difference, "remove it there, and it is made and published again") from error


def _content(location: object) -> object:
    """SHA-256 of the file or folder at a location; what is neither (a hub's name) stands for itself."""
    if not location:
        return location
    path = Path(copies.local(str(location)))
    if path.is_file():
        return storage.sha256_of(path)
    if path.is_dir():
        return {name: file.sha256 for name, file in list_files(path).items()}
    return location


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
