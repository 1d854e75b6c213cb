"""Where a setting comes from: flag > LLAMA_SCALE_* > ./llama-scale.toml > the user's TOML > default."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from llama_scale.cli.output import Output, current_output, table
from llama_scale.errors import InputError, LlamaScaleError, StoreError
from llama_scale.files import user_folder

PREFIX = "LLAMA_SCALE"
PROJECT_FILE = Path("llama-scale.toml")
READ_ELSEWHERE = f"{PREFIX}_KERNELS"  # by training.kernels.library, whose import brings torch
SHARED = ("json", "quiet", "store")  # keys that may stand above every table, for all commands that have them


class OwnOption(click.Option):
    """An option whose name means another thing to another command: a variable of it names its command."""


SHOW_SETTINGS = click.Option(
    ["--show-settings"],
    is_flag=True,
    allow_from_autoenv=False,
    help="Say where each setting came from, and stop.",
)
_ORIGINS = f"{__name__}.origins"


def files() -> list[Path]:
    """The settings files that exist, the strongest first."""
    found = [PROJECT_FILE]
    with suppress(StoreError):  # nobody's home, nobody's settings
        found.append(user_folder("XDG_CONFIG_HOME", "~/.config") / "config.toml")
    return [path for path in found if path.is_file()]


def defaults(command: click.Command, name: str, parent: click.Context) -> dict[str, Any]:
    """What variables and settings files say for a command's options, by parameter name.

    Raises InputError for keys of files that the command, or the whole program, does not have; warns of
    variables of the command that it does not.
    """
    path = (*_command_path(parent), name)
    if not parent.resilient_parsing:
        _warn_of_strangers(command, path)
    found: dict[str, tuple[Any, str]] = dict(_variables_for(command, path))
    for file in files():
        said = _settings_for(command, path, parent.find_root(), file)
        found = {key: (value, str(file)) for key, value in said.items()} | found
    parent.meta.setdefault(_ORIGINS, {}).update({key: origin for key, (_, origin) in found.items()})
    return {key: value for key, (value, _) in found.items()}


def origin(ctx: click.Context, option: click.Parameter) -> str:
    """Where the value of `option` came from, in words: a file, a variable, `the command line`, `default`."""
    name = option.name or ""
    source = ctx.get_parameter_source(name)
    if source is ParameterSource.DEFAULT_MAP:
        return ctx.meta.get(_ORIGINS, {}).get(name, str(PROJECT_FILE))
    return "the command line" if source is ParameterSource.COMMANDLINE else "default"


def variables(path: Sequence[str], parameter: click.Parameter) -> list[str]:
    """The environment variables that set a parameter of the command at `path`, the strongest first.

    They are named as it is in the files; an option's without a command is for every command that has it, and
    means the same by it.
    """
    if not isinstance(parameter, click.Option):
        return [_variable(path, parameter.name or "")]
    key = key_of(parameter)
    shared = [] if isinstance(parameter, OwnOption) else [_variable((), key)]
    return [_variable(path, key), *shared]


def json_asked(root: click.Group, words: Sequence[str]) -> bool:
    """Whether a line asks for JSON, by itself, a variable or a file, as far as these can be read."""
    from llama_scale.config import read_toml

    if "--json" in words:
        return True
    path = _path_named(root, words)
    for variable in (_variable(path, "json"), _variable((), "json")):
        if said := os.environ.get(variable):
            return said.lower() in ("1", "true", "t", "yes", "y", "on")
    for file in files():
        try:
            tables = read_toml(file)
            said = [_table(tables, path, file).get("json"), tables.get("json")]
        except LlamaScaleError:
            continue
        for one in said:
            if isinstance(one, bool):
                return one
    return False


def _path_named(root: click.Group, words: Sequence[str]) -> tuple[str, ...]:
    """The names of the commands that a line begins with, down to what a group is without one."""
    path: tuple[str, ...] = ()
    command: click.Command | None = root
    while isinstance(command, click.Group):
        word = next(iter(words[len(path) : len(path) + 1]), "-")
        name = getattr(command, "alone", None) if word.startswith("-") else word
        command = command.get_command(click.Context(command), name) if name else None
        path = (*path, name) if command is not None and name else path
    return path


def show(ctx: click.Context) -> None:
    """Prints every option of the command with its value and where it came from."""
    options = [p for p in ctx.command.params if isinstance(p, click.Option) and p.name in ctx.params]
    rows = [
        (key_of(option), _written(option, ctx.params[option.name or ""]), origin(ctx, option))
        for option in options
    ]
    settings = {key: {"value": value, "from": source} for key, value, source in rows}
    shown = [(key, _plain_words(value), source) for key, value, source in rows]
    current_output().result({"settings": settings}, lambda: table(shown, ("setting", "value", "from")))


def key_of(option: click.Parameter) -> str:
    """The name of `option` in the settings files: its long form without the dashes."""
    return max(option.opts, key=len).lstrip("-")


def check_all(root: click.Context) -> None:
    """Reads every table of every settings file; raises InputError for the first wrong key."""
    for path, command in commands(root):
        for file in files():
            _settings_for(command, path, root, file)


def unknown_variables(root: click.Context) -> dict[str, str | None]:
    """The variables LLAMA_SCALE_* that nothing reads, each with the known name that is nearest."""
    known = {
        name
        for path, command in commands(root)
        for parameter in command.params
        for name in variables(path, parameter)
    }
    return _strangers(PREFIX, {READ_ELSEWHERE, *known})


def commands(
    ctx: click.Context, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below `ctx`, commands of commands too, with the words that lead to it."""
    if not isinstance(ctx.command, click.Group):
        return
    for name in ctx.command.list_commands(ctx):
        command = ctx.command.get_command(ctx, name)
        if command is not None:
            yield (*path, name), command
            yield from commands(click.Context(command, parent=ctx, info_name=name), (*path, name))


