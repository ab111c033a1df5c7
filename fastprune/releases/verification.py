"""Reading a registered version's evidence, and proving that a version is what was registered."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastprune.data.outcomes import OUTCOMES, Outcomes
from fastprune.errors import InputError, Refused, Unreachable
from fastprune.model import checkpoint
from fastprune.releases import forms, registration, serving
from fastprune.releases.evidence import Evidence, Probe, figures_of
from fastprune.store import artifacts, storage
from fastprune.store.artifacts import Artifact
from fastprune.store.bounded import read_json
from fastprune.store.paths import inside
from fastprune.store.secrets import shown
from fastprune.store.signatures import METRICS, SIGNATURE, read_signature
from fastprune.tracking import mlflow_store


class NotAsRegistered(Refused):
    """What the store holds of a version is not what was registered: it is damaged, and was not judged."""


def read_evidence(client, name: str, version: str) -> Evidence:
    """The evidence of a version, once its digest has proved to be the one in the version's tags."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(_download(client, name, version, folder, "artifacts/record/evidence.json"))
        return _check_evidence(path, client.get_model_version(name, version).tags, f"{name} version {version}")


def _check_evidence(path: Path, tags: Mapping[str, str], what: str) -> Evidence:
    if not tags.get("evidence_sha256"):
        raise Refused(f"{what}: has no evidence; register the model with `fastprune register`")
    return Evidence.parse(
        _proved(path, tags["evidence_sha256"], what), f"{what}: its evidence", "register the model again"
    )


