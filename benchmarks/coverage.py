"""How often intervals cover the truth: made-up sweeps of a known law, and real runs held out by compute.

    python benchmarks/coverage.py [--seeds 200] [--data ../shared/data]

A sweep has 6 trunks x 6 budgets; three runs on new trunks, at 4 times the largest budget, are held out.
Public data: laws of the cheaper 80 % of runs predict the dearer 20 %.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import numpy as np

from llama_scale.errors import UnidentifiedError
from llama_scale.fitting import Settings, fit, gather
from llama_scale.fitting.observations import Observations
from llama_scale.fitting.uncertainty import Resampling
from llama_scale.laws import Fit, Range, ScalingLaw, central_range

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
synthetic = import_module("synthetic")
CHINCHILLA = Settings(form="chinchilla", delta=1e-2)  # the form that made these sweeps
# The default sweep's own law (base seed 0), fitted as `fit` does: the form chosen anew on every sweep.
SKALING = ScalingLaw(E=0.791, A=346_580, B=8.33e6, alpha=0.8037, beta=0.8869, k=0.2334)
SKALING_NOISE = (0.003, 0.0025)
NOISES = ((0.0, 0.004), (0.003, 0.0015), (0.008, 0.004))
SETS = (
    ("chinchilla", "excluded_by_besiroglu = 0"),
    ("gadre_overtraining", "dataset = rw_original"),
    ("gadre_overtraining", "dataset = c4_original"),
    ("gadre_overtraining", "dataset = rpj"),
    ("llama3_isoflop", "params > 0"),
    ("marin_nemotron_isoflop", "params > 0"),
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=200)
    options.add_argument("--draws", type=int, default=200)
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--skaling-seeds", type=int, default=60, help="4 CPU seconds each")
    words = options.parse_args()
    report_sweeps(words.seeds, words.draws)
    print(f"| {' '.join(f'{noise:.2%},' for noise in SKALING_NOISE)} Skaling | model ", end="")
    print(
        sweep_row(
            words.skaling_seeds, Case(law=SKALING, noise=SKALING_NOISE, settings=Settings(draws=words.draws))
        )
    )
    if words.data.is_dir():
        report_public(words.data, words.draws)


def report_sweeps(seeds: int, draws: int) -> None:
    columns = ("trunk noise, run noise", "draws", "law", "new run", "best N at top budget", "alpha")
    print("| " + " | ".join((*columns, "half-width", "refused")) + " |\n|" + "---|" * 8)
    methods: tuple[Resampling, ...] = ("model", "rows")
    for noise in NOISES:
        for method in methods:
            settings = replace(CHINCHILLA, draws=draws, resampling=method)
            case = Case(law=synthetic.LAW, noise=noise, settings=settings)
            print(f"| {noise[0]:.2%}, {noise[1]:.2%} | {method} " + sweep_row(seeds, case))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A true law, the noise of its trunks and runs, and how its sweeps are fitted."""

    law: ScalingLaw
    noise: tuple[float, float]
    settings: Settings


def sweep_row(seeds: int, case: Case) -> str:
    hits: dict[str, list[float]] = {"law": [], "run": [], "best": [], "alpha": []}
    widths, refused = [], 0
    for seed in range(seeds):
        trunk, own = case.noise
        runs = synthetic.sweep(seed, trunk_noise=trunk, own_noise=own, law=case.law, held_out=True)
        try:
            found = fit(runs, settings=replace(case.settings, seed=seed))
        except UnidentifiedError:
            refused += 1
            continue
        test = runs.held_out
        assert test is not None
        assert found.draws is not None
        truth = np.asarray(case.law.loss(test.parameters, test.tokens))
        for i, loss in enumerate(truth):
            hits["law"].append(within(loss, found.draws.loss(test.parameters[i], test.tokens[i])))
        hits["run"] += [row["inside"] for row in found.evidence["held_out"]]
        top = float(runs.budgets.max())
        hits["best"].append(
            within(case.law.compute_optimum(top).parameters, found.draws.compute_optimum(top).parameters)
        )
        hits["alpha"].append(within(case.law.alpha, found.draws.alpha))
        widths += [(row["high"] - row["low"]) / 2 / row["predicted"] for row in found.evidence["held_out"]]
    shares = " | ".join(f"{np.mean(values):.0%}" for values in hits.values())
    return f"| {shares} | {np.median(widths):.2%} | {refused} |"


def within(value: object, sample: object) -> bool:
    bounds: Range = central_range(np.asarray(sample, float))
    return bounds.low <= float(np.asarray(value)) <= bounds.high


def report_public(data: Path, draws: int) -> None:
    print("\n| data | held out | mean error | covered | half-width | factor |\n|---|---|---|---|---|---|")
    for name, where in SETS:
        runs = gather(data / f"{name}.csv", where=[where])
        order = np.argsort(runs.train_flops, kind="stable")
        cut = int(0.8 * len(runs))
        known, ahead = runs.take(order[:cut]), runs.take(order[cut:])
        found = fit(replace(known, held_out=ahead), settings=Settings(form="chinchilla", draws=draws))
        print(f"| {name} {where.split(' = ')[-1] if 'dataset' in where else ''} " + public_row(found, ahead))


def public_row(found: Fit, ahead: Observations) -> str:
    rows = found.evidence["held_out"]
    error = np.mean([abs(row["relative_error"]) for row in rows])
    inside = np.mean([row["inside"] for row in rows])
    width = np.median([(row["high"] - row["low"]) / 2 / row["predicted"] for row in rows])
    return f"| {len(ahead)} | {error:.2%} | {inside:.0%} | {width:.2%} | {found.interval_factor:.2f} |"


if __name__ == "__main__":
    main()
