"""Every command and every line of Python on docs/fitting.md runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from llama_scale.cli import main
from llama_scale.laws import published

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = (REPOSITORY / "docs" / "fitting.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the repository's sweeps and two tables of runs under the default law."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").symlink_to(REPOSITORY / "sweeps")
    generator = np.random.default_rng(0)
    lines = ["N,D,L"]
    for size in np.exp(np.linspace(np.log(1e8), np.log(4e9), 7)):
        for tokens in np.exp(np.linspace(np.log(6e8), np.log(1e11), 7)):
            loss = float(published().law.loss(size, tokens) * np.exp(0.002 * generator.standard_normal()))
            lines.append(f"{size:.0f},{tokens:.0f},{loss:.5f}")
    (tmp_path / "runs.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "more.csv").write_text("Params (B);Tokens (B);Loss\n2;80;2,4123\n3;80;2,3561\n")
    return tmp_path


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) >= 7
    assert all(line.startswith("llama-scale fit ") for line in COMMANDS)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_runs(line: str, surroundings: Path) -> None:
    result = CliRunner().invoke(main, shlex.split(line)[1:])
    assert result.exit_code == 0, result.output


def test_the_python_runs(surroundings: Path) -> None:
    (code,) = [text for kind, text in BLOCKS if kind == "python"]
    names: dict[str, object] = {}
    exec(code, names)
    assert "law" in names