def _proved(path: Path, sha256: str, what: str) -> bytes:
    """The content of a file that was registered, once it has proved to be that."""
    if not path.is_file() or storage.sha256_of(path) != sha256:
        raise Refused(
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
        kind = Unreachable if mlflow_store.is_away(error) else Refused
        raise kind(
            f"{name} version {version}: {path or 'its files'} cannot be downloaded from {shown(uri)} "
            f"({mlflow_store.first_line(error)}); check that they may be read, and if they are gone register "
            "the model again"
        ) from error


@dataclass(frozen=True)
class Proof:
    """What :func:`verify` saw.

    Attributes
    ----------
    version : str
    serves : str
        Whose logits were compared: ``pytorch`` or ``onnx``.
    files, bytes : int
        Of the model, in both forms where it has two.
    difference : float
        The greatest of a logit.
    signed_by, signed_at : str
        The key that has signed the figures; empty where they are believed.
    """

    version: str
    serves: str
    files: int
    bytes: int
    difference: float
    signed_by: str
    signed_at: str

    @property
    def figures(self) -> str:
        """Where the figures are from, in words."""
        if self.signed_by:
            return f"its figures were signed by {self.signed_by} at {self.signed_at}"
        return "its figures are not signed: they are what was registered"


def verify(uri: str, name: str, version: str) -> Proof:
    """Download a version and prove that it is what was registered: the model's files, its weights and its logits.

    Of what MLflow adds, only the code that serves the model is proved.

    Raises
    ------
    InputError
        No such version, or anything in it is not as registered.
    """
    with mlflow_store.explained(uri), tempfile.TemporaryDirectory() as folder:
        what = f"{name} version {version}"
        stored = _stored(mlflow_store.connect(uri), name, version, folder)
        evidence, model_dir, serves = stored.evidence, stored.model_dir, stored.evidence.serves
        if checkpoint.digest(checkpoint.load(model_dir)) != evidence.weights_sha256:
            raise Refused(f"{what}: its weights are not those that were registered; register the model again")
        model, place = forms.load(model_dir, serves), forms.folder_of(model_dir, serves)
        now = registration.probe(model, place, registration.read_manifest(model_dir), evidence.probe.texts)
        difference, limit = _difference(evidence.probe, now), forms.tolerance(forms.quantised(model_dir, serves))
        if not difference <= limit:
            raise Refused(
                f"{what}: its logits differ by {difference:.3g} from those at registration, more than {limit:g}: "
                "compare the versions of torch, onnxruntime and transformers with its requirements.txt"
            )
        files = stored.artifact.files
        size = sum(file.bytes for file in files.values())
        return Proof(version, serves, len(files), size, difference, stored.signed_by, stored.signed_at)


@contextmanager
def check_stored(client, name: str, version: str) -> Iterator[Stored]:
    """What is stored of a version, once every file in the store has proved to be what was registered.

    It is there for as long as the ``with`` block lasts.

    Raises
    ------
    NotAsRegistered
        A file is missing or another, or the code that serves the version is not fastprune's.
    Unreachable
        The store does not answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            stored = _stored(client, name, version, folder)
        except Refused as error:
            raise NotAsRegistered(str(error)) from error
        yield stored


@dataclass(frozen=True)
class Stored:
    """A version that was downloaded, and whose files have their digests.

    Attributes
    ----------
    evidence : Evidence
    artifact : Artifact
    outcomes : Outcomes
        Of the evaluation rows; None where they were not stored.
    signed_by, signed_at : str
        The key that has signed figures, outcomes and files, and when; empty where nobody has.
    model_dir : Path
        Its model, as long as the download lasts.
    """

    evidence: Evidence
    artifact: Artifact
    outcomes: Outcomes | None
    signed_by: str
    signed_at: str
    model_dir: Path


def read_outcomes(client, name: str, version: str, evidence: Evidence) -> Outcomes | None:
    """The outcomes of a version's evaluation rows, proved by its evidence; None where they were not stored."""
    if evidence.outcomes_sha256 is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(_download(client, name, version, folder, f"artifacts/record/{OUTCOMES}"))
        return _outcomes(path, evidence, f"{name} version {version}")


def _outcomes(path: Path, evidence: Evidence, what: str) -> Outcomes | None:
    if evidence.outcomes_sha256 is None:
        return None
    _proved(path, evidence.outcomes_sha256, what)
    return Outcomes.load(path)


def _stored(client, name: str, version: str, folder: str) -> Stored:
    """Download a version and prove its files. Raises as :func:`check_stored`."""
    from mlflow.models import Model

    what = f"{name} version {version}"
    root = Path(_download(client, name, version, folder))
    record = root / "artifacts" / "record"
    evidence = _check_evidence(record / "evidence.json", client.get_model_version(name, version).tags, what)
    artifact = artifacts.parse(_proved(record / artifacts.MANIFEST, evidence.artifact_sha256, what), what)
    flavor = Model.load(str(root)).flavors["python_function"]
    _check_code(root, flavor, evidence, what)
    model_dir = inside(root, flavor["artifacts"]["model"]["path"])
    try:
        artifacts.check_files(model_dir, artifact)
    except InputError as error:
        raise Refused(f"{what}: {str(error).replace(f'{model_dir}', 'its model')}") from error
    manifest = registration.read_manifest(model_dir)
    _check_figures(evidence, artifact, manifest, what)
    _check_settings(flavor.get("config") or {}, evidence, artifact, manifest, what)
    by, at = _signed(record, evidence, artifact, what)
    return Stored(evidence, artifact, _outcomes(record / OUTCOMES, evidence, what), by, at, model_dir)


def _check_figures(evidence: Evidence, artifact: Artifact, manifest: Mapping, what: str) -> None:
    """Refuse evidence that says something else of the model than its own files."""
    known = {name: value for name, value in registration.lineage_of(manifest).items() if name in evidence.lineage}
    told = {name: evidence.lineage[name] for name in known}
    weights = manifest.get(checkpoint.WEIGHTS_DIGEST, evidence.weights_sha256)
    size = abs(evidence.megabytes - registration.megabytes_of(artifact))
    if known != told or weights != evidence.weights_sha256 or size > 1e-6:
        raise Refused(f"{what}: its evidence and its files contradict each other; register the model again")


def _check_settings(told: Mapping, evidence: Evidence, artifact: Artifact, manifest: Mapping, what: str) -> None:
    """Refuse a version that MLflow would serve in another form, or with other inputs, than its evidence is of."""
    meant = serving.settings_of(manifest, evidence.serves)
    if forms.SERVES not in evidence.lineage:  # registered before 0.2.0
        told, meant = {}, {} if told.get(forms.SERVES, forms.PYTORCH) == forms.PYTORCH else meant
    if forms.served_by(artifact) != evidence.serves or told != meant:
        raise Refused(f"{what}: MLmodel has it served otherwise than it was judged (config); register it again")


def _signed(record: Path, evidence: Evidence, artifact: Artifact, what: str) -> tuple[str, str]:
    """The key that has signed what is stored of a version, and when; empty where there is no signature.

    Raises
    ------
    Refused
        A signature is there, of other figures, outcomes or files, or the evidence says others than were signed.
    """
    if not (record / SIGNATURE).is_file():
        return "", ""
    signature, metrics = read_signature(record / SIGNATURE), read_json(record / METRICS)
    signature.check(metrics, evidence.outcomes_sha256, artifact.files, what)
    figures = figures_of(metrics, evidence.serves)
    if figures != {name: getattr(evidence, name) for name in figures}:
        raise Refused(f"{what}: its evidence has other figures than were signed; register the model again")
    return signature.key, signature.statement.at


def _check_code(root: Path, flavor: Mapping, evidence: Evidence, what: str) -> None:
    """Prove every file of code that MLflow runs to serve a version: those that ``MLmodel`` names, by whatever name."""
    if flavor.get("loader_module") != "mlflow.pyfunc.loaders.code_model" or flavor.get("code"):
        raise Refused(
            f"{what}: its MLmodel names other code than was registered (loader_module, code); register it again"
        )
    _proved(inside(root, Path(flavor["model_code_path"]).name), evidence.serving_sha256, what)  # as MLflow reads it
    for name in ("inputs", "answers"):
        if name in flavor["artifacts"]:  # not in versions that were registered before 0.2.0
            path = inside(root, flavor["artifacts"][name]["path"])
            _proved(path, str(evidence.lineage.get(f"{name}_sha256", "")), what)


def _difference(before: Probe, after: Probe) -> float:
    pairs = [pair for old, new in zip(before.logits, after.logits, strict=True) for pair in zip(old, new, strict=True)]
    return max(serving.difference(old, new) for old, new in pairs)