def _variables_for(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, tuple[Any, str]]]:
    """What the environment says for the parameters of one command, each with the variable that says it."""
    for parameter in command.params:
        variable = next(filter(os.environ.get, variables(path, parameter)), None)
        if variable is not None and parameter.name:
            several = getattr(parameter, "multiple", False) or parameter.nargs != 1
            text = os.environ[variable]
            yield parameter.name, (parameter.type.split_envvar_value(text) if several else text, variable)


def _warn_of_strangers(command: click.Command, path: tuple[str, ...]) -> None:
    """Says which variables have the name of a command, and of no option of it."""
    known = {name for parameter in command.params for name in variables(path, parameter)}
    for stranger, close in _strangers(_variable(path, "").rstrip("_"), known).items():
        meant = f"; did you mean {close}?" if close else ""
        Output().warn(f"nothing reads the variable {stranger}{meant}")


def _variable(path: Sequence[str], key: str) -> str:
    return "_".join((PREFIX, *path, key)).upper().replace("-", "_")


def _strangers(prefix: str, known: set[str]) -> dict[str, str | None]:
    names = sorted(name for name in os.environ if name.startswith(f"{prefix}_") and name not in known)
    if not names:
        return {}
    from llama_scale.config import nearest

    return {name: next(iter(nearest(name, known)), None) for name in names}


def _settings_for(
    command: click.Command, path: tuple[str, ...], root: click.Context, file: Path
) -> dict[str, Any]:
    """What one file says for the options of one command: shared keys first, its own table over them."""
    from llama_scale.config import read_toml, unknown_key

    tables = read_toml(file)
    _check_top(tables, root, file)
    options = {key_of(p): p for p in command.params if isinstance(p, click.Option)}
    said = {key: tables[key] for key in SHARED if key in tables and key in options}
    for key, value in _table(tables, path, file).items():
        if isinstance(command, click.Group) and isinstance(value, Mapping):
            continue  # the table of a command below
        known = key.replace("_", "-")
        if known not in options:
            raise unknown_key(f"{file}: {'.'.join((*path, key))}", known, list(options))
        said[known] = value
    return {options[key].name or "": _as_taken(options[key], value) for key, value in said.items()}


def _as_taken(option: click.Option, value: Any) -> Any:
    """A value of a file; one alone is one of several where an option takes several."""
    return [value] if option.multiple and not isinstance(value, list) else value


def _table(tables: Mapping[str, Any], path: tuple[str, ...], file: Path) -> Mapping[str, Any]:
    """The table of a command, empty where the file has none."""
    for depth, name in enumerate(path, start=1):
        tables = tables.get(name, {})
        if not isinstance(tables, Mapping):
            dotted = ".".join(path[:depth])
            raise InputError(f"{file}: {dotted} is not a table", hint=f"write [{dotted}] above its keys")
    return tables


def _check_top(tables: Mapping[str, Any], root: click.Context, file: Path) -> None:
    from llama_scale.config import unknown_key

    names = root.command.list_commands(root) if isinstance(root.command, click.Group) else []
    for key in tables:
        if key not in names and key not in SHARED:
            raise unknown_key(f"{file}: {key}", key, [*SHARED, *names])


def _command_path(ctx: click.Context) -> tuple[str, ...]:
    """The names of the commands from below the program down to `ctx`."""
    return (*_command_path(ctx.parent), ctx.info_name or "") if ctx.parent is not None else ()


def _written(option: click.Parameter, value: Any) -> Any:
    """`value` as a user would write it."""
    if isinstance(value, tuple):
        return tuple(_written(option, one) for one in value)
    form = getattr(option.type, "format", None)
    if value is None and isinstance(option, click.Option):
        told = re.search(r"\[default: ([^\]]+)\]", option.help or "")
        return told[1] if told else None
    if value is None or form is None:
        return str(value) if isinstance(value, Path) else value
    return form(value)


def _plain_words(value: Any) -> str:
    if value is None or value == ():
        return "-"
    if isinstance(value, tuple):
        return ", ".join(_plain_words(one) for one in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
