"""The commands that stop a release: ``fastprune rollback | freeze | unfreeze``."""

from __future__ import annotations

import click

from fastprune.cli.answers import Answer, by, expect, release_command, why


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
