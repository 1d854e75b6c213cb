"""CPU time of every --help in a new process: the budget is 100 ms each on a 2-core machine.

Run: python benchmarks/help.py [repetitions]
"""

from __future__ import annotations

import os
import sys
import tempfile

import click
from processes import cpu_seconds

from llama_scale.cli import main
from llama_scale.cli.settings import commands

BUDGET_MS = 100


def cpu_ms(words: tuple[str, ...], environment: dict[str, str]) -> float:
    """User and system milliseconds of one process."""
    return 1e3 * cpu_seconds([sys.executable, "-m", "llama_scale", *words, "--help"], env=environment)


def run(repetitions: int) -> None:
    """Prints the least and the median of each; byte code is cached, as it is after a first use."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for words in [(), *(path for path, _ in commands(click.Context(main)))]:
            cpu_ms(words, environment)
            times = sorted(cpu_ms(words, environment) for _ in range(repetitions))
            name = " ".join(("llama-scale", *words, "--help"))
            print(f"{name:36} {times[0]:6.0f} ms  median {times[len(times) // 2]:4.0f} ms  of {BUDGET_MS} ms")


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
