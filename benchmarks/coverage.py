"""How often intervals cover the truth: made-up sweeps of a known law, and real runs held out by compute.

    python benchmarks/coverage.py [--seeds 200] [--data ../shared/data]

A sweep has 6 trunks x 6 budgets; three runs on new trunks, at 4 times the largest budget, are held out.
Public data: laws of the cheaper 80 % of runs predict the dearer 20 %.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np

from llama_scale.errors import UnidentifiedError
from llama_scale.fitting import Settings, fit, gather
from llama_scale.fitting.observations import Observations
from llama_scale.fitting.uncertainty import Resampling
from llama_scale.laws import Fit, Range, central_range

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
synthetic = import_module("synthetic")
CHINCHILLA = Settings(form="chinchilla", delta=1e-2)  # the form that made these sweeps
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
    words = options.parse_args()
    report_sweeps(words.seeds, words.draws)
    if words.data.is_dir():
        report_public(words.data, words.draws)


def report_sweeps(seeds: int, draws: int) -> None:
    columns = ("trunk noise, run noise", "draws", "law", "new run", "best N at top budget", "alpha")
    print("| " + " | ".join((*columns, "half-width", "refused")) + " |\n|" + "---|" * 8)
    for trunk, own in NOISES:
        for method in ("model", "rows"):
            print(f"| {trunk:.2%}, {own:.2%} | {method} " + sweep_row(seeds, draws, trunk, own, method))


def sweep_row(seeds: int, draws: int, trunk: float, own: float, method: Resampling) -> str:
    hits: dict[str, list[float]] = {"law": [], "run": [], "best": [], "alpha": []}
    widths, refused = [], 0
    for seed in range(seeds):
        runs = synthetic.sweep(seed, trunk_noise=trunk, own_noise=own, held_out=True)
        try:
            found = fit(runs, settings=replace(CHINCHILLA, draws=draws, seed=seed, resampling=method))
        except UnidentifiedError:
            refused += 1
            continue
        test = runs.held_out
        assert test is not None
        assert found.draws is not None
        truth = np.asarray(synthetic.LAW.loss(test.parameters, test.tokens))
        for i, loss in enumerate(truth):
            hits["law"].append(within(loss, found.draws.loss(test.parameters[i], test.tokens[i])))
        hits["run"] += [row["inside"] for row in found.evidence["held_out"]]
        top = float(runs.budgets.max())
        hits["best"].append(
            within(synthetic.LAW.compute_optimum(top).parameters, found.draws.compute_optimum(top).parameters)
        )
        hits["alpha"].append(within(synthetic.LAW.alpha, found.draws.alpha))
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
