"""Registering a pruned model in MLflow, with the evidence that promotions are judged by; and proving a version later.

The version holds, beside the model's folder, ``record/artifact.json`` (the SHA-256 of every file) and
``record/evidence.json`` (figures, lineage, logits of a few inputs); their digests stand in the version's tags.
"""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path

from fastprune.errors import InputError
from fastprune.model import checkpoint
from fastprune.releases.policy import Evidence, Probe
from fastprune.store import artifacts, storage
from fastprune.store.artifacts import Artifact
from fastprune.tracking import mlflow_store, runs

TOLERANCE = 1e-3
"""Greatest difference of a logit between two machines' arithmetic, absolute or relative."""

_SERVING = Path(__file__).with_name("pyfunc_model.py")
_TEXTS = ["A warm, funny and clever film.", "It was dull from beginning to end!", "Who won? The king did; nobody else."]
_ORIGIN = ("source_sha256", "sample_sha256", "evaluation_sha256", "seed")
_LINEAGE = (
    *_ORIGIN,
    "source_model",
    "task",
    "sample_size",
    "keep_ratio",
    "selection",
    "estimator",
    "tuning",
    "macs_before",
    "macs_after",
)
_FIGURES = ("metric", "dense", "pruned", "speedup", "megabytes", "artifact_sha256", "weights_sha256")
_OWN_TAGS = {*_LINEAGE, *_FIGURES, "evidence_sha256", "code", "registered_by"}


def register(
    uri: str,
    model_dir: str | Path,
    name: str,
    metrics: Mapping,
    *,
    run_id: str = "",
    by: str = "",
    tags: Mapping[str, str] | None = None,
) -> str:
    """Make a pruned model a version of a registered model; a version that holds just this model is found again.

    Parameters
    ----------
    uri : str
        Of the MLflow store.
    model_dir : str or Path
        The pruned model, as ``fastprune compress`` or the pipeline saved it.
    name : str
        Registered model to add the version to.
    metrics : mapping
        The content of its ``metrics.json``.
    run_id : str
        Of its compression; without one a run is made for the registration.
    by : str
        Who registers it.
    tags : mapping, optional
        More tags of the version; a version that is found again gets them too.

    Returns
    -------
    str
        The version.

    Raises
    ------
    InputError
        No pruned model, a damaged one, a tag of fastprune's own, or no right to register.
    """
    model_dir, tags = Path(model_dir), dict(tags or {})
    if own := [tag for tag in tags if tag in _OWN_TAGS or tag.startswith(("promotion.", "rollback."))]:
        raise InputError(f"the tag {own[0]} is written by fastprune itself; give it another name")
    manifest = _manifest(model_dir)
    artifact = seal(model_dir, manifest)
    with mlflow_store.explained(uri):
        client = mlflow_store.connect(uri)
        version = find_version(client, name, artifact.digest)
        if version:
            for key, value in tags.items():
                client.set_model_version_tag(name, version, key, value)
        else:
            evidence = gather(model_dir, manifest, metrics, artifact)
            run_id = run_id or _registration_run(uri, client, name, artifact)
            _discard_unregistered(client, run_id)
            with tempfile.TemporaryDirectory() as folder:
                record = Path(folder, "record")
                record.mkdir()
                artifact.write(record)
                (record / "evidence.json").write_bytes(evidence.content)
                version = log_version(
                    uri,
                    run_id,
                    model_dir,
                    name,
                    problem=manifest["problem"],
                    text_columns=manifest["text_columns"],
                    max_length=manifest["max_length"],
                    record=record,
                    tags={**lineage_tags(evidence), "registered_by": by, **runs.workflow_tags(), **tags},
                )
        _close(client, client.get_model_version(name, version))
    return version


def _manifest(model_dir: Path) -> dict:
    try:
        manifest = json.loads((model_dir / checkpoint.MANIFEST).read_text(encoding="utf-8"))
        missing = {"problem", "text_columns", "max_length", "versions", *_ORIGIN} - manifest.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{model_dir}: no readable {checkpoint.MANIFEST} here; give the folder of a pruned model (the "
            "output folder of `fastprune compress`)"
        ) from error
    if missing:
        raise InputError(
            f"{model_dir / checkpoint.MANIFEST}: has no {', '.join(sorted(missing))}; prune the model "
            "again with this version of fastprune"
        )
    return manifest


def seal(model_dir: Path, manifest: Mapping) -> Artifact:
    """The manifest of a model's folder: its own, proved, or one made here for a folder of ``fastprune compress``."""
    if (model_dir / artifacts.MANIFEST).is_file():
        return artifacts.read(model_dir, artifacts.KINDS["pruned"])
    return Artifact(
        kind=artifacts.KINDS["pruned"],
        stage="compress",
        files=artifacts.list_files(model_dir),
        origin={name: manifest[name] for name in _ORIGIN},
        code=manifest["versions"],
    )


