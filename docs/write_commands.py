"""Writes docs/commands.md: the help of every command, as the program prints it. `just docs` runs it."""

from __future__ import annotations

from pathlib import Path

import click
from click.testing import CliRunner

from llama_scale.cli import main
from llama_scale.cli.settings import commands

PAGE = Path(__file__).with_name("commands.md")


def page() -> str:
    """The whole page, from the commands as they are now."""
    paths = [(), *(path for path, _ in commands(click.Context(main)))]
    parts = ["# Commands", "Written by `just docs` from the program's own help; a test compares them."]
    for path in paths:
        shown = CliRunner().invoke(main, [*path, "--help"], prog_name="llama-scale").stdout
        parts += [f"## {' '.join(('llama-scale', *path))}", f"```\n{shown.rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
