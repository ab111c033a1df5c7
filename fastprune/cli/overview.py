"""The commands that look and change nothing: ``fastprune status | list | compare | follow``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import click

from fastprune.cli.answers import Answer, release_command
from fastprune.cli.group import command
from fastprune.tracking import mlflow_store


@release_command
@click.argument("name")
def status(name: str, uri: str) -> Answer:
    """How NAME stands: champion, policy, freeze, what was rolled back, the last event."""
    from fastprune.releases import control, overview

    found = overview.status(uri, name)
    way = control.where_back(uri, name)
    lines = [
        ("champion", found.champion or "none"),
        ("previous", found.previous or "none"),
        ("rollback", way),
        ("frozen", found.frozen or "no"),
        ("policy", found.policy_sha256 and f"SHA-256 {found.policy_sha256}" or "none is set"),
        *((f"version {version}", f"rolled back {event}") for version, event in found.rolled_back.items()),
        ("last", found.last or "nothing is recorded"),
        ("versions", str(found.versions)),
    ]
    if not found.aliases_follow:
        lines.append(("aliases", "not those of the record; the next promote or rollback moves them"))
    words = "\n".join(f"{what:<12}{told}" for what, told in lines)
    return Answer(asdict(found) | {"rollback": way}, words)


@release_command
@click.argument("name", required=False)
def list_versions(name: str | None, uri: str) -> Answer:
    """The versions of NAME, the newest first; without NAME the models that have versions."""
    from fastprune.releases import overview

    if name is None:
        names = overview.models(uri)
        return Answer([{"model": one} for one in names], "\n".join(names))
    found = overview.versions(uri, name)
    rows = [
        (
            one.version,
            one.standing,
            f"{_number(one.pruned)} of {_number(one.dense)} {one.metric}",
            f"{_number(one.speedup)}x",
            f"{_number(one.megabytes)} MB",
            ", ".join(one.approved_by),
            f"{one.registered_at[:16]} {one.registered_by}",
        )
        for one in found
    ]
    heads = ("version", "standing", "metric, pruned of dense", "speed-up", "size", "approved by", "registered")
    return Answer([asdict(one) for one in found], _table([heads, *rows]))


@release_command
@click.argument("name")
@click.argument("one")
@click.argument("other")
@click.option("--confidence", type=click.FloatRange(0.5, 1, max_open=True), default=0.95, help="Of the interval.")
def compare(name: str, one: str, other: str, confidence: float, uri: str) -> Answer:
    """Versions ONE and OTHER of NAME side by side, and how much the metric falls between them on the same rows."""
    from fastprune.releases import overview

    found = overview.compare(uri, name, one, other, confidence)
    table = _table([("", *(f"version {version}" for version in found.versions)), *found.rows])
    metric, (left, right) = found.one.metric, found.versions
    told = f"falls by {found.fall}" if found.fall else f"cannot be compared: {found.why_not}"
    return Answer(found.told(), f"{table}\n\nFrom version {left} to version {right} {metric} {told}")


@command()
@click.argument("name")
@click.argument("server", nargs=-1, required=True, metavar="-- COMMAND...")
@click.option("--every", type=click.FloatRange(min=0.1), default=30, help="Seconds between two looks at the champion.")
@click.option("--tracking-uri", default="", help="MLflow store; else MLFLOW_TRACKING_URI, else mlflow.db here.")
@click.pass_context
def follow(ctx: click.Context, name: str, server: tuple[str, ...], every: float, tracking_uri: str) -> None:
    """Run COMMAND for the champion of NAME, {version} in it, and again whenever the champion moves."""
    from fastprune.releases import following

    ctx.exit(following.follow(tracking_uri or mlflow_store.tracking_uri(), name, server, every))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
