"""Commands whose help opens with examples and may be left half read, and groups of them that know a slip."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click
from click.core import augment_usage_errors

from llama_scale.cli.output import reader_may_leave
from llama_scale.errors import InputError
from llama_scale.version import __version__


class Helpful(click.Command):
    """A command with examples: help shows them unwrapped after the question, tests run them."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **others: Any) -> None:
        super().__init__(*args, **others)
        self.examples = tuple(examples)

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        option = super().get_help_option(ctx)
        if option is not None:
            option.callback = _show_help
        return option

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with augment_usage_errors(ctx):  # an option without its value: click does not say of which command
            return super().parse_args(ctx, args)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_help_text(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                formatter.write("".join(f"  {example}\n" for example in self.examples))


class HelpfulGroup(Helpful, click.Group):
    """A group that says which of its commands was meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args[0] in known or args[0].startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        from llama_scale.config import nearest

        close = nearest(args[0], known)
        meant = f"did you mean `{ctx.command_path} {close[0]}`?" if close else None
        raise InputError(f"there is no command {args[0]!r}", hint=meant or f"see `{ctx.command_path} --help`")


def _show_help(ctx: click.Context, option: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        _tell_and_exit(ctx, ctx.get_help())


def show_version(ctx: click.Context, option: click.Parameter, asked: bool) -> None:
    """What `--version` does: click's own fails where nobody reads on, as in a shell's test with `| true`."""
    if asked and not ctx.resilient_parsing:
        _tell_and_exit(ctx, f"llama-scale {__version__}")


def _tell_and_exit(ctx: click.Context, text: str) -> NoReturn:
    with reader_may_leave(sys.stdout):
        click.echo(text, color=ctx.color)
    ctx.exit()
