"""What commands share: options, types of values, and a Command whose help opens with a question."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from llama_scale import quantities
from llama_scale.cli import settings
from llama_scale.cli.helpful import Helpful, HelpfulGroup
from llama_scale.errors import InputError, LlamaScaleError

Function = TypeVar("Function", bound=Callable[..., Any])


class QuantityType(click.ParamType):
    """A number with its unit, read and printed by `quantities`; defaults are text, as a user would type."""

    def __init__(self, name: str, parse: Callable[[Any], Any], format_: Callable[[Any], str]) -> None:
        self.name = name
        self.parse = parse
        self.format = format_

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, quantities.Quantity):
            return value
        try:
            # a settings file may give a list, a table or true
            return self.parse(value if type(value) in (int, float) else str(value))
        except InputError as error:
            raise HintedParameterError(error.message, error.hint, param, ctx) from error


class HintedParameterError(click.BadParameter):
    """A bad value of an option, with its own way out."""

    def __init__(self, message: str, hint: str, param: click.Parameter | None, ctx: click.Context | None):
        super().__init__(message, ctx=ctx, param=param)
        self.hint = hint


class PathType(click.Path):
    """A path as the command line gives it: never empty, which would silently be the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            hint = "name a file or folder; `.` is the one that you are in"
            raise HintedParameterError("the path is empty", hint, param, ctx)
        return super().convert(value, param, ctx)


class FilterType(click.types.StringParamType):
    """A filter of rows: it has blanks, so `;` sets several apart in a variable."""

    envvar_list_splitter = ";"


COUNT = QuantityType("COUNT", quantities.parse_count, quantities.format_count)
FLOPS = QuantityType("FLOPS", quantities.parse_flops, quantities.format_flops)
BUDGET = QuantityType("BUDGET", quantities.parse_budget, quantities.format_quantity)
USD_PER_HOUR = QuantityType("$/H", quantities.parse_usd_per_hour, quantities.format_usd_per_hour)
FRACTION = QuantityType("FRACTION", quantities.parse_fraction, quantities.format_fraction)


def one_of(words: Iterable[str]) -> click.Choice[str]:
    """One of a few words, in capitals or not: `6ND` is 6nd."""
    return click.Choice(list(words), case_sensitive=False)


class HeadedOption(click.Option):
    """An option that help lists under a heading of its own."""

    def __init__(self, *args: Any, heading: str, **others: Any) -> None:
        super().__init__(*args, **others)
        self.heading = heading


def with_parameters(*parameters: click.Parameter) -> Callable[[Function], Function]:
    """A decorator that gives a command parameters that others have too."""

    def decorate(function: Function) -> Function:
        given: list[click.Parameter] = getattr(function, "__click_params__", [])
        function.__click_params__ = [*given, *reversed(parameters)]  # pyright: ignore[reportFunctionMemberAccess]
        return function

    return decorate


class Command(Helpful):
    """A command whose defaults come from the settings files; `--show-settings` says what came from where."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*self.params, settings.SHOW_SETTINGS, *super().get_params(ctx)[len(self.params) :]]

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if parent is not None and "default_map" not in extra:
            # While a line is completed nobody reads what is amiss with settings.
            with suppress(LlamaScaleError) if parent.resilient_parsing else nullcontext():
                extra["default_map"] = settings.defaults(self, info_name or "", parent)
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        if ctx.params.pop(settings.SHOW_SETTINGS.name, False):
            return settings.show(ctx)
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        headings: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            heading = param.heading if isinstance(param, HeadedOption) else "Options"
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                headings.setdefault(heading, []).append(record)
        for heading, records in headings.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class Group(HelpfulGroup):
    """A command of commands, such as `runs`; alone, and with options alone, it is its command `alone`."""

    command_class = Command

    def __init__(self, *args: Any, alone: str, **others: Any) -> None:
        super().__init__(*args, **others)
        self.alone = alone

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        begins = args[:1] and (args[0] in ctx.help_option_names or not args[0].startswith("-"))
        if not begins and not ctx.resilient_parsing:
            self._refuse_late_name(ctx, self.commands[self.alone], args)
            args = [self.alone, *args]
        return super().parse_args(ctx, args)

    def _refuse_late_name(self, ctx: click.Context, alone: click.Command, args: list[str]) -> None:
        """Raises InputError where options stand before a command, which then is none: `runs --json ls`."""
        parser = alone.make_parser(ctx)
        parser.ignore_unknown_options = True
        with suppress(click.UsageError):  # which is told when it is parsed in earnest
            _, words, _ = parser.parse_args(list(args))
            if name := next((word for word in words if word in self.commands), None):
                behind = list(args)
                behind.remove(name)
                line = shlex.join([*ctx.command_path.split(), name, *behind])
                raise InputError(
                    f"{args[0]} stands before {name}: options come after", hint=f"write `{line}`"
                )


def command(*, examples: Sequence[str], name: str | None = None) -> Callable[[Callable[..., Any]], Command]:
    """Makes a function a command: its docstring opens with the question that the command answers.

    `examples` are whole command lines, 2 to 4 of them, each at most 78 columns.
    """
    return click.command(name, cls=Command, examples=examples)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Say nothing but the result and warnings.")
store_option = click.option(
    "--store",
    type=PathType(file_okay=False, path_type=Path),
    default="runs",
    help="Folder that holds the runs.",
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda, or auto: CUDA where there is one."
)
where_option = click.option(
    "--where",
    type=FilterType(),
    multiple=True,
    metavar="FILTER",
    help="Keep rows, as 'column = value'; also != < <= > >=.",
)
set_option = click.option(  # a tuple for config.apply_overrides
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one field of the TOML, as a.b=c."
)


def completing(
    names: Callable[[], Iterable[str]], *, or_files: bool = False
) -> Callable[..., list[CompletionItem]]:
    """A `shell_complete` for values that `names` lists, or files where none fits and those may be given.

    A failure of `names` completes nothing.
    """

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            found = [CompletionItem(name) for name in names() if name.startswith(incomplete)]
        except (OSError, ValueError, LlamaScaleError):
            found = []
        return found or ([CompletionItem(incomplete, type="file")] if or_files else [])

    return complete


def named(module: str, attribute: str) -> Callable[[], Iterable[str]]:
    """The names that a module of ours lists; imported when they are asked for, as help waits for imports."""

    def names() -> Iterable[str]:
        found: Any = getattr(import_module(f"llama_scale.{module}"), attribute)
        return found if isinstance(found, Mapping) else found()

    return names


ACCELERATORS = named("hardware", "accelerator_names")
LAWS = named("laws", "published_names")
MODELS = named("planning.references", "reference_names")
RECIPES = named("sweeps", "recipe_names")


def complete_run_ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The runs of the store that the line names so far, or of ./runs."""
    store = Path(ctx.params.get("store") or "runs")
    runs = sorted(spec.parent.name for spec in store.glob("*/spec.json"))
    return [CompletionItem(run) for run in runs if run.startswith(incomplete)]
