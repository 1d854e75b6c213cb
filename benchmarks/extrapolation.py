"""How well laws of the nearer runs predict the farther ones, and how often intervals hold them: public data.

    python benchmarks/extrapolation.py [--data ../shared/data] [--shares 0.8,0.7,0.6] [--draws 400]
    python benchmarks/extrapolation.py --few 7,8,9,10    # so many of the nearer runs alone
    python benchmarks/extrapolation.py --other-losses    # of gadre's runs: no rule was chosen in their view

Each row fits the runs of least compute (or of least tokens per parameter) and predicts the rest, which have
no part in anything. "least error" is the candidate of least error in the inner backtests, "fit" the law that
`fit` makes of all that are heard, "nearest" the candidate nearest to it, "hindsight" the candidate of least
error on the runs held out: what no rule that takes one could beat.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llama_scale.errors import UnidentifiedError
from llama_scale.fitting import Rules, Settings, fit, gather
from llama_scale.fitting.backtests import split_at, try_all
from llama_scale.fitting.candidates import Candidate, solve_all
from llama_scale.fitting.consensus import consensus
from llama_scale.fitting.drift import Drift, log_likelihood, prior_spreads
from llama_scale.fitting.newton import Array
from llama_scale.fitting.observations import Observations
from llama_scale.fitting.selection import CUTS, Asked, choose, directions_of
from llama_scale.frozen import frozen
from llama_scale.laws import Fit

SIX = ("chinchilla", "gadre rw", "gadre c4", "gadre rpj", "llama3", "marin")
LIMITS = (100, 250, 500, 1000)
FILES = {
    "chinchilla": ("chinchilla", "excluded_by_besiroglu = 0"),
    "gadre rw": ("gadre_overtraining", "dataset = rw_original"),
    "gadre c4": ("gadre_overtraining", "dataset = c4_original"),
    "gadre rpj": ("gadre_overtraining", "dataset = rpj"),
    "llama3": ("llama3_isoflop", "params > 0"),
    "marin": ("marin_nemotron_isoflop", "params > 0"),
    "misfitting, best": ("misfitting_sweep", "params > 0"),
    "steplaw, best": ("steplaw_dense_lr_bs", "loss < 7"),
    "datablations, 1 epoch": ("datablations", "epochs <= 1"),
    "chinchilla budgets": ("chinchilla_isoflop_budgets", "outlier = 0"),
}
PLAIN = {"chinchilla": Candidate(form="chinchilla"), "skaling": Candidate(form="skaling")}
COLUMNS = (
    "data",
    "held out",
    "Chinchilla",
    "Skaling",
    "least error",
    "hindsight",
    "fit",
    "nearest",
    "covered",
    "half-width",
)
FEW_COLUMNS = ("runs", "refused", "by draws alone", "half-width", "as fitted", "half-width")
OTHER_COLUMNS = ("known", "sets", "Chinchilla", "Skaling", "least error", "hindsight", "nearest", "fit")
OTHER_SHARES = (0.85, 0.8, 0.75, 0.7)
SUBSETS = 12
SCALES = (0.01, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.4)


@frozen
class Row:
    """One split: relative errors by rule, coverage and half-widths of intervals, drifts of its backtests."""

    name: str
    held_out: int
    errors: dict[str, float]
    what: str
    covered: float
    half_widths: Array
    drifts: list[dict[str, Any]]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--shares", default="0.8,0.7,0.6")
    options.add_argument("--draws", type=int, default=400)
    options.add_argument("--few")
    options.add_argument("--other-losses", action="store_true")
    words = options.parse_args()
    start = time.process_time()
    if words.few:
        print(f"| {' | '.join(FEW_COLUMNS)} |\n|{'---|' * len(FEW_COLUMNS)}")
        for count in map(int, words.few.split(",")):
            print(few(words.data, count, words.draws), flush=True)
        return
    if words.other_losses:
        print(f"| {' | '.join(OTHER_COLUMNS)} |\n|{'---|' * len(OTHER_COLUMNS)}")
        for share in OTHER_SHARES:
            print(by_other_losses(words.data, share), flush=True)
        return
    for share in map(float, words.shares.split(",")):
        print(f"\n**The cheaper {share:.0%} of runs predict the rest**\n\n{header()}")
        rows = []
        for name in FILES:
            rows += list(by_compute(name, read(words.data, name), share, words.draws))
        print(summary([row for row in rows if row.name in SIX], "the first six"))
        print(summary(rows, "all"))
        print(f"\nlog likelihood of drifts by the scale of their prior: {likelihoods(rows)}")
    print(f"\n**sardana2024: few tokens per parameter predict many**\n\n{header()}")
    print(summary(list(by_ratio(words.data, words.draws)), "all"))
    print(f"\n{time.process_time() - start:.0f} CPU seconds")


def read(data: Path, name: str) -> Observations:
    file, where = FILES[name]
    rules = Rules(repeats="best") if "best" in name else Rules()
    return gather(data / f"{file}.csv", where=[where, "loss < 7"], rules=rules)


def by_compute(name: str, runs: Observations, share: float, draws: int) -> Iterator[Row]:
    split = split_at(runs, share, "compute")
    if split is not None:
        yield from row_of(name, split.known, split.ahead, "auto", draws)


def few(data: Path, count: int, draws: int) -> str:
    """Coverage and half-width over ten sets, by `count` of the cheaper four fifths, drawn SUBSETS times."""
    refused, covered, widths = 0, defaultdict(list), defaultdict(list)
    for name in FILES:
        split = split_at(read(data, name), 0.8, "compute")
        assert split is not None
        for seed in range(SUBSETS):
            known = split.known.take(np.random.default_rng(seed).permutation(len(split.known)) < count)
            for backtest in (False, True):
                settings = Settings(form="chinchilla", draws=draws, backtest=backtest)
                try:
                    found = fit(known, settings=settings)
                except UnidentifiedError:
                    refused += backtest
                    continue
                inside, half_widths = judged(found, split.ahead)
                covered[backtest, name].append(inside)
                widths[backtest].append(np.median(half_widths))
    cells = [f"{count}", f"{refused} of {SUBSETS * len(FILES)}"]
    for backtest in (False, True):
        of_sets = [np.mean(inside) for (which, _), inside in covered.items() if which == backtest]
        cells += [f"{np.mean(of_sets):.0%}", f"{np.median(widths[backtest]):.2%}"]
    return f"| {' | '.join(cells)} |"


def by_other_losses(data: Path, share: float) -> str:
    """Errors on eight evaluation texts of each of gadre's three training sets, by law alone."""
    with (data / "gadre_overtraining.csv").open() as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    errors = defaultdict(list)
    for trained_on in sorted({row["dataset"] for row in rows}):
        for loss in (name for name in rows[0] if name.startswith("loss_")):
            columns = {"parameters": "params", "tokens": "tokens", "loss": loss}
            own = [row for row in rows if row["dataset"] == trained_on]
            runs = gather([{name: row[of] for name, of in columns.items()} for row in own])
            split = split_at(runs, share, "compute")
            assert split is not None
            known, ahead = split.known, split.ahead
            choice = choose(known, Settings().candidates, direction="compute")
            found = {
                "nearest": choice.laws[choice.candidate],
                "fit": consensus(choice.heard_on(known, choice.laws)),
            }
            told = {
                name: relative(law.loss(ahead.parameters, ahead.tokens), ahead) for name, law in found.items()
            }
            for rule, error in {**errors_of(known, ahead, "compute"), **told}.items():
                errors[rule].append(error)
    means = [np.exp(np.mean(np.log(errors[rule]))) for rule in ("chinchilla", "skaling", *OTHER_COLUMNS[4:])]
    return f"| {share:.0%} | {len(errors['fit'])} | {' | '.join(f'{mean:.2%}' for mean in means)} |"


