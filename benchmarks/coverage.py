"""How often intervals cover the truth, on made-up runs of a known law.

    python benchmarks/coverage.py [--seeds 200] [--draws 200] [--skaling-seeds 60] [--chosen-seeds 60]
                                  [--repeated-seeds 40]

Tables, in turn, none of 0 seeds: independent runs of random sizes and durations; sweeps of 6 trunks x 6
budgets, whose three runs on new trunks, at 4 times the largest budget, are held out; fits whose form is not
named, and how far their best N errs a hundred times beyond; runs that repeat their data. Real runs:
benchmarks/extrapolation.py.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

from llama_scale.errors import UnidentifiedError
from llama_scale.fitting import Settings, fit
from llama_scale.fitting.candidates import DELTAS, Candidate, points_of
from llama_scale.fitting.consensus import consensus
from llama_scale.fitting.selection import choose
from llama_scale.fitting.uncertainty import Resampling, draw_laws
from llama_scale.frozen import frozen
from llama_scale.laws import (
    MUENNIGHOFF_REPETITION,
    Range,
    RepeatedDataLaw,
    ScalingLaw,
    central_range,
    published,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
synthetic = import_module("synthetic")
CHINCHILLA = Settings(form="chinchilla", delta=1e-2)  # the form that made these sweeps
# The default sweep's own law (base seed 0), fitted as `fit` does: the form chosen anew on every sweep.
SKALING = ScalingLaw(E=0.791, A=346_580, B=8.33e6, alpha=0.8037, beta=0.8869, k=0.2334)
SKALING_NOISE = (0.003, 0.0025)
FAR = 100.0  # times the largest run
COUNTS, RUN_NOISE = (8, 12, 24, 36, 80), 0.003
NOISES = ((0.0, 0.004), (0.003, 0.0015), (0.008, 0.004))
DEARER = 2.0  # times the FLOPs of the dearest run that repeats
REPEATED_NOISES = (0.002, 0.005)
MANY_EPOCHS = (1.0, 4.0, 16.0, 60.0)
REPEATED = (  # how many sizes and texts, of which epochs, and the largest size by what the text calls for
    ("120, any size", 6, 5, MANY_EPOCHS, np.inf),
    ("48, any size", 4, 4, MANY_EPOCHS[:3], np.inf),
    ("up to 3 U_N", 8, 5, MANY_EPOCHS, 3.0),
    ("none above U_N", 8, 5, MANY_EPOCHS, 1.0),
)
CHOSEN = (
    *(
        (
            f"sweep, {noise[0]:.2%}, {noise[1]:.2%}",
            synthetic.LAW,
            partial(synthetic.sweep, trunk_noise=noise[0], own_noise=noise[1]),
        )
        for noise in NOISES[1:]
    ),
    (
        "Skaling sweep",
        SKALING,
        partial(synthetic.sweep, trunk_noise=SKALING_NOISE[0], own_noise=SKALING_NOISE[1], law=SKALING),
    ),
    *(
        (
            f"{count} independent",
            synthetic.INDEPENDENT_LAW,
            partial(synthetic.independent_runs, count=count, noise=RUN_NOISE),
        )
        for count in COUNTS[-2:]
    ),
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=200)
    options.add_argument("--draws", type=int, default=200)
    options.add_argument("--skaling-seeds", type=int, default=60, help="4 CPU seconds each")
    options.add_argument("--chosen-seeds", type=int, default=60, help="5 CPU seconds each")
    options.add_argument("--repeated-seeds", type=int, default=40, help="2 CPU seconds each")
    words = options.parse_args()
    if words.seeds:
        report_independent(words.seeds, words.draws)
        report_sweeps(words.seeds, words.draws)
    if words.skaling_seeds:
        print(f"| {' '.join(f'{noise:.2%},' for noise in SKALING_NOISE)} Skaling | model ", end="")
        settings = Settings(draws=words.draws)
        print(sweep_row(words.skaling_seeds, Case(law=SKALING, noise=SKALING_NOISE, settings=settings)))
    if words.chosen_seeds:
        report_chosen(words.chosen_seeds, words.draws)
        report_best(words.chosen_seeds)
    if words.repeated_seeds:
        report_repeated(words.repeated_seeds, words.draws)


def report_repeated(seeds: int, draws: int) -> None:
    """Runs that repeat their data, about their own law: its constants, decays, and losses of dearer runs."""
    columns = ("E", "alpha", "exponent_a", "R_D*", "R_N*", "loss", "R_D*", "R_N*", "half-width")
    print(f"\n| runs that repeat | noise | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 2)}")
    law, decays = published("muennighoff-2023").law, asdict(MUENNIGHOFF_REPETITION)
    for what, sizes, texts, epochs, most in REPEATED:
        for noise in REPEATED_NOISES:
            hits, losses, shown, widths = [], [], [], []
            for seed in range(seeds):
                runs = synthetic.repeated_runs(
                    seed,
                    law,
                    MUENNIGHOFF_REPETITION,
                    noise=noise,
                    sizes=np.geomspace(1e7, 3e9, sizes),
                    unique=np.geomspace(1e8, 3e10, texts),
                    epochs=epochs,
                    most=most,
                )
                settings = Settings(draws=draws, seed=seed, backtest=False)
                found = fit(runs, form="repeated", base_law="own", settings=settings)
                spans = found.evidence["intervals"]
                truth = {name: getattr(law, name) for name in columns[:3]} | decays
                hits.append([_held(spans.get(name), value) for name, value in truth.items()])
                shown.append([getattr(found.repetition, name) for name in decays])
                unique = float(np.median(runs.unique_tokens))
                true, draw = RepeatedDataLaw(law=law, unique_tokens=unique), found.repeated_draws(unique)
                assert draw is not None
                for size in np.quantile(runs.parameters, (0.5, 0.7, 0.9)):
                    tokens = DEARER * float((runs.parameters * runs.tokens).max()) / size
                    loss, sample = true.loss(size, tokens), draw.loss(size, tokens)
                    losses.append(within(loss, sample))
                    low, high = central_range(np.asarray(sample))
                    widths.append((high - low) / 2 / float(loss))
            shares = " | ".join(map(_share, (*zip(*hits, strict=True), losses)))
            middle = " | ".join(f"{value:.3g}" for value in np.median(shown, axis=0))
            print(f"| {what} | {noise:.1%} | {shares} | {middle} | {np.median(widths):.2%} |", flush=True)


def report_chosen(seeds: int, draws: int) -> None:
    """Constants of laws that are the mean of several candidates, as `fit` says them."""
    names = ("E", "A", "B", "alpha", "beta", "k", "exponent_a")
    print(f"\n| runs, the form not named | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
    for what, law, made in CHOSEN:
        hits = []
        for seed in range(seeds):
            found = fit(made(seed), settings=Settings(draws=draws, seed=seed))
            intervals = found.evidence["intervals"]
            spans = [(getattr(law, name), intervals.get(name, (1.0, 1.0))) for name in names]
            hits.append([low <= float(value) <= high for value, (low, high) in spans])
        print(f"| {what} | {' | '.join(f'{share:.0%}' for share in np.mean(hits, axis=0))} |", flush=True)


def report_best(seeds: int) -> None:
    """Best N at FAR times the largest run by three rules: rms error of its log, and what it costs in loss."""
    rules = ("fit", "nearest", "least error")
    print(f"\n| runs | {' | '.join(rules)} |\n|{'---|' * (len(rules) + 1)}")
    for what, law, made in CHOSEN:
        errors, costs = defaultdict(list), defaultdict(list)
        for seed in range(seeds):
            runs = made(seed)
            choice = choose(runs, Settings().candidates, direction="compute")
            best = min(choice.tried, key=lambda one: one.mean_error).candidate
            laws = (
                consensus(choice.heard_on(runs, choice.laws)),
                choice.laws[choice.candidate],
                choice.laws[best],
            )
            budget = FAR * float(runs.train_flops.max())
            size, tokens = law.compute_optimum(budget)
            for rule, found in zip(rules, laws, strict=True):
                wanted = found.compute_optimum(budget)
                errors[rule].append(np.log(float(wanted.parameters / size)))
                costs[rule].append(float(law.loss(*wanted)) / float(law.loss(size, tokens)) - 1)
        cells = (
            f"{np.sqrt(np.mean(np.square(errors[rule]))):.1%}, {np.mean(costs[rule]):.3%}" for rule in rules
        )
        print(f"| {what} | {' | '.join(cells)} |", flush=True)


def report_independent(seeds: int, draws: int) -> None:
    """Constants of independent runs with heavy-tailed noise, by draws alone."""
    names = ("E", "A", "B", "alpha", "beta", "exponent_a")
    print(f"| independent runs | delta | {' | '.join(names)} |\n|{'---|' * (len(names) + 2)}")
    for count in COUNTS:
        for delta in DELTAS:
            candidate, hits = Candidate(form="chinchilla", delta=delta), []
            for seed in range(seeds):
                runs = synthetic.independent_runs(seed, count=count, noise=RUN_NOISE)
                start = candidate.fitted_form.solve(points_of(runs), delta=delta).constants
                law = draw_laws(runs, candidate, start, draws=draws, seed=seed).law
                hits.append([within(getattr(synthetic.INDEPENDENT_LAW, n), getattr(law, n)) for n in names])
            print(
                f"| {count} | {delta:g} | {' | '.join(f'{share:.0%}' for share in np.mean(hits, axis=0))} |"
            )


def report_sweeps(seeds: int, draws: int) -> None:
    columns = ("trunk noise, run noise", "draws", "law", "new run", "best N at top budget", "alpha")
    print("| " + " | ".join((*columns, "half-width", "refused")) + " |\n|" + "---|" * 8)
    methods: tuple[Resampling, ...] = ("model", "rows")
    for noise in NOISES:
        for method in methods:
            settings = replace(CHINCHILLA, draws=draws, resampling=method)
            case = Case(law=synthetic.LAW, noise=noise, settings=settings)
            print(f"| {noise[0]:.2%}, {noise[1]:.2%} | {method} " + sweep_row(seeds, case))


def _held(span: tuple[float, float] | None, value: float) -> bool | None:
    """Whether an interval holds a value; None where there is none, as of a decay that is kept."""
    return None if span is None else span[0] <= value <= span[1]


def _share(held: Iterable[bool | None]) -> str:
    known = [one for one in held if one is not None]
    return f"{np.mean(known):.0%}" if known else "kept"


@frozen
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


if __name__ == "__main__":
    main()
