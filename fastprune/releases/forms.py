"""In which form a version is served: the pruned model itself, by torch, or its export, by ONNX Runtime without torch.

A version of an export holds both: the export lies in the folder ``onnx`` of the pruned model's, and which of the two is
served stands in the artifact's settings, in the evidence and in the settings that MLflow gives to the server.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastprune.errors import InputError
from fastprune.export.runtimes import RECORD, load_runtime, read_config
from fastprune.model import checkpoint
from fastprune.releases.evidence import Evidence
from fastprune.store import artifacts, storage
from fastprune.store.artifacts import Artifact
from fastprune.store.signatures import EXPORTED, with_export

SERVES = "serves"
PYTORCH, ONNX = "pytorch", "onnx"

FILE = "model.onnx"

TOLERANCE = 1e-3
"""Greatest difference of a logit between two machines' arithmetic, absolute or relative."""

QUANTISED = 5e-2
"""The same of int8 and float16: processors multiply them by instructions that round otherwise."""


def served_by(artifact: Artifact) -> str:
    """The form in which a version of an artifact is served."""
    return artifact.settings.get(SERVES, PYTORCH)


def with_exported(artifact: Artifact, exported: Path | None) -> Artifact:
    """The artifact of a pruned model that is served as its export; the model's own where there is none.

    Raises
    ------
    InputError
        The export is a damaged artifact, or one of another compression.
    """
    if exported is None:
        return artifact
    if not (exported / RECORD).is_file():
        raise InputError(f"{exported}: is no exported model (no {RECORD}); name the folder that an export has made")
    if (exported / artifacts.MANIFEST).is_file():
        artifacts.common_origin(
            {"the pruned model": artifact, "its export": artifacts.read(exported, artifacts.KINDS["exported"])}
        )
    settings = artifact.settings | {SERVES: ONNX}
    return artifact.model_copy(update={"files": with_export(artifact.files, exported), "settings": settings})


@contextmanager
def without_links(model_dir: Path) -> Iterator[Path]:
    """The folder itself, or where files in it are links, as in the hub's cache, a copy with their content."""
    if not any(path.is_symlink() for path in model_dir.rglob("*")):
        yield model_dir
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            copy = shutil.copytree(model_dir, Path(folder, model_dir.resolve().name))
        except shutil.Error as error:
            raise InputError(f"{model_dir}: a link in it leads nowhere ({error.args[0][0][0]}); mend it") from error
        yield copy


@contextmanager
def one_folder(model_dir: Path, exported: Path | None, artifact: Artifact) -> Iterator[Path]:
    """A folder with the files of an artifact: the model's own, or a copy of it with its export."""
    if exported is None or exported.resolve() == (model_dir / EXPORTED).resolve():
        yield model_dir
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, model_dir.resolve().name)
        for name in artifact.files:
            inside = name.removeprefix(f"{EXPORTED}/")
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(model_dir / name if inside == name else exported / inside, place / name)
        try:
            yield place
        except InputError as error:
            if type(error) is not InputError:
                raise
            told = str(error).replace(str(place / EXPORTED), str(exported)).replace(str(place), str(model_dir))
            raise InputError(told) from error  # the copy is gone when it is read


def folder_of(model_dir: Path, serves: str) -> Path:
    """Where configuration, tokenizer and weights of what is served lie."""
    return model_dir / EXPORTED if serves == ONNX else model_dir


def load(model_dir: Path, serves: str) -> Any:
    """What is served, as a model of torch that the evaluation runs."""
    if serves == PYTORCH:
        return checkpoint.load(model_dir)
    folder = folder_of(model_dir, serves)
    return load_runtime(folder / FILE, read_config(folder))


def quantised(model_dir: Path, serves: str) -> str | None:
    """``int8`` or ``fp16`` of an export; None of float32."""
    return checkpoint.read_object(model_dir / EXPORTED / RECORD).get("quantize") if serves == ONNX else None


def tolerance(quantize: str | None) -> float:
    """By how much logits may differ between two machines."""
    return QUANTISED if quantize else TOLERANCE


def check_export(model_dir: Path, metrics: Mapping, weights_sha256: str) -> None:
    """Raise InputError where an export is not of this model, not for ONNX Runtime, or not what the metrics are of."""
    folder = model_dir / EXPORTED
    record, told = checkpoint.read_object(folder / RECORD), metrics.get("exported")
    if record.get("format") != "onnx" or record.get("file") != FILE:
        raise InputError(f"{folder / RECORD}: is not of a model for ONNX Runtime; export it with --format onnx")
    if "vocabulary" in record:
        raise InputError(
            f"{folder}: has a trimmed vocabulary, and a version answers as its pruned model does on every text; "
            "register an export with the whole vocabulary, and serve this one by itself"
        )
    if record.get("weights_sha256") != weights_sha256:
        raise InputError(f"{folder}: was exported from other weights than those of {model_dir}; export these")
    if not isinstance(told, Mapping) or "sha256" not in told:
        raise InputError(
            f"the metrics of {model_dir} have no figures of an exported model, and the version would be judged by "
            "them; compress with --export onnx"
        )
    file = folder / FILE
    found = storage.sha256_of(file) if file.is_file() else "none"
    if told["sha256"] != found:
        raise InputError(f"{file}: is not the file that the metrics are of (SHA-256 {found}); compress again")


def told(evidence: Evidence) -> str:
    """What the description of a version says of an export that it serves, in Markdown; of the model itself nothing."""
    if evidence.serves == PYTORCH:
        return ""
    form = evidence.lineage.get("quantize") or "float32"
    return (
        f"## As it is served\n\nONNX Runtime, {form}, {evidence.megabytes:.1f} MB, without torch: {evidence.metric} "
        f"{evidence.pruned:.4f}, and dense PyTorch takes {evidence.speed} times as long. Policies judge this.\n\n"
    )