def by_ratio(data: Path, draws: int) -> Iterator[Row]:
    runs = gather(data / "sardana2024_47runs.csv")
    ratios = runs.tokens / runs.parameters
    for limit in LIMITS:
        near = ratios <= 1.01 * limit
        yield from row_of(f"D/N <= {limit}", runs.take(near), runs.take(~near), "overtraining", draws)


def row_of(
    name: str, known: Observations, ahead: Observations, direction: Asked, draws: int
) -> Iterator[Row]:
    try:
        found = fit(known, settings=Settings(direction=direction, draws=draws))
    except UnidentifiedError as error:
        kept = getattr(error, "estimate", None)
        if not isinstance(kept, Fit):
            print(f"| {name} | {len(ahead)} | {error.message} |")
            return
        found, name = kept, f"{name} (refused)"
    covered, half_widths = judged(found, ahead)
    selection = found.evidence["selection"]
    row = Row(
        name=name,
        held_out=len(ahead),
        errors=errors_of(known, ahead, direction)
        | {"fit": relative(found.law.loss(ahead.parameters, ahead.tokens), ahead)},
        what=f"{selection['form']}, {selection['delta']:g}, {selection['weights']}",
        covered=covered,
        half_widths=half_widths,
        drifts=(found.evidence["backtest"] or {}).get("drifts", []),
    )
    cells = [f"{error:.2%}" for error in row.errors.values()]
    cells += [row.what, f"{row.covered:.0%}", f"{np.median(row.half_widths):.2%}"]
    print(f"| {row.name} | {row.held_out} | {' | '.join(cells)} |", flush=True)
    yield row


