"""CPU time of every `llama-scale plot KIND` in a new process: the budget is 2 s each on a 2-core machine.

    python benchmarks/plot.py [repetitions]

Beside it stands how many times the import of click and numpy fits into each, which a slower machine hardly
moves.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from processes import cpu_seconds

from llama_scale.cli.plot import command

BUDGET_MS = 2000
RESULTS = Path(__file__).resolve().parent.parent / "sweeps" / "results"
OF_A_PLAN = ("cost", "loss", "demand", "break-even", "sensitivity")
OF_MODELS = ("models", "bets")


def source(kind: str) -> list[str]:
    """What a kind is drawn from: a plan, models, committed curves, a committed fit."""
    if kind in OF_MODELS:
        return []
    if kind in OF_A_PLAN:
        return ["--serve-tokens", "1e12"]
    return [str(RESULTS / f"default-seed0-{'curves.csv' if kind == 'curves' else 'fit.json'}")]


def cpu_ms(line: list[str], environment: dict[str, str]) -> float:
    """User and system milliseconds of one process."""
    return 1e3 * cpu_seconds([sys.executable, *line], env=environment)


def run(repetitions: int) -> None:
    """Prints the least of each kind, measured in turn with the imports; byte code is cached."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(Path(folder) / "cache")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        imports = ["-c", "import click, numpy"]
        for kind in sorted(command.commands):  # pyright: ignore[reportAttributeAccessIssue]
            file = str(Path(folder) / "picture.png")
            line = ["-m", "llama_scale", "plot", kind, *source(kind), "-o", file, "--force"]
            pairs = [
                (cpu_ms(line, environment), cpu_ms(imports, environment)) for _ in range(repetitions + 1)
            ]
            least, base = (min(times) for times in zip(*pairs[1:], strict=True))
            print(f"{kind:12} {least:6.0f} ms of {BUDGET_MS:,} ms, {least / base:5.1f} x the imports alone")


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
