"""Registering a pruned model in MLflow, with the evidence that promotions are judged by; and proving a version later.

The version holds, beside the model's folder, ``record/artifact.json`` (the SHA-256 of every file) and
``record/evidence.json`` (figures, lineage, logits of a few inputs); their digests stand in the version's tags.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ValidationError

from fastprune.data import read_table
from fastprune.data.outcomes import OUTCOMES, Outcomes, standard_error
from fastprune.data.preparation import rows_to_serve
from fastprune.errors import InputError
from fastprune.model import card, checkpoint
from fastprune.problem import problem_of
from fastprune.releases import forms, serving
from fastprune.releases.evidence import Evidence, Probe, figures_of, numbers_of
from fastprune.releases.tags import LINEAGE, ORIGIN, WORKFLOW, check_tags, facts_of, tags_of
from fastprune.releases.words import model_name, sentence
from fastprune.store import artifacts, storage
from fastprune.store.artifacts import Artifact
from fastprune.store.bounded import read_json
from fastprune.store.signatures import METRICS, SIGNATURE, read_signature
from fastprune.tracking import mlflow_store, operations, runs


def register(
    uri: str,
    model_dir: str | Path,
    name: str,
    metrics: Mapping,
    *,
    run_id: str = "",
    by: str = "",
    tags: Mapping[str, str] | None = None,
    rows: Sequence[Sequence[str]] = (),
    measured: str | Path | None = None,
    exported: str | Path | None = None,
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
    rows : sequence of sequence of str
        Texts of real rows [rows, text columns]: what they would be served is compared with what they are evaluated as.
    measured : str or Path, optional
        The folder with what was written beside ``metrics.json``: the outcome of every evaluation row; by default
        ``model_dir``.
    exported : str or Path, optional
        The model's export for ONNX Runtime: the version serves that, needs no torch, and is judged by its figures.

    Returns
    -------
    str
        The version.

    Raises
    ------
    InputError
        No pruned model, a damaged one, one with code that is not fastprune's, one that would be served other answers
        than it was evaluated with, a tag of fastprune's own, or no right to register.
    """
    model_dir, tags, name = Path(model_dir), dict(tags or {}), model_name(name)
    for key, value in tags.items():
        sentence(key, "the name of a tag (--tag)"), sentence(value, f"the tag {key!r} (--tag)")
    check_tags(tags)
    with forms.without_links(model_dir) as own_dir:
        manifest = read_manifest(own_dir)
        artifact = forms.with_exported(seal(own_dir, manifest), Path(exported) if exported else None)
        with forms.one_folder(own_dir, Path(exported) if exported else None, artifact) as folder:
            serving.check_code(folder)
            return _register(
                uri, folder, name, manifest, artifact, metrics, Path(measured or own_dir), run_id, by, tags, rows
            )


def _register(
    uri: str,
    model_dir: Path,
    name: str,
    manifest: Mapping,
    artifact: Artifact,
    metrics: Mapping,
    measured: Path,
    run_id: str,
    by: str,
    tags: Mapping[str, str],
    rows: Sequence[Sequence[str]],
) -> str:
    with mlflow_store.explained(uri):
        client = mlflow_store.connect(uri)
        version = find_version(client, name, artifact.digest)
        if version:
            for key, value in tags.items():
                client.set_model_version_tag(name, version, key, value)
        else:
            evidence = gather(model_dir, manifest, metrics, artifact, rows, measured)
            made = serving.open_model(client, name)  # before anything else is: who may not do this leaves nothing
            with _undone_if_refused(client, name, made, "" if run_id else artifact.digest):
                run_id = run_id or _registration_run(uri, client, name, artifact)
                _discard_unregistered(client, run_id)
                with tempfile.TemporaryDirectory() as folder:
                    record = Path(folder, "record")
                    record.mkdir()
                    artifact.write(record)
                    (record / "evidence.json").write_bytes(evidence.content)
                    _write_measured(record, measured, metrics, evidence, artifact, model_dir)
                    own = tags_of(evidence, by) | _workflow(client, run_id)
                    about = card.about_source(model_dir)
                    version = serving.log_version(
                        uri,
                        run_id,
                        model_dir,
                        name,
                        settings=serving.settings_of(manifest, evidence.serves),
                        record=record,
                        card=f"{card.headline(manifest, {**metrics, 'pruned': evidence.pruned})}\n\n"
                        f"{forms.told(evidence)}{card.text(about, manifest, metrics)}",
                        figures=numbers_of(evidence),
                        tags={**own, **tags},
                    )
        _close(client, client.get_model_version(name, version))
    return version


class _Told(BaseModel):
    """What is read of a manifest; it says more."""

    problem: str
    text_columns: list[str]
    max_length: int
    versions: dict[str, str]
    source_sha256: str
    sample_sha256: str
    evaluation_sha256: str
    seed: int