def judged(found: Fit, ahead: Observations) -> tuple[float, Array]:
    """The share of runs that intervals hold, and the intervals' half-widths, in parts of the loss."""
    guess = found.predict(ahead.parameters, ahead.tokens)
    assert guess.low is not None
    assert guess.high is not None
    inside = (guess.low <= ahead.loss) & (ahead.loss <= guess.high)
    return float(inside.mean()), (guess.high - np.asarray(guess.low)) / 2 / np.asarray(guess.loss)


def errors_of(known: Observations, ahead: Observations, direction: Asked) -> dict[str, float]:
    """What plain forms and the candidate of least inner error would have made of the runs ahead."""
    candidates = Settings().candidates
    laws = {**solve_all(known, candidates), **solve_all(known, PLAIN.values())}
    trials = try_all(known, candidates, CUTS, directions_of(known, direction)[0])
    inner = {one: np.mean([np.abs(trial.errors(one)).mean() for trial in trials]) for one in candidates}
    least = min(candidates, key=lambda one: inner[one]) if trials else PLAIN["chinchilla"]
    errors = {one: relative(law.loss(ahead.parameters, ahead.tokens), ahead) for one, law in laws.items()}
    named = {rule: errors[one] for rule, one in {**PLAIN, "least error": least}.items()}
    return named | {"hindsight": min(errors[one] for one in candidates)}


def relative(losses: object, ahead: Observations) -> float:
    return float(np.abs(np.asarray(losses, float) / ahead.loss - 1).mean())


def header() -> str:
    return f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


def summary(rows: list[Row], what: str) -> str:
    """Geometric means of errors; coverage and median half-width over runs, in brackets over sets."""
    means = {rule: np.exp(np.mean([np.log(row.errors[rule]) for row in rows])) for rule in rows[0].errors}
    count = sum(row.held_out for row in rows)
    covered = sum(row.covered * row.held_out for row in rows) / count
    width = np.median(np.concatenate([row.half_widths for row in rows]))
    of_sets = np.median([np.median(row.half_widths) for row in rows])
    cells = [*(f"**{mean:.2%}**" for mean in means.values()), ""]
    cells += [f"**{covered:.0%}**", f"**{width:.2%}** ({of_sets:.2%})"]
    return f"| **{what}** | {count} | {' | '.join(cells)} |"


def likelihoods(rows: list[Row]) -> str:
    """How likely the drifts of all backtests are, in nats, under half-Cauchy priors of several scales."""
    found = {}
    for scale in SCALES:
        spreads = prior_spreads(scale)
        each = [log_likelihood([Drift(**drift) for drift in row.drifts], spreads) for row in rows]
        found[scale] = sum(np.log(np.exp(one).mean()) for one in each)
    return ", ".join(f"{scale:g} {value - max(found.values()):.2f}" for scale, value in found.items())


if __name__ == "__main__":
    main()
