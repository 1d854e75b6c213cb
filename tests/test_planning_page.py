"""Every example of docs/planning.md runs, and says something in 80 columns."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from llama_scale.cli.compare import command as compare
from llama_scale.cli.plan import command as plan

PAGE = (Path(__file__).parent.parent / "docs" / "planning.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"`(llama-scale (?:plan|compare) [^`]+)`", PAGE)


def block(language: str) -> str:
    """The page's one block of code in a language."""
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert len(found) == 1
    return found[0]


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) > 25


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my-model.toml").write_text(block("toml"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    words = shlex.split(example)
    shown = CliRunner().invoke(
        {"plan": plan, "compare": compare}[words[1]], words[2:], catch_exceptions=False
    )
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    assert lines[0]
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("again") for line in lines)


def test_the_python_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block("python"), "planning.md", "exec"), {})
    assert capsys.readouterr().out.startswith("Train ")