def read_manifest(model_dir: Path) -> dict:
    """The manifest of a pruned model. Raises InputError where there is none, or where it has another shape."""
    file = model_dir / checkpoint.MANIFEST
    try:
        manifest = read_json(file)
        missing = _Told.model_fields.keys() - manifest.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{model_dir}: no readable {checkpoint.MANIFEST} here; give the folder of a pruned model (the "
            "output folder of `fastprune compress`)"
        ) from error
    if missing:
        raise InputError(
            f"{file}: has no {', '.join(sorted(missing))}; prune the model again with this version of fastprune"
        )
    try:
        _Told.model_validate(manifest, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}; copy the folder again, or prune again"
        ) from error
    serving.answers_of(manifest["problem"])
    return manifest


def real_rows(model_dir: Path, eval_file: str) -> list[list[str]]:
    """Texts of a table's rows, short and long, in the columns that a pruned model reads.

    Raises
    ------
    InputError
        No pruned model, no such table, or no such columns in it.
    """
    manifest, table = read_manifest(model_dir), read_table(eval_file)
    problem = problem_of(manifest["problem"])
    columns = problem.texts_in(table, manifest["text_columns"])
    if missing := [name for name in columns if name not in table.column_names]:
        raise InputError(f"{eval_file}: there is no column {missing[0]!r}, which the model reads; {table.column_names}")
    return rows_to_serve(table, problem, columns)


def seal(model_dir: Path, manifest: Mapping) -> Artifact:
    """The manifest of a model's folder: its own, proved, or one made here for a folder of ``fastprune compress``."""
    if (model_dir / artifacts.MANIFEST).is_file():
        return artifacts.read(model_dir, artifacts.KINDS["pruned"])
    return Artifact(
        kind=artifacts.KINDS["pruned"],
        stage="compress",
        files=artifacts.list_files(model_dir),
        origin={name: manifest[name] for name in ORIGIN},
        code=manifest["versions"],
    )


def gather(
    model_dir: Path,
    manifest: Mapping,
    metrics: Mapping,
    artifact: Artifact,
    rows: Sequence[Sequence[str]] = (),
    measured: Path | None = None,
) -> Evidence:
    """What is known of a pruned model, in the form that is served, measured or recorded."""
    weights_sha256, serves = checkpoint.digest(checkpoint.load(model_dir)), forms.served_by(artifact)
    if serves == forms.ONNX:
        forms.check_export(model_dir, metrics, weights_sha256)
    model = forms.load(model_dir, serves)
    probed = probe(model, forms.folder_of(model_dir, serves), manifest)
    own = {
        "megabytes": megabytes_of(artifact),
        "lineage": lineage_of(manifest)
        | {forms.SERVES: serves, "quantize": forms.quantised(model_dir, serves)}
        | {"code": artifact.code.get("fastprune", ""), "inputs_sha256": storage.sha256_of(serving.INPUTS)}
        | {"answers_sha256": storage.sha256_of(serving.answers_of(manifest["problem"]))},
        "artifact_sha256": artifact.digest,
        "weights_sha256": weights_sha256,
        "serving_sha256": storage.sha256_of(serving.SERVED),
        "probe": probed,
    }
    serving.check_answers(model, model_dir, manifest, [*probed.texts, *rows], serves)
    try:
        evidence = Evidence(**figures_of(metrics, serves), **own)
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(
            f"the metrics of {model_dir} hold no valid metric, dense, pruned and latency_ms "
            f"({' '.join(repr(error).split())}); give the metrics.json that the compression wrote"
        ) from error
    outcomes = (measured or model_dir) / OUTCOMES
    if not outcomes.is_file():
        return evidence
    _check_outcomes(outcomes, evidence)
    return evidence.model_copy(update={"outcomes_sha256": storage.sha256_of(outcomes)})


def _write_measured(
    record: Path, measured: Path, metrics: Mapping, evidence: Evidence, artifact: Artifact, model_dir: Path
) -> None:
    """What was measured, into the record that travels with a version; a signature that does not hold is refused."""
    (record / METRICS).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    if evidence.outcomes_sha256:
        shutil.copyfile(measured / OUTCOMES, record / OUTCOMES)
    if (measured / SIGNATURE).is_file():
        signature = read_signature(measured / SIGNATURE)
        signature.check(metrics, evidence.outcomes_sha256, artifact.files, f"{model_dir}")
        (record / SIGNATURE).write_bytes(signature.content)


def lineage_of(manifest: Mapping) -> dict:
    """What the manifest says of source, data, seed and budget."""
    return {name: manifest.get(name) for name in LINEAGE}


def megabytes_of(artifact: Artifact) -> float:
    """Of the weights that are served, in 10^6 bytes."""
    suffix = ".onnx" if forms.served_by(artifact) == forms.ONNX else ".safetensors"
    return sum(file.bytes for name, file in artifact.files.items() if name.endswith(suffix)) / 1e6


