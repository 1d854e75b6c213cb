"""How long planning takes: cold commands by their CPU time, optima by wall time in one process.

    python benchmarks/plan.py [--repeats 15]

A cold command is paired with a bare `import click, numpy` in the same second, so that the ratio of the
two holds on a busy machine where neither time does.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from llama_scale.laws import ScalingLaw, published, write_fit
from llama_scale.planning.optimum import ExactFamily, Family, Problem, SixNDFamily, lowest_cost, lowest_loss

DRAWS = 1000


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--repeats", type=int, default=15)
    repeats = options.parse_args().repeats
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        fit = write_fit(Path(folder) / "drawn.json", replace(published(), name="drawn", draws=draws()))
        print("| what | CPU ms, median (least) | over importing click and numpy |\n|---|---|---|")
        plan = [sys.executable, "-m", "llama_scale", "plan"]
        for name, words in {
            "`plan --help`": [*plan, "--help"],
            "`plan --json`, default law": [*plan, "--serve-tokens", "1e12", "--json"],
            f"`plan --json`, {DRAWS:,} draws": [*plan, "--serve-tokens", "1e12", "--law", str(fit), "--json"],
            "the same, `--flops exact`": [
                *(*plan, "--serve-tokens", "1e12", "--law", str(fit), "--json"),
                *("--flops", "exact"),
            ],
            f"`plan`, table, {DRAWS:,} draws": [*plan, "--serve-tokens", "1e12", "--law", str(fit)],
        }.items():
            report_command(name, words, repeats)
    report_optima()


def report_command(name: str, words: Sequence[str], repeats: int) -> None:
    """Prints the CPU time of a command and its ratio to importing click and numpy, pair by pair."""
    bare = [sys.executable, "-c", "import click, numpy"]
    pairs = [(cpu_seconds(words), cpu_seconds(bare)) for _ in range(repeats)]
    times = [1e3 * ours for ours, _ in pairs]
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    print(f"| {name} | {statistics.median(times):.0f} ({min(times):.0f}) | {ratio:.2f} x |")


def cpu_seconds(words: Sequence[str]) -> float:
    """User and system time of one process, from start to end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def report_optima() -> None:
    """Prints how long batches of optima take in a process that is warm."""
    budgets, demands = np.meshgrid(np.geomspace(1e20, 1e26, 100), np.geomspace(1e9, 1e15, 100))
    law = published().law
    exact = ExactFamily(convention="total", context=2048)

    def on_draws(family: Family) -> Problem:
        return Problem(law=draws(), family=family, serve_tokens=1e12)

    def on_grid(family: Family) -> Problem:
        return Problem(law=law, family=family, serve_tokens=demands)

    print("\n| optima, warm | ms |\n|---|---|")
    for name, solve in {
        f"{DRAWS:,} draws on a budget, 6ND": lambda: lowest_loss(on_draws(SixNDFamily()), 1e24),
        f"{DRAWS:,} draws at a loss, 6ND": lambda: lowest_cost(on_draws(SixNDFamily()), 2.0),
        f"{DRAWS:,} draws on a budget, exact": lambda: lowest_loss(on_draws(exact), 1e24),
        "10,000 budgets x demands, 6ND": lambda: lowest_loss(on_grid(SixNDFamily()), budgets),
        "10,000 budgets x demands, exact": lambda: lowest_loss(on_grid(exact), budgets),
    }.items():
        print(f"| {name} | {1e3 * best_seconds(solve):.2f} |")


def best_seconds(solve: Callable[[], object], repeats: int = 7) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        solve()
        times.append(time.perf_counter() - start)
    return min(times)


def draws() -> ScalingLaw:
    """Draws about the default law, as wide as its published standard errors."""
    z = np.random.default_rng(0).normal(size=(3, DRAWS))
    return ScalingLaw(
        E=1.8172 + 0.0257 * z[0],
        A=482.01 * np.exp(0.25 * z[1]),
        B=2085.43 * np.exp(0.5 * z[2]),
        alpha=0.3478 + 0.0154 * z[1],
        beta=0.3658 + 0.0206 * z[2],
    )


if __name__ == "__main__":
    main()
