"""What all commands share: they are loaded when they are called, and refuse an option that is given twice."""

from __future__ import annotations

import functools
import signal
from collections.abc import Mapping
from importlib import import_module

import click

from fastprune.errors import InputError, PipelineError, Refused, Unreachable, lacks_extra
from fastprune.signals import Terminated, interruptible


class Command(click.Command):
    """Refuses an option that is given twice and takes one value: the last would win without a word."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for number, parameter in enumerate(order):
            if isinstance(parameter, click.Option) and not parameter.multiple and parameter in order[:number]:
                raise click.UsageError(f"{parameter.opts[0]} is given twice; give it once", ctx)
        return super().parse_args(ctx, args)


command = functools.partial(click.command, cls=Command)


class _RefusedError(click.UsageError):
    exit_code = Refused.exit_code


class _UnreachableError(click.UsageError):
    exit_code = Unreachable.exit_code


_TOLD = {error.exit_code: error for error in (click.UsageError, _RefusedError, _UnreachableError)}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, so that ``--help`` answers at once.

    An InputError is printed as one message, with its exit status (2, 3 for what is refused, 4 for a server that does
    not answer), and so is an extra that is not installed; other exceptions keep their traceback.
    SIGINT (Ctrl-C) and SIGTERM end a command after it has cleaned up, with exit status 130 and 143.

    Parameters
    ----------
    lazy : mapping
        From a command's name to its module, the name of its function there, and its line of help.
    """

    def __init__(self, *args, lazy: Mapping[str, tuple[str, str, str]], **options):
        super().__init__(*args, **options)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return None
        module, name, _ = self.lazy[cmd_name]
        return getattr(import_module(module), name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in self.lazy.items()])

    def invoke(self, ctx: click.Context):
        try:
            with interruptible():
                return super().invoke(ctx)
        except (KeyboardInterrupt, Terminated) as error:
            click.echo("Aborted", err=True)
            ctx.exit(128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT))
        except InputError as error:
            raise _TOLD[error.exit_code](str(error)) from error
        except PipelineError as error:
            raise click.ClickException(str(error)) from error
        except ModuleNotFoundError as error:
            if refusal := lacks_extra(error):
                raise click.UsageError(str(refusal)) from error
            raise
