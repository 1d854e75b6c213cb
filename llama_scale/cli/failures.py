"""From any failure to one line of what, one line of how to fix it, and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from llama_scale.cli import settings
from llama_scale.cli.output import print_error, reader_may_leave
from llama_scale.errors import InputError, Interrupted, LlamaScaleError


def exit_code_of(run: Callable[[], Any], asks_json: Callable[[], bool]) -> int:
    """Runs a command line and returns its exit code, having said what went wrong, in JSON if asked to.

    What the command returns, if it is a whole number, is the exit code. Bugs keep their traceback.
    """
    try:
        code = run()
        with reader_may_leave(sys.stdout):
            sys.stdout.flush()
        return code if type(code) is int else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except (LlamaScaleError, click.ClickException, OSError, click.Abort, KeyboardInterrupt) as error:
        explained = explain(error)
        print_error(explained, as_json=asks_json())
        return explained.exit_code


def explain(error: BaseException) -> LlamaScaleError:
    """`error` as one of our own, with a hint: what is none is an interrupt."""
    from llama_scale.files import store_error

    if isinstance(error, LlamaScaleError):
        return error
    if isinstance(error, OSError):
        return store_error(error, f"cannot use {error.filename}" if error.filename else "the system refused")
    if isinstance(error, click.UsageError):
        return InputError(_message(error), hint=_hint(error))
    if isinstance(error, click.ClickException):
        return LlamaScaleError(error.format_message(), hint="see `llama-scale --help`")
    return Interrupted("interrupted", hint="give the same command again")


def _message(error: click.UsageError) -> str:
    if isinstance(error, click.NoSuchOption):
        return f"there is no option {error.option_name}"
    if isinstance(error, click.MissingParameter) or not isinstance(error, click.BadParameter):
        text = error.format_message().rstrip(".")
        return text[:1].lower() + text[1:]
    return f"{_parameter_words(error)}: {error.message.rstrip('.')}"


def _parameter_words(error: click.BadParameter) -> str:
    """The parameter as it was written: an option's name, or the file or variable that set it."""
    param, ctx = error.param, error.ctx
    if param is None or ctx is None:
        return str(error.param_hint or "bad value")
    if not isinstance(param, click.Option):
        return param.make_metavar(ctx).strip("[].")  # as one speaks of one: SOURCE, not [SOURCE]...
    name = max(param.opts, key=len)
    source = ctx.get_parameter_source(param.name or "")
    outside = source is ParameterSource.DEFAULT_MAP
    return f"{name} (from {settings.origin(ctx, param)})" if outside else name


def _hint(error: click.UsageError) -> str:
    from llama_scale.config import nearest

    see = f"see `{error.ctx.command_path} --help`" if error.ctx else "see `llama-scale --help`"
    if isinstance(error, click.NoSuchOption):
        names = (name.lstrip("-") for name in error.possibilities or ())  # dashes alone make names alike
        close = nearest(error.option_name.lstrip("-"), names)
        return f"did you mean --{close[0]}?" if close else see
    if isinstance(error, click.BadParameter):
        if hint := getattr(error, "hint", None):
            return str(hint)
        choices = getattr(getattr(error.param, "type", None), "choices", ())
        quoted = error.message.split("'")
        close = nearest(quoted[1], map(str, choices)) if len(quoted) > 1 else []
        return f"did you mean {close[0]!r}?" if close else see
    return see
