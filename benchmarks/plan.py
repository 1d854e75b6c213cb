"""How long planning takes: cold commands by their CPU time, optima by wall time in one process.

    python benchmarks/plan.py [--repeats 15]

A cold command is paired with a bare `import click, numpy` in the same second, so that the ratio of the
two holds on a busy machine where neither time does. Both find their bytecode cached, as pip leaves it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from processes import cpu_seconds

from llama_scale.laws import RepeatedDataLaw, ScalingLaw, published, write_fit
from llama_scale.planning import best_sizes
from llama_scale.planning.families import ExactFamily
from llama_scale.planning.optimum import lowest_cost, lowest_loss
from llama_scale.planning.request import read_request

DRAWS = 1000


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--repeats", type=int, default=15)
    repeats = options.parse_args().repeats
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(folder) / "bytecode")
        fit = write_fit(Path(folder) / "drawn.json", replace(published(), name="drawn", draws=draws()))
        print("| what | CPU ms, median (least) | over importing click and numpy |\n|---|---|---|")
        plan = [sys.executable, "-m", "llama_scale", "plan"]
        asked = [*plan, "--serve-tokens", "1e12", "--law", str(fit)]
        for name, words in {
            "`plan --help`": [*plan, "--help"],
            "`plan --json`, default law": [*plan, "--serve-tokens", "1e12", "--json"],
            f"`plan --json`, {DRAWS:,} draws": [*asked, "--json"],
            "the same, `--budget '$2M'` (roofline)": [*asked, "--json", "--budget", "$2M"],
            "the same, `--flops exact`": [*asked, "--json", "--flops", "exact"],
            f"`plan`, table, {DRAWS:,} draws": asked,
        }.items():
            report_command(name, words, repeats)
    report_optima()


def report_command(name: str, words: Sequence[str], repeats: int) -> None:
    """Prints the CPU time of a command and its ratio to importing click and numpy, pair by pair."""
    bare = [sys.executable, "-c", "import click, numpy"]
    for compiled in (words, bare):
        cpu_seconds(compiled)
    pairs = [(cpu_seconds(words), cpu_seconds(bare)) for _ in range(repeats)]
    times = [1e3 * ours for ours, _ in pairs]
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    print(f"| {name} | {statistics.median(times):.0f} ({min(times):.0f}) | {ratio:.2f} x |")


def report_optima() -> None:
    """Prints how long draws and grids of optima take in a process that is warm."""
    request = read_request({"serve_tokens": 1e12, "budget": "$2M", "kv_heads": 8})
    counted, priced = request.in_unit("flops").problem(), request.problem()
    exact = replace(counted, family=ExactFamily(convention="total"))
    repeated = RepeatedDataLaw(law=draws(), unique_tokens=3e11)
    demands = np.geomspace(1e9, 1e15, 100)
    flops, usd = np.geomspace(1e20, 1e26, 100)[:, None], np.geomspace(1e4, 1e9, 100)[:, None]
    print("\n| optima, warm | ms |\n|---|---|")
    for name, solve in {
        f"{DRAWS:,} draws on a budget, 6ND": lambda: lowest_loss(counted.with_law(draws()), 1e24),
        f"{DRAWS:,} draws at a loss, 6ND": lambda: lowest_cost(counted.with_law(draws()), 2.0),
        f"{DRAWS:,} draws on a budget, exact": lambda: lowest_loss(exact.with_law(draws()), 1e24),
        f"{DRAWS:,} draws on a budget, roofline": lambda: lowest_loss(priced.with_law(draws()), 2e6),
        f"{DRAWS:,} draws at a loss, roofline": lambda: lowest_cost(priced.with_law(draws()), 2.0),
        f"{DRAWS:,} draws, roofline, repeated data": lambda: lowest_loss(priced.with_law(repeated), 2e6),
        "10,000 budgets x demands, 6ND": lambda: best_sizes(None, flops, demands),
        "10,000 budgets x demands, exact": lambda: best_sizes(None, flops, demands, flops="exact"),
        "10,000 budgets x demands, roofline": lambda: best_sizes(None, usd, demands, unit="usd"),
        "10,000, roofline, repeated data": lambda: best_sizes(
            None, usd, demands, unit="usd", unique_tokens=1e12
        ),
    }.items():
        print(f"| {name} | {1e3 * best_seconds(solve):.2f} |")


def best_seconds(solve: Callable[[], object]) -> float:
    times = []
    for _ in range(7):
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
