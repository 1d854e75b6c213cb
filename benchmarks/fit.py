"""How fast and how well laws are fitted, beside a straightforward SciPy L-BFGS-B.

    python benchmarks/fit.py [../shared/data/chinchilla.csv] [--starts 90]

The table of 245 runs is not ours to ship; without it, 240 made-up runs stand in. SciPy's starts are a
random part of the usual grid of 4,500 (Hoffmann et al. 2022, section D.2), its time is scaled up to all.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from llama_scale.fitting import gather
from llama_scale.fitting.candidates import points_of
from llama_scale.fitting.observations import Observations, Row, Rows, observe
from llama_scale.fitting.solver import refit, solve
from llama_scale.laws import published

DELTA = 1e-3
GRID = tuple(
    itertools.product(
        np.arange(0, 26, 5),
        np.arange(0, 26, 5),
        np.arange(-1, 1.1, 0.5),
        np.arange(0, 2.1, 0.5),
        np.arange(0, 2.1, 0.5),
    )
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("table", nargs="?", default="../shared/data/chinchilla.csv", type=Path)
    options.add_argument("--starts", type=int, default=90)
    words = options.parse_args()
    known = words.table.is_file()
    runs = gather(words.table, where=["excluded_by_besiroglu = 0"]) if known else made_up(240)
    print("| what | CPU s | objective (sum) | |\n|---|---|---|---|")
    report_ours(runs)
    report_scipy(runs, words.starts)
    report_many(made_up(10_000))
    if known:
        report_command(words.table)


def made_up(count: int) -> Observations:
    """Runs of random sizes and durations under the default law, with 1 % of noise."""
    generator = np.random.default_rng(0)
    sizes, tokens = np.exp(generator.uniform(18, 23, count)), np.exp(generator.uniform(21, 26, count))
    losses = published().law.loss(sizes, tokens) * np.exp(0.01 * generator.standard_t(4, count))
    rows = tuple(
        Row(name=str(i), place=str(i), parameters=n, tokens=d, loss=loss)
        for i, (n, d, loss) in enumerate(np.stack([sizes, tokens, losses], axis=1).tolist())
    )
    return observe([Rows(source="made up", rows=rows, convention="total")])


def report_ours(runs: Observations) -> None:
    points = points_of(runs)
    found, times = solve(points), []
    for _ in range(7):
        start = time.process_time()
        found = solve(points)
        times.append(time.process_time() - start)
    note = f"{found.agreed} of {found.starts} starts agree"
    print(
        f"| llama-scale, one global fit of {len(runs)} | {np.median(times):.3f} | {found.objective:.9e}"
        f" | {note} |"
    )
    generator = np.random.default_rng(0)
    counts = generator.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=4000).astype(float)
    start = time.process_time()
    draws = refit(points, found.constants, weights=counts)
    elapsed = time.process_time() - start
    print(
        f"| llama-scale, 4,000 bootstrap refits | {elapsed:.2f} | | {draws.converged.mean():.2%} converged |"
    )


def report_scipy(runs: Observations, starts: int) -> None:
    log_n, log_d, log_loss = (np.log(v) for v in (runs.parameters, runs.tokens, runs.loss))

    def total(theta: NDArray[np.float64]) -> float:
        a, b, e, alpha, beta = theta
        size = np.abs(np.logaddexp(np.logaddexp(a - alpha * log_n, b - beta * log_d), e) - log_loss)
        return float(np.where(size <= DELTA, size**2 / 2, DELTA * (size - DELTA / 2)).sum())

    chosen = np.random.default_rng(0).choice(len(GRID), starts, replace=False)
    for name, scale in (("sum", 1.0), ("mean", 1 / len(runs))):
        start = time.process_time()
        found = [
            minimize(lambda t, s=scale: s * total(t), GRID[i], method="L-BFGS-B").fun / scale for i in chosen
        ]
        elapsed = (time.process_time() - start) * len(GRID) / starts
        print(
            f"| SciPy L-BFGS-B, {name}, 4,500 starts ({starts} run) | {elapsed:.0f} | {min(found):.9e}"
            " | best start |"
        )


def report_many(runs: Observations) -> None:
    points = points_of(runs)
    start = time.process_time()
    found = solve(points)
    elapsed = time.process_time() - start
    print(f"| llama-scale, one global fit of {len(runs):,} | {elapsed:.2f} | {found.objective:.6e} | |")


def report_command(table: Path) -> None:
    source = str(table.resolve())
    line = [
        sys.executable,
        "-m",
        "llama_scale",
        "fit",
        source,
        "--where",
        "excluded_by_besiroglu = 0",
        "--json",
    ]
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(line, cwd=folder, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"| `fit --draws 1000 --json` of the table, cold, with backtests | {spent:.2f} | | |")


if __name__ == "__main__":
    main()
