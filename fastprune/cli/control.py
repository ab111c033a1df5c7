"""The commands that govern releases: ``fastprune rollback | freeze | unfreeze | policy | approve``."""

from __future__ import annotations

from pathlib import Path

import click

from fastprune.cli.answers import Answer, by, expect, release_command, why
from fastprune.cli.group import command
from fastprune.errors import InputError


@release_command
@click.argument("name")
@click.option("--to", help="The version to go back to; by default the champion before the last promotion.")
@expect
@why
@by
def rollback(name: str, to: str | None, expect: str | None, why: str, by: str, uri: str) -> Answer:
    """Make an earlier champion of NAME the champion again; the champion is not promoted again without --reinstate."""
    from fastprune.releases import control

    event = control.rollback(uri, name, why=why, by=by, to=to, expected=expect)
    return Answer(
        event.model_dump(mode="json", exclude_none=True),
        f"{name} version {event.to_version} is the champion again; version {event.from_version} was rolled back, and "
        "is promoted again only with --reinstate",
    )


@release_command
@click.argument("name")
@why
@by
def freeze(name: str, why: str, by: str, uri: str) -> Answer:
    """Let no version of NAME be promoted; a rollback stays possible."""
    from fastprune.releases import control

    event = control.freeze(uri, name, why=why, by=by)
    return Answer(
        event.model_dump(mode="json", exclude_none=True),
        f"{name} is frozen: nothing is promoted until `fastprune unfreeze {name}`",
    )


@release_command
@click.argument("name")
@why
@by
def unfreeze(name: str, why: str, by: str, uri: str) -> Answer:
    """Let versions of NAME be promoted again."""
    from fastprune.releases import control

    event = control.unfreeze(uri, name, why=why, by=by)
    return Answer(event.model_dump(mode="json", exclude_none=True), f"{name} is not frozen any more")


@command()
@click.argument("file", type=click.Path(path_type=Path))
def signing_key(file: Path) -> None:
    """Make a private key in FILE to sign measurements with (FASTPRUNE_SIGNING_KEY), and print the public one."""
    from fastprune.store.keys import make_key

    click.echo(make_key(file))


@click.group()
def policy() -> None:
    """The policy that every promotion of a model is judged by."""


@release_command
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@why
@by
def set_policy(name: str, file: Path, why: str, by: str, uri: str) -> Answer:
    """Make FILE (YAML or JSON) the policy of NAME; for who manages the registered model."""
    from fastprune.releases import control
    from fastprune.releases.policy import read_policy_text

    event = control.set_policy(uri, name, read_policy_text(file), why=why, by=by, source=file)
    return Answer(
        event.model_dump(mode="json", exclude_none=True),
        f"{file} is the policy of {name}: SHA-256 {event.policy_sha256}",
    )


@release_command
@click.argument("name")
def show_policy(name: str, uri: str) -> Answer:
    """The policy of NAME, as it was set."""
    from fastprune.releases import promotion
    from fastprune.releases.record import state_of

    event = state_of(promotion.history(uri, name), {}).policy
    if event is None or event.policy is None:
        raise InputError(f"{name} has no policy yet; set one: fastprune policy set {name} FILE")
    return Answer(
        event.model_dump(mode="json", exclude_none=True),
        f"# set {event}\n# SHA-256 {event.policy_sha256}\n{event.policy.rstrip()}",
    )


policy.add_command(set_policy, "set")
policy.add_command(show_policy, "show")


@release_command
@click.argument("name")
@click.argument("version")
@why
def approve(name: str, version: str, why: str, uri: str) -> Answer:
    """Say that VERSION of NAME may be the champion, as the user that MLflow authenticates."""
    from fastprune.releases import control

    event = control.approve(uri, name, version, why=why)
    return Answer(
        event.model_dump(mode="json", exclude_none=True), f"{event.by} has approved {name} version {event.to_version}"
    )
