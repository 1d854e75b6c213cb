"""The documentation says what the program does: its help, its options, its README commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_cli import EVERY, answering

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")])
CODE = re.compile(r"^```.*?\n(.*?)^```|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
COMMAND_LINE = re.compile(r"(?:^\s*(?:\$ )?|&& )llama-scale ((?:[^\n|#&;)\\]|\\\n)*)", re.MULTILINE)


def command_lines(text: str) -> list[list[str]]:
    """The words after `llama-scale` of every command line in fenced blocks and in backquotes."""
    code = [block or span for block, span in CODE.findall(text)]
    return [found.replace("\\\n", " ").split() for part in code for found in COMMAND_LINE.findall(part)]


def test_command_lines_are_found_in_code_alone() -> None:
    page = "llama-scale is\n`llama-scale fit x`\n```sh\n$ a && llama-scale plan --a \\\n --b # why\n```\n"
    assert command_lines(page) == [["fit", "x"], ["plan", "--a", "--b"]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_in_the_pages_exist(page: Path) -> None:
    for words in command_lines(page.read_text(encoding="utf-8")):
        if not words or not re.fullmatch(r"[a-z][a-z-]*", words[0]):
            continue
        depth = max((n for n in range(1, len(words) + 1) if tuple(words[:n]) in EVERY), default=0)
        assert depth, f"{page.name}: llama-scale {' '.join(words)}"
        known = {
            name for p in answering(tuple(words[:depth])).params for name in (*p.opts, *p.secondary_opts)
        }
        options = {word.partition("=")[0] for word in words[depth:] if word.startswith("--")}
        assert options <= known | {"--help", "--show-settings"}, f"{page.name}: llama-scale {' '.join(words)}"


def test_the_readme_has_both_commands_word_for_word() -> None:
    lines = [line.strip().removeprefix("$ ") for line in (REPOSITORY / "README.md").read_text().splitlines()]
    first = "pip install -c constraints.txt . && llama-scale sweep && llama-scale plan --serve-tokens 1e12"
    assert first in lines
    assert "pip install -c constraints.txt -e '.[test]' && pytest" in lines


def test_the_page_of_commands_is_current(tmp_path: Path) -> None:
    """Run `just docs` after a change of any help."""
    code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['page'](), end='')"
    script = REPOSITORY / "docs" / "write_commands.py"
    written = subprocess.run(
        [sys.executable, "-c", code, str(script)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert written.stdout == (REPOSITORY / "docs" / "commands.md").read_text(encoding="utf-8")