def _check_outcomes(file: Path, evidence: Evidence) -> None:
    """Raise InputError where outcomes are not those of the figures, or of other rows than the manifest names."""
    outcomes = Outcomes.load(file)
    if outcomes.evaluation_sha256 != evidence.lineage["evaluation_sha256"] or outcomes.metric != evidence.metric:
        raise InputError(f"{file}: is of other evaluation rows or another metric than the model's; evaluate it again")
    for name, figure in (("dense", evidence.dense), (evidence.judged, evidence.pruned)):
        rows = outcomes.values.get(name)
        if rows is None or abs(rows.mean() - figure) > 1e-6 + (standard_error(rows) or 0):
            raise InputError(f"{file}: does not give the metric {figure:.6g} that is told of {name}; evaluate it again")


def probe(model, folder: Path, manifest: Mapping, texts: list[list[str]] | None = None) -> Probe:
    """The logits of a model, whose tokenizer lies in ``folder``, for a few texts, or an earlier probe's."""
    if texts is None:
        texts = problem_of(manifest["problem"]).probes(manifest["text_columns"])
    tokenizer = checkpoint.load_tokenizer(folder)
    return Probe(texts=texts, logits=serving.logits(model, tokenizer, texts, manifest))


def find_version(client, name: str, artifact_sha256: str) -> str:
    """The version that holds an artifact; empty if there is none."""
    versions = client.search_model_versions(f"name='{name}' and tags.artifact_sha256 = '{artifact_sha256}'")
    return min((str(version.version) for version in versions if version.status == "READY"), key=int, default="")


def _registration_run(uri: str, client, name: str, artifact: Artifact) -> str:
    """The run of a registration that was cut off, or a new one; it is closed by others if this process is killed."""
    own = operations.owner(model=False) | {operations.KEY: artifact.digest}
    if begun := _runs_that_register(client, artifact.digest):
        for key, value in own.items():
            client.set_tag(begun[0], key, value)
        return begun[0]
    experiment = operations.experiment_id(uri, client, runs.EXPERIMENT)
    tags = {"registers": artifact.digest, **own, **runs.workflow_tags()}
    return client.create_run(experiment, run_name=f"register {name}", tags=tags).info.run_id


@contextmanager
def _undone_if_refused(client, name: str, made: bool, registers: str) -> Iterator[None]:
    """Take back what a registration has begun, where the server refuses the rest of it.

    Parameters
    ----------
    made : bool
        The registered model was made for it.
    registers : str
        The artifact for which a run was made; empty where it has the run of a compression.
    """
    from mlflow import MlflowException

    try:
        yield
    except (MlflowException, InputError) as error:
        status = mlflow_store.status_of(error)
        if isinstance(error, InputError) or (status is not None and 400 <= status < 500):
            with suppress(MlflowException):  # what it may not take back stays
                if registers:
                    for run in _runs_that_register(client, registers):
                        _discard_unregistered(client, run)
                        client.delete_run(run)
                if made and not client.search_model_versions(f"name='{name}'"):
                    client.delete_registered_model(name)
        raise


def _runs_that_register(client, artifact_sha256: str) -> list[str]:
    experiment = client.get_experiment_by_name(runs.EXPERIMENT)
    if experiment is None:
        return []
    begun = client.search_runs([experiment.experiment_id], f"tags.registers = '{artifact_sha256}'")
    return [run.info.run_id for run in begun]


def _workflow(client, run_id: str) -> dict[str, str]:
    """The Kubeflow or Airflow run that this is a step of; Kubeflow's stands in the run of the model.

    Which task and which try it was is told of the run alone.
    """
    told = {name: value for name, value in runs.workflow_tags().items() if name in WORKFLOW}
    while run_id:
        tags = client.get_run(run_id).data.tags
        if job := tags.get(runs.PIPELINE_JOB):
            return told | {runs.PIPELINE_JOB: job}
        run_id = tags.get("mlflow.parentRunId", "")
    return told


def _discard_unregistered(client, run_id: str) -> None:
    """Delete what a registration that was cut off has uploaded: no version holds it."""
    experiment = client.get_run(run_id).info.experiment_id
    for model in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        if not client.search_model_versions(f"source_path = 'models:/{model.model_id}'"):
            client.delete_logged_model(model.model_id)


def _close(client, version) -> None:
    """Tell the version's run where the weights are, and end a run that was made for the registration."""
    weights = facts_of(version.tags).get("weights_sha256", "")
    for key, value in {"weights.uri": version.source, "weights.sha256": weights}.items():
        client.set_tag(version.run_id, key, value)
    run = client.get_run(version.run_id)
    if run.info.run_name == f"register {version.name}":  # no two runs of one name
        client.update_run(version.run_id, name=f"register {version.name} version {version.version}")
    if run.data.tags.get("registers") == version.tags["artifact_sha256"] and run.info.status != "FINISHED":
        client.set_terminated(version.run_id)
