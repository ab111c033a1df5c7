"""The commands of a release: ``fastprune register | promote | history | verify``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from fastprune.cli.answers import Answer, by, expect, release_command, why
from fastprune.errors import InputError, Refused
from fastprune.store.bounded import read_json
from fastprune.tracking import mlflow_store


@release_command
@click.argument("model_dir", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Registered model to add a version to.")
@click.option(
    "--metrics",
    "metrics_file",
    type=click.Path(path_type=Path),
    help="By default metrics.json in MODEL_DIR or beside it.",
)
@click.option("--tag", "tags", multiple=True, help="NAME=VALUE; may be given several times.")
@click.option(
    "--serve",
    "exported",
    type=click.Path(path_type=Path),
    help="Export for ONNX Runtime that the version serves in the place of the pruned model, such as MODEL_DIR/onnx.",
)
@click.option("--eval-file", help="Rows whose served answers are compared with the evaluated ones.")
@by
def register(
    model_dir: Path,
    name: str,
    metrics_file: Path | None,
    tags: tuple[str, ...],
    exported: Path | None,
    eval_file: str | None,
    by: str,
    uri: str,
) -> Answer:
    """Make the pruned model in MODEL_DIR a version of a registered model, with its lineage."""
    from fastprune.releases import registration
    from fastprune.releases.identity import actor

    if wrong := [tag for tag in tags if "=" not in tag]:
        raise InputError(f"--tag {wrong[0]}: write it as NAME=VALUE")
    candidates = [metrics_file] if metrics_file else [model_dir / "metrics.json", model_dir.parent / "metrics.json"]
    metrics_file = next((path for path in candidates if path.is_file()), None)
    if metrics_file is None:
        raise InputError(f"{candidates[0]}: no such file; name the compression's metrics.json with --metrics")
    metrics = read_json(metrics_file)
    version = registration.register(
        uri,
        model_dir,
        name,
        metrics,
        by=actor(uri, by).name,
        tags=dict(tag.split("=", 1) for tag in tags),
        measured=metrics_file.parent,
        exported=exported,
        rows=registration.real_rows(model_dir, eval_file) if eval_file else (),
    )
    return Answer({"model": name, "version": version}, f"{name} version {version}")


@release_command
@click.argument("name")
@click.argument("version")
@click.option(
    "--policy",
    "policy_file",
    type=click.Path(path_type=Path),
    help="YAML or JSON file, by default the model's policy; the first one that a version is promoted by becomes that.",
)
@click.option("--override-policy", is_flag=True, help="Judge by --policy though the model has another one; recorded.")
@click.option("--reinstate", is_flag=True, help="The version was rolled back, and shall be the champion all the same.")
@click.option("--dry-run", is_flag=True, help="Only judge; nothing is written.")
@click.option("--remeasure", metavar="EVAL_FILE", default="", help="Measure again on these rows, and judge by that.")
@click.option("--source", default="", help="With --remeasure: the dense model, if it is not where it was.")
@expect
@why
@by
def promote(
    name: str,
    version: str,
    policy_file: Path | None,
    override_policy: bool,
    reinstate: bool,
    dry_run: bool,
    remeasure: str,
    source: str,
    expect: str | None,
    why: str,
    by: str,
    uri: str,
) -> Answer:
    """Make VERSION of the registered model NAME its champion, if the policy allows it."""
    from fastprune.releases import control, promotion
    from fastprune.releases.policy import read_policy

    if source and not remeasure:
        raise InputError("--source goes with --remeasure; give that too, or leave it out")

    verdict = promotion.promote(
        uri,
        name,
        version,
        read_policy(policy_file) if policy_file else None,
        why=why,
        by=by,
        expected=expect,
        reinstate=reinstate,
        override=override_policy,
        dry_run=dry_run,
        remeasure=remeasure,
        source=source,
    )
    told = {"verdict": verdict.model_dump(mode="json"), "passed": verdict.passed, "promoted": not dry_run}
    if dry_run:
        would = "would become" if verdict.passed else "would not become"
        words = f"{verdict}\n{name} version {verdict.version} {would} the champion; nothing was changed"
        return Answer(told, words, 0 if verdict.passed else Refused.exit_code)
    way = control.where_back(uri, name)
    words = f"{verdict}\n{name} version {verdict.version} is the champion; {way}"
    return Answer(told | {"rollback": way}, words)


@release_command
@click.argument("name")
@click.option("--check", is_flag=True, help="Also say which events are signed, and by which key.")
def history(name: str, check: bool, uri: str) -> Answer:
    """Every change of champion of NAME, and what was refused: who, when, from which version to which, and why."""
    from fastprune.releases import overview, promotion
    from fastprune.releases.words import line

    events = promotion.history(uri, name)
    if not events:
        click.echo(f"{name}: no release is recorded", err=True)
    rows = [
        f"{event.number:>4}  {event.at}  {event.action:<8}  {event.from_version or '-':>4} -> "
        f"{event.to_version or '-':<4}  {line(event.by)}: {line(event.why)}"
        + (f" [{line(event.failed)}]" if event.failed else "")
        for event in events
    ]
    told = [event.model_dump(mode="json", exclude_none=True) for event in events]
    if not check:
        return Answer(told, "\n".join(rows))
    checked = overview.check_record(uri, name)
    return Answer({"history": told, "check": asdict(checked)}, "\n".join([*rows, str(checked)]))


@release_command
@click.argument("name")
@click.argument("version", default="champion")
def verify(name: str, version: str, uri: str) -> Answer:
    """Download VERSION (a number, or an alias such as champion) of NAME and prove its digests and logits."""
    from fastprune.releases import verification
    from fastprune.releases.words import version_number

    if version.isdecimal():
        version = version_number(version)
    else:
        with mlflow_store.explained(uri):
            version = str(mlflow_store.connect(uri).get_model_version_by_alias(name, version).version)
    proof = verification.verify(uri, name, version)
    words = (
        f"{name} version {proof.version}: {proof.files} files ({proof.bytes / 1e6:.1f} MB) have their digests, "
        f"logits differ by at most {proof.difference:.2g}; {proof.figures}"
    )
    return Answer(
        {
            "model": name,
            "version": proof.version,
            "serves": proof.serves,
            "files": proof.files,
            "bytes": proof.bytes,
            "difference": proof.difference,
            "signed_by": proof.signed_by or None,
            "signed_at": proof.signed_at or None,
        },
        words,
    )
