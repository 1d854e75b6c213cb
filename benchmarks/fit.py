"""How fast and how well laws are fitted, beside a straightforward SciPy L-BFGS-B and another package.

    python benchmarks/fit.py [../shared/data/chinchilla.csv] [--starts 90]

The `chinchilla` package of PyPI is timed where it is installed (`pip install llama-scale[bench]`).

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
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from llama_scale.fitting import gather
from llama_scale.fitting.candidates import points_of
from llama_scale.fitting.forms import CHINCHILLA, FITTED
from llama_scale.fitting.observations import Observations, Row, Rows, observe
from llama_scale.fitting.profile import profile
from llama_scale.laws import ScalingLaw, published

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
synthetic = import_module("synthetic")

Answer = TypeVar("Answer")
DELTA = 1e-3
PROFILED = ("E", "A", "B", "alpha", "beta", "k", "exponent_a")
BENT = ScalingLaw(E=1.0, A=0.9 * 6e4**0.6, B=0.7 * 2e6**0.6, alpha=0.6, beta=0.6, k=0.45)
FAMILIAR = ScalingLaw(E=1.8, A=480.0, B=2000.0, alpha=0.35, beta=0.37)  # of synthetic.independent_runs
PROFILE_CASES: dict[str, tuple[ScalingLaw, Callable[[int], Observations]]] = {
    "36 of a sweep, normal noise": (
        synthetic.LAW,
        lambda seed: synthetic.sweep(seed, trunk_noise=0.0, own_noise=0.004),
    ),
    "36 of a Skaling sweep": (
        BENT,
        lambda seed: synthetic.sweep(seed, law=BENT, trunk_noise=0.0, own_noise=0.004),
    ),
    "80, heavy tails": (FAMILIAR, synthetic.independent_runs),
}
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
    options.add_argument("--profile-seeds", type=int, default=0, help="measure how often profiles cover")
    words = options.parse_args()
    known = words.table.is_file()
    runs = gather(words.table, where=["excluded_by_besiroglu = 0"]) if known else made_up(240)
    print("| what | CPU s | objective (sum) | |\n|---|---|---|---|")
    report_ours(runs)
    report_forms(runs, made_up(10_000))
    report_scipy(runs, words.starts)
    if find_spec("chinchilla"):
        report_chinchilla(runs)
    if known:
        for options_of in (["--form", "chinchilla"], ["--form", "auto"]):
            report_command(words.table, options_of)
    if words.profile_seeds:
        report_profiles(words.profile_seeds)


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
    found, times = CHINCHILLA.solve(points), []
    for _ in range(7):
        start = time.process_time()
        found = CHINCHILLA.solve(points)
        times.append(time.process_time() - start)
    note = f"{found.agreed} of {found.starts} starts agree"
    print(
        f"| llama-scale, one global fit of {len(runs)} | {np.median(times):.3f} | {found.objective:.9e}"
        f" | {note} |"
    )
    generator = np.random.default_rng(0)
    counts = generator.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=4000).astype(float)
    start = time.process_time()
    draws = CHINCHILLA.refit(points, found.constants, delta=DELTA, weights=counts)
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


def report_forms(runs: Observations, many: Observations) -> None:
    """Each form: a fit, a quick one as backtests make them, refits of resamples, and a fit of many runs."""
    generator = np.random.default_rng(0)
    counts = generator.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=1000).astype(float)
    for name, form in FITTED.items():
        points, plenty = points_of(runs), points_of(many)
        form.solve(points, delta=DELTA)
        spent, found = timed(lambda form=form, points=points: form.solve(points, delta=DELTA))
        quick, _ = timed(lambda form=form, points=points: form.solve(points, delta=DELTA, quick=True))
        again, draws = timed(
            lambda form=form, points=points, found=found: form.refit(
                points, found.constants, delta=DELTA, weights=counts
            )
        )
        large, most = timed(lambda form=form, plenty=plenty: form.solve(plenty, delta=DELTA))
        starts = f"{found.agreed} of {found.starts} starts agree"
        print(f"| {name}: one fit of {len(runs)} | {spent:.3f} | {found.objective:.9e} | {starts} |")
        print(f"| {name}: quick | {quick:.3f} | | |")
        print(f"| {name}: 1,000 resamples | {again:.2f} | | {draws.converged.mean():.1%} at rest |")
        print(f"| {name}: one fit of {len(many):,} | {large:.2f} | {most.objective:.6e} | |")


def timed(work: Callable[[], Answer]) -> tuple[float, Answer]:
    """CPU seconds of a call, and what it gave."""
    start = time.process_time()
    answer = work()
    return time.process_time() - start, answer


def report_chinchilla(runs: Observations) -> None:
    """The `chinchilla` package: BFGS on a mean, from a small part of the usual grid, its time scaled up."""
    chinchilla, metrics = import_module("chinchilla"), import_module("chinchilla._metrics")
    grid = {"e": [0.0, 0.5], "a": [5, 10], "b": [5, 10], "alpha": [0.5], "beta": [0.5]}
    starts = int(np.prod([len(axis) for axis in grid.values()]))
    with tempfile.TemporaryDirectory() as folder:
        rows = zip(runs.train_flops, runs.parameters, runs.tokens, runs.loss, strict=True)
        lines = ["C,N,D,loss", *(",".join(repr(float(value)) for value in row) for row in rows)]
        Path(folder, "df.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        other = chinchilla.Chinchilla(
            folder,
            param_grid=grid,
            model_search_config=None,
            loss_fn=partial(metrics.log_huber, delta=DELTA),
            log_level=50,
        )
        spent, _ = timed(lambda: other.fit(parallel=False))
        spent *= len(GRID) / starts
        guess = other.predict_loss(runs.parameters, runs.tokens)
    size = np.abs(np.log(np.asarray(guess, float)) - np.log(runs.loss))
    value = float(np.where(size <= DELTA, size**2 / 2, DELTA * (size - DELTA / 2)).sum())
    name = f"`chinchilla` {version('chinchilla')}, BFGS, 4,500 starts ({starts} run)"
    print(f"| {name} | {spent:.0f} | {value:.9e} | best start |")


def report_profiles(seeds: int) -> None:
    """How often 90 % profile intervals cover the constants of known laws."""
    print("\n| runs | delta | " + " | ".join(PROFILED) + " |\n|---|---|" + "---|" * len(PROFILED))
    for name, (law, make) in PROFILE_CASES.items():
        for delta in (1e-3, 1e-2):
            hits: dict[str, list[bool]] = {constant: [] for constant in PROFILED}
            for seed in range(seeds):
                points = points_of(make(seed))
                form = FITTED[law.form]
                found = profile(points, form.solve(points, delta=delta, quick=True), form, delta=delta)
                for constant, (low, high) in found.intervals.items():
                    truth = float(np.asarray(getattr(law, constant)))
                    hits[constant].append((low is None or low <= truth) and (high is None or truth <= high))
            shares = [f"{np.mean(values):.0%}" if values else "" for values in hits.values()]
            print(f"| {name} | {delta:g} | " + " | ".join(shares) + " |")


def report_command(table: Path, options: list[str]) -> None:
    source = str(table.resolve())
    line = [
        sys.executable,
        "-m",
        "llama_scale",
        "fit",
        source,
        "--where",
        "excluded_by_besiroglu = 0",
        *options,
        "--json",
    ]
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(line, cwd=folder, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"| `fit {' '.join(options)} --draws 1000 --json` of the table, cold | {spent:.2f} | | |")


if __name__ == "__main__":
    main()
