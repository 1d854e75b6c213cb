"""The command line: a group that imports a command only when it is used, grouped by workflow in its help."""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any, NoReturn

import click

from llama_scale.cli.failures import exit_code_of
from llama_scale.cli.helpful import HelpfulGroup, show_version
from llama_scale.cli.settings import json_asked
from llama_scale.frozen import frozen


@frozen(kw_only=False)
class Entry:
    """A command in the top help; its module `llama_scale.cli.<name>` has the click command as `command`."""

    section: str
    summary: str
    lasts: bool = False  # minutes to weeks, not seconds


COMMANDS = {
    "sweep": Entry("Measure", "Train the runs of a sweep, fit a law, test it on held-out runs.", lasts=True),
    "train": Entry("Measure", "Train one model, alone or shared out by torchrun.", lasts=True),
    "worker": Entry("Measure", "Train one run of a store to its end (what launchers start).", lasts=True),
    "runs": Entry("Measure", "What has been run, and how did it end?"),
    "data": Entry("Measure", "Prepare, show and verify the text that runs train on.", lasts=True),
    "export": Entry("Measure", "Write a trained model as a folder that transformers loads."),
    "fit": Entry("Fit", "Which law do these runs follow, and how surely?"),
    "plan": Entry("Plan", "Which model to train for what it will serve, at what cost?"),
    "compare": Entry("Plan", "Which existing model is worth its cost, from which demand on?"),
    "report": Entry("Plan", "A plan as one HTML file, to mail or to print, with live controls."),
    "plot": Entry("Inspect", "What do runs, a law or a plan look like, as a picture?"),
    "doctor": Entry("Inspect", "Is this machine ready, and what is missing?"),
}


class Program(HelpfulGroup):
    """The top of the command line: loads commands lazily, and gives every error one line and one hint."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return import_module(f"llama_scale.cli.{cmd_name}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if (entry := COMMANDS.get(args[0])) and not entry.lasts:
            # As numpy loads, OpenBLAS starts a thread a core: a quarter of a plan's time, for no use of them.
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
            gc.disable()  # a short command ends before its garbage matters
            ctx.call_on_close(gc.enable)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(map(len, COMMANDS))
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            with formatter.section(section):
                rows = [(name, entry.summary) for name, entry in COMMANDS.items() if entry.section == section]
                formatter.write_dl([(name.ljust(widest), summary) for name, summary in rows])

    def main(self, args: Sequence[str] | None = None, *others: Any, **more: Any) -> Any:
        """Runs the program and leaves with its exit code: 0 done, 1 failed, 2 misuse, 130 interrupted.

        What a command returns, if it is a whole number, is the exit code.
        """
        if not more.pop("standalone_mode", True):
            return super().main(args, *others, standalone_mode=False, **more)
        words = list(sys.argv[1:] if args is None else args)
        sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  # closed by who started us, as by >&-
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal without Unicode gets ? and no traceback
        run = partial(super().main, words, *others, standalone_mode=False, **more)
        code = exit_code_of(run, lambda: json_asked(self, words))
        world = sys.modules.get("llama_scale.training.world")  # of a command that may have joined others
        if world and world.is_launched():
            _leave_torchrun(code)
        # Or Python would look at every object of every module once more on its way out.
        atexit.register(gc.freeze)
        sys.exit(code)


def _leave_torchrun(code: int) -> NoReturn:
    """End without taking Python down, in which gloo's threads may be: torch's caches keep the process group.

    One that lets go of its last message then waits for an interpreter that is gone, and aborts the process:
    on a fast machine one of three runs that had ended well left with SIGABRT (torch 2.13).
    """
    atexit._run_exitfuncs()  # what Python itself would call first
    with suppress(OSError):  # nobody reads on
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


@click.group(
    cls=Program,
    context_settings={"show_default": True, "help_option_names": ["-h", "--help"]},
    epilog="""\b
Settings: flag > LLAMA_SCALE_<COMMAND>_<OPTION> > LLAMA_SCALE_<OPTION>
  > ./llama-scale.toml > ~/.config/llama-scale/config.toml > default;
  see --show-settings.
Completion (or zsh_source, fish_source):
  eval "$(_LLAMA_SCALE_COMPLETE=bash_source llama-scale)"
""",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=show_version,
    help="Show the version and exit.",
)
def main() -> None:
    """From a sweep you can run tonight to the model you should train, what it will cost, and how sure we are.

    \b
      llama-scale sweep                      train small models, fit a law to them
      llama-scale plan --serve-tokens 1e12   which model to train, at what cost
    """
