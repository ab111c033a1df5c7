"""The commands of a release: ``fastprune register | promote | rollback | history | verify``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fastprune.cli.group import command
from fastprune.errors import InputError
from fastprune.tracking import mlflow_store

_uri = click.option("--tracking-uri", default="", help="MLflow store; else MLFLOW_TRACKING_URI, else mlflow.db here.")
_by = click.option("--by", default="", help="Who does it, if the store does not know; by default this machine's user.")
_why = click.option("--why", required=True, help="Reason, for the record.")


def _store(uri: str) -> str:
    return uri or mlflow_store.tracking_uri()


@command()
@click.argument("model_dir", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Registered model to add a version to.")
@click.option(
    "--metrics",
    "metrics_file",
    type=click.Path(path_type=Path),
    help="By default metrics.json in MODEL_DIR or beside it.",
)
@click.option("--tag", "tags", multiple=True, help="NAME=VALUE; may be given several times.")
@_by
@_uri
def register(
    model_dir: Path, name: str, metrics_file: Path | None, tags: tuple[str, ...], by: str, tracking_uri: str
) -> None:
    """Make the pruned model in MODEL_DIR a version of a registered model, with its lineage."""
    from fastprune.releases import registration

    if wrong := [tag for tag in tags if "=" not in tag]:
        raise InputError(f"--tag {wrong[0]}: write it as NAME=VALUE")
    candidates = [metrics_file] if metrics_file else [model_dir / "metrics.json", model_dir.parent / "metrics.json"]
    metrics_file = next((path for path in candidates if path.is_file()), None)
    if metrics_file is None:
        raise InputError(f"{candidates[0]}: no such file; name the compression's metrics.json with --metrics")
    try:
        metrics = json.loads(metrics_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{metrics_file}: not JSON ({error})") from error
    uri = _store(tracking_uri)
    version = registration.register(
        uri, model_dir, name, metrics, by=mlflow_store.actor(uri, by), tags=dict(tag.split("=", 1) for tag in tags)
    )
    click.echo(f"{name} version {version}")


@command()
@click.argument("name")
@click.argument("version")
@click.option("--policy", "policy_file", required=True, type=click.Path(path_type=Path), help="YAML or JSON file.")
@click.option("--expect", help="The version that you believe is the champion; refused if it is another.")
@_why
@_by
@_uri
def promote(
    name: str, version: str, policy_file: Path, expect: str | None, why: str, by: str, tracking_uri: str
) -> None:
    """Make VERSION of the registered model NAME its champion, if the policy allows it."""
    from fastprune.releases import promotion
    from fastprune.releases.policy import read_policy

    verdict = promotion.promote(
        _store(tracking_uri), name, version, read_policy(policy_file), why=why, by=by, expected=expect
    )
    click.echo(
        f"{verdict}\n{name} version {version} is the champion"
        + (f", version {verdict.champion} the previous one" if verdict.champion else "")
    )


@command()
@click.argument("name")
@_why
@_by
@_uri
def rollback(name: str, why: str, by: str, tracking_uri: str) -> None:
    """Make the previous champion of NAME the champion again."""
    from fastprune.releases import promotion

    event = promotion.rollback(_store(tracking_uri), name, why=why, by=by)
    click.echo(f"{name} version {event.to_version} is the champion again, version {event.from_version} the previous")


@command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One event a line.")
@_uri
def history(name: str, as_json: bool, tracking_uri: str) -> None:
    """Every change of champion of NAME: who, when, from which version to which, and why."""
    from fastprune.releases import promotion

    told = promotion.history(_store(tracking_uri), name)
    if not told:
        click.echo(f"{name}: no release is recorded", err=True)
    for event in told:
        click.echo(
            event.model_dump_json()
            if as_json
            else f"{event.number:>4}  {event.at}  {event.action:<8}  {event.from_version or '-':>4} -> "
            f"{event.to_version:<4}  {event.by}: {event.why}"
        )


@command()
@click.argument("name")
@click.argument("version", default="champion")
@_uri
def verify(name: str, version: str, tracking_uri: str) -> None:
    """Download VERSION (a number, or an alias such as champion) of NAME and prove its digests and logits."""
    from fastprune.releases import verification

    uri = _store(tracking_uri)
    if not version.isdigit():
        with mlflow_store.explained(uri):
            version = mlflow_store.connect(uri).get_model_version_by_alias(name, version).version
    proof = verification.verify(uri, name, str(version))
    click.echo(
        f"{name} version {proof.version}: {proof.files} files ({proof.bytes / 1e6:.1f} MB) have their digests, "
        f"logits differ by at most {proof.difference:.2g}"
    )
