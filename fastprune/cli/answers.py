"""How the commands of a release answer: in words or as JSON, with one exit status for each kind of refusal."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from fastprune.cli.group import Command
from fastprune.errors import InputError
from fastprune.tracking import mlflow_store

KINDS = {2: "misuse", 3: "refused", 4: "unreachable"}
"""What the exit status of a command says when it did not do what was asked."""

by = click.option("--by", default="", help="Who does it, if the store does not know; by default this machine's user.")
why = click.option("--why", required=True, help="Reason, for the record.")
expect = click.option("--expect", help="The version that you believe is the champion; refused if it is another.")


@dataclass(frozen=True)
class Answer:
    """What a command did: for programs, and for people. ``status`` is its exit status."""

    told: Mapping[str, Any] | list
    words: str
    status: int = 0


class _ReleaseCommand(Command):
    """Answers in JSON that it was not well said, too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if "--json" in given:
                click.echo(json.dumps({"error": KINDS[error.exit_code], "message": error.format_message()}))
            raise


def release_command(run: Callable[..., Answer]) -> click.Command:
    """A command with ``--json`` and ``--tracking-uri``, which becomes ``uri`` of the function.

    A refusal goes to standard error in words and, with ``--json``, to standard output too: ``error`` (``misuse``,
    ``refused`` or ``unreachable``), ``message`` and the ``verdict``, if there is one.
    """

    @click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
    @click.option("--tracking-uri", default="", help="MLflow store; else MLFLOW_TRACKING_URI, else mlflow.db here.")
    @click.pass_context
    @functools.wraps(run)
    def wrapped(ctx: click.Context, as_json: bool, tracking_uri: str, **given) -> None:
        try:
            answer = run(uri=tracking_uri or mlflow_store.tracking_uri(), **given)
        except InputError as error:
            if as_json:
                verdict = getattr(error, "verdict", None)
                told = {"error": KINDS[error.exit_code], "message": str(error)}
                click.echo(json.dumps(told | ({"verdict": verdict.model_dump(mode="json")} if verdict else {})))
            raise
        if as_json:  # a list has one line for each of its rows
            for row in answer.told if isinstance(answer.told, list) else [answer.told]:
                click.echo(json.dumps(row))
        elif answer.words:
            click.echo(answer.words)
        ctx.exit(answer.status)

    return click.command(cls=_ReleaseCommand)(wrapped)