def gather(model_dir: Path, manifest: Mapping, metrics: Mapping, artifact: Artifact) -> Evidence:
    """What is known of a pruned model, measured or recorded."""
    model = checkpoint.load(model_dir)
    own = {
        "megabytes": sum(file.bytes for name, file in artifact.files.items() if name.endswith(".safetensors")) / 1e6,
        "lineage": {name: manifest.get(name) for name in _LINEAGE} | {"code": artifact.code.get("fastprune", "")},
        "artifact_sha256": artifact.digest,
        "weights_sha256": checkpoint.digest(model),
        "serving_sha256": storage.sha256_of(_SERVING),
        "probe": probe(model, model_dir, manifest),
    }
    try:
        latency = metrics.get("latency_ms")
        return Evidence(
            metric=metrics["metric"],
            dense=metrics["dense"],
            pruned=metrics["pruned"],
            speedup=latency["dense"] / latency["pruned"] if latency else None,
            **own,
        )
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(
            f"the metrics of {model_dir} hold no valid metric, dense, pruned and latency_ms "
            f"({' '.join(repr(error).split())}); give the metrics.json that the compression wrote"
        ) from error


def probe(model, model_dir: Path, manifest: Mapping) -> Probe:
    """The logits of a model, saved in ``model_dir``, for a few fixed inputs."""
    import torch

    pairs = zip(_TEXTS, _TEXTS[1:] + _TEXTS[:1])
    texts = [list(pair) if len(manifest["text_columns"]) == 2 else [pair[0]] for pair in pairs]
    tokenizer = checkpoint.load_tokenizer(model_dir)
    longest, logits = min(manifest["max_length"], tokenizer.model_max_length), []
    for row in texts:
        with torch.inference_mode():
            output = model(**tokenizer(*row, truncation=True, max_length=longest, return_tensors="pt"))
        answer = [output[name] for name in ("logits", "start_logits", "end_logits") if name in output]
        logits.append(torch.cat(answer, 1)[0].tolist())
    return Probe(texts=texts, logits=logits)


def lineage_tags(evidence: Evidence) -> dict[str, str]:
    figures = {name: getattr(evidence, name) for name in _FIGURES}
    tags = {**evidence.lineage, **figures, "evidence_sha256": evidence.digest}
    return {name: str(value) for name, value in tags.items() if value is not None}


def find_version(client, name: str, artifact_sha256: str) -> str:
    """The version that holds an artifact; empty if there is none."""
    found = client.search_model_versions(f"name='{name}' and tags.artifact_sha256 = '{artifact_sha256}'")
    return min((str(version.version) for version in found if version.status == "READY"), key=int, default="")


def _registration_run(uri: str, client, name: str, artifact: Artifact) -> str:
    """The run of a registration that was cut off, or a new one."""
    experiment = runs.experiment_id(uri, client)
    begun = client.search_runs([experiment], f"tags.registers = '{artifact.digest}'")
    if begun:
        return begun[0].info.run_id
    return client.create_run(
        experiment, run_name=f"register {name}", tags={"registers": artifact.digest, **runs.workflow_tags()}
    ).info.run_id


def _discard_unregistered(client, run_id: str) -> None:
    """Delete what a registration that was cut off has uploaded: no version holds it."""
    experiment = client.get_run(run_id).info.experiment_id
    for model in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        if not client.search_model_versions(f"source_path = 'models:/{model.model_id}'"):
            client.delete_logged_model(model.model_id)


def _close(client, version) -> None:
    """Tell the version's run where the weights are, and end a run that was made for the registration."""
    for key, value in {"weights.uri": version.source, "weights.sha256": version.tags["weights_sha256"]}.items():
        client.set_tag(version.run_id, key, value)
    run = client.get_run(version.run_id)
    if run.data.tags.get("registers") == version.tags["artifact_sha256"] and run.info.status == "RUNNING":
        client.set_terminated(version.run_id)


def log_version(
    uri: str,
    run_id: str,
    model_dir: str | Path,
    name: str,
    *,
    problem: str,
    text_columns: Iterable[str] = (),
    max_length: int = 128,
    record: Path | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Log a pruned model under a run and register it, tags and all, in one step.

    The version loads with ``mlflow.pyfunc.load_model``: the saved folder travels as it is beside
    ``pyfunc_model.py`` (models from code: nothing is pickled), and needs torch and transformers but not fastprune.

    Returns
    -------
    str
        The version.
    """
    client = mlflow_store.connect(uri)
    import mlflow
    import pandas
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    text_columns = list(text_columns)
    if problem == "question-answering":
        inputs, example = ["question", "context"], ["Who pruned it?", "It was pruned by the gardener."]
    elif len(text_columns) == 2:
        inputs, example = ["text", "text_pair"], ["A first sentence.", "Its pair."]
    else:
        inputs, example = ["text"], ["A text to judge."]
    outputs = {
        "classification": [("string", "label"), ("double", "probability"), ("string", "probabilities")],
        "regression": [("double", "value")],
        "question-answering": [("string", "answer"), ("double", "score")],
    }[problem]
    signature = ModelSignature(
        # A single text goes without a name, so that plain lists of texts are accepted.
        inputs=Schema([ColSpec("string", column if len(inputs) > 1 else None) for column in inputs]),
        outputs=Schema([ColSpec(kind, column) for kind, column in outputs]),
    )
    packages = ("mlflow", "numpy", "pandas", "safetensors", "torch", "transformers")
    with _quiet():
        mlflow.set_tracking_uri(uri)
        with mlflow.start_run(run_id=run_id):
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(_SERVING),
                artifacts={"model": str(model_dir)} | ({"record": str(record)} if record else {}),
                model_config={"problem": problem, "text_columns": text_columns, "max_length": max_length},
                signature=signature,
                input_example=pandas.DataFrame([example], columns=inputs),
                pip_requirements=[f"{package}=={installed(package).split('+')[0]}" for package in packages],
            )
            try:
                client.create_registered_model(name)
            except mlflow.MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            registered = client.create_model_version(
                name, logged.model_uri, run_id, tags=dict(tags or {}), model_id=logged.model_id
            )
    return str(registered.version)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without MLflow's advice on type hints and on input examples."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


def read_evidence(client, name: str, version: str) -> Evidence:
    """The evidence of a version, once its digest has proved to be the one in the version's tags."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(_download(client, name, version, folder, "artifacts/record/evidence.json"))
        return _check_evidence(path, client.get_model_version(name, version).tags, f"{name} version {version}")


def _check_evidence(path: Path, tags: Mapping[str, str], what: str) -> Evidence:
    if not tags.get("evidence_sha256"):
        raise InputError(f"{what}: has no evidence; register the model with `fastprune register`")
    return Evidence.parse(
        _proved(path, tags["evidence_sha256"], what), f"{what}: its evidence", "register the model again"
    )


def _proved(path: Path, sha256: str, what: str) -> bytes:
    """The content of a file that was registered, once it has proved to be that."""
    if not path.is_file() or storage.sha256_of(path) != sha256:
        raise InputError(
            f"{what}: {path.name} is missing or not what was registered (SHA-256 differs); register the model again"
        )
    return path.read_bytes()


def _download(client, name: str, version: str, folder: str, path: str = "") -> str:
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    uri = client.get_model_version_download_uri(name, version)
    if uri.startswith("models:/"):
        uri = client.get_logged_model(uri.removeprefix("models:/")).artifact_location
    try:
        return get_artifact_repository(uri, tracking_uri=client.tracking_uri).download_artifacts(path, dst_path=folder)
    except (OSError, MlflowException) as error:
        raise InputError(
            f"{name} version {version}: {path or 'its files'} cannot be downloaded from {uri} "
            f"({str(error).splitlines()[0]}); check that they may be read, and if they are gone register "
            "the model again"
        ) from error


@dataclass(frozen=True)
class Proof:
    """What :func:`verify` saw: the version, its files and bytes, and the greatest difference of a logit."""

    version: str
    files: int
    bytes: int
    difference: float


def verify(uri: str, name: str, version: str) -> Proof:
    """Download a version and prove that it is what was registered: the model's files, its weights and its logits.

    Of what MLflow adds, only the code that serves the model is proved.

    Raises
    ------
    InputError
        No such version, or anything in it is not as registered.
    """
    from mlflow.models import Model

    with mlflow_store.explained(uri), tempfile.TemporaryDirectory() as folder:
        client = mlflow_store.connect(uri)
        found = client.get_model_version(name, version)
        what = f"{name} version {version}"
        root = Path(_download(client, name, version, folder))
        record = root / "artifacts" / "record"
        evidence = _check_evidence(record / "evidence.json", found.tags, what)
        artifact = artifacts.parse(_proved(record / artifacts.MANIFEST, evidence.artifact_sha256, what), what)
        _proved(root / _SERVING.name, evidence.serving_sha256, what)
        flavor = Model.load(str(root)).flavors["python_function"]
        model_dir = root / flavor["artifacts"]["model"]["path"]
        artifacts.check_files(model_dir, artifact)
        model = checkpoint.load(model_dir)
        if checkpoint.digest(model) != evidence.weights_sha256:
            raise InputError(f"{what}: its weights are not those that were registered; register the model again")
        difference = _difference(evidence.probe, probe(model, model_dir, _manifest(model_dir)))
        if not difference <= TOLERANCE:
            raise InputError(
                f"{what}: its logits differ by {difference:.3g} from those at registration, more than "
                f"{TOLERANCE:g}: compare the versions of torch and transformers with its requirements.txt"
            )
        return Proof(version, len(artifact.files), sum(file.bytes for file in artifact.files.values()), difference)


def _difference(before: Probe, after: Probe) -> float:
    if before.texts != after.texts:
        return float("inf")
    pairs = [pair for old, new in zip(before.logits, after.logits, strict=True) for pair in zip(old, new, strict=True)]
    return max(abs(old - new) / max(1.0, abs(old)) for old, new in pairs)
