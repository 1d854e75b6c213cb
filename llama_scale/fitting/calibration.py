"""Intervals that forward backtests bear out.

Draws of refits know what the noise of the runs leaves open, not how far the law itself drifts where no run
has been. Backtests do: laws of the nearer runs, with draws of their own, predict the farther ones. What they
measure of the drift (`drift.py`) is given to the draws, so that it grows with the distance and reaches every
use of the law. Where even then fewer runs of a direction's backtests are covered than the level says, a
factor widens predictions until they are.

Runs that allow no backtest say nothing of a drift: then exponents waver as is likely from other sweeps
(`benchmarks/extrapolation.py --few`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llama_scale.fitting.backtests import Split, Trial, over_reach, place, split_at, try_all
from llama_scale.fitting.consensus import Heard, consensus
from llama_scale.fitting.drift import Drift, drift_of, ends_of, spread_of, turns_of, waver
from llama_scale.fitting.newton import Array
from llama_scale.fitting.observations import Observations
from llama_scale.fitting.selection import Choice, score, weights_heard
from llama_scale.fitting.uncertainty import Resampling, draw_mixtures
from llama_scale.frozen import frozen
from llama_scale.laws import Fit, ScalingLaw, median
from llama_scale.quantities import format_level

CUTS = (0.6, 0.8)
DRAWS = 100
LEAST_PREDICTED = 12  # runs, to choose by: two a constant
POOR = 0.7  # of the level: lower coverage than that is told


@frozen
class Backtest:
    """Forward backtests of the chosen fit with its intervals, by laws of the nearer runs.

    `coverage` and `half_width` (median, of the loss) are of intervals as the draws alone give them. `drifts`
    are the turns of exponents that were measured, `spread` the root mean square of those that they make
    likely. `factor` widens predictions further, 1 unless that was not enough; `covered` is the coverage with
    both.
    """

    predicted_runs: int
    mean_error: float
    coverage: float
    level: float
    half_width: float
    spread: float
    covered: float
    factor: float
    drifts: tuple[Drift, ...]


@frozen
class Calibration:
    """What is made of a backtest of the intervals, or, where runs are too few for one, of other sweeps."""

    backtest: Backtest | None

    @property
    def drifts(self) -> tuple[Drift, ...]:
        """The turns of exponents that were measured."""
        return self.backtest.drifts if self.backtest else ()

    @property
    def factor(self) -> float:
        """By which predictions are widened."""
        return self.backtest.factor if self.backtest else 1.0

    @property
    def note(self) -> str:
        """What it does to draws, in words."""
        why = "as backtests show" if self.backtest else "as is likely from other sweeps"
        return f"exponents waver by {spread_of(self.drifts):.0%} beyond the runs, {why}"

    def warnings(self, choice: Choice) -> list[str]:
        """What a reader must know of a law whose backtests went badly, or that has none."""
        tested = self.backtest
        if tested is None:
            return [
                "these runs allow no backtest of the intervals: exponents are made to waver by"
                f" {spread_of(()):.0%}, as is likely from other sweeps; 90% intervals of 7 to 10 public runs"
                " then held nine in ten farther ones"
            ]
        if tested.coverage >= POOR * tested.level:
            return []
        other = "" if choice.tried else "; --form auto lets backtests choose another"
        return [
            f"laws of the nearer runs missed the farther ones: {tested.coverage:.0%} in"
            f" {format_level(tested.level)} intervals before these were widened, so this form may not hold"
            f" beyond the runs{other}"
        ]


def as_fit(observations: Observations, law: ScalingLaw, draws: ScalingLaw, noise: Array) -> Fit:
    """A Fit that predicts, and no more."""
    return Fit(
        name="backtest",
        law=law,
        convention=observations.convention,
        source="",
        draws=draws,
        noise=median(noise),
        noise_draws=noise,
    )


def reached(
    split: Split, law: ScalingLaw, draws: ScalingLaw, noise: Array, level: float
) -> tuple[Array, Array]:
    """Of each run ahead (m,): error over the reach of its interval on that side; half-width, in logs."""
    ahead = split.ahead
    guess = as_fit(split.known, law, draws, noise).predict(ahead.parameters, ahead.tokens, level=level)
    assert guess.low is not None
    assert guess.high is not None
    error, high, low = (
        np.log(value / np.asarray(guess.loss)) for value in (ahead.loss, guess.high, guess.low)
    )
    return over_reach(error, low, high), (high - low) / 2


def calibrate(
    observations: Observations,
    choice: Choice,
    *,
    level: float,
    seed: int = 0,
    method: Resampling | None = None,
) -> Calibration:
    """Backtest the intervals, where runs are enough for it, and find how far the law drifts beyond them."""
    trials = _trials(observations, choice)
    if not trials:
        return Calibration(backtest=None)
    then = [heard_as_then(trial, choice) for trial in trials]
    drawn = draw_mixtures(then, draws=DRAWS, seed=seed, method=method)
    tests = [
        (trial.split, consensus(heard), draws)
        for trial, heard, draws in zip(trials, then, drawn, strict=True)
    ]
    errors = [split.errors(law) for split, law, _ in tests]
    drifts = tuple(
        drift
        for (split, _, draws), error in zip(tests, errors, strict=True)
        if (drift := drift_of(split, error, draws))
    )

    def parts(*, turned: bool) -> tuple[Array, Array]:
        found = []
        for split, law, draws in tests:
            drawn = draws.law
            if turned:
                turns = turns_of(drifts, np.size(drawn.E), seed)
                drawn = waver(drawn, ends_of(split.known, split.direction), turns)
            found.append(reached(split, law, drawn, draws.noise, level))
        ratios, widths = (np.concatenate(part) for part in zip(*found, strict=True))
        return ratios, widths

    (alone, widths), (wavering, _) = parts(turned=False), parts(turned=True)
    error = np.concatenate(errors)
    ways = np.concatenate([[trial.split.direction] * len(trial.split.ahead) for trial in trials])
    enough = [_quantile(wavering[ways == way], level) for way in choice.directions if (ways == way).any()]
    factor = max(1.0, *enough)
    backtest = Backtest(
        predicted_runs=len(error),
        mean_error=float(np.abs(np.expm1(error)).mean()),
        coverage=float((alone <= 1).mean()),
        level=level,
        half_width=median(widths),
        spread=spread_of(drifts),
        covered=float((wavering <= factor).mean()),
        factor=factor,
        drifts=drifts,
    )
    return Calibration(backtest=backtest)


def _quantile(values: Array, level: float) -> float:
    """The least of values that so many of them do not exceed."""
    return float(np.sort(values)[int(np.ceil(level * len(values))) - 1])


def heard_as_then(trial: Trial, choice: Choice) -> Heard:
    """The candidates that the known runs of a trial alone would have heard, and how much.

    Candidates that predicted the runs ahead well are chosen for it: intervals about them would pass a test
    that they were picked to pass. A few predictions tell no candidates apart: then, the final weights.
    """
    way, known = trial.split.direction, trial.split.known
    reach = place(known, way).max()
    earlier = []
    for other in choice.trials:
        if other.split.direction == way and len(other.split.known) < len(known):
            seen = place(other.split.ahead, way) <= reach
            split = replace(other.split, ahead=other.split.ahead.take(seen))
            earlier.append(Trial(split=split, laws=other.laws))
    few = sum(len(other.split.ahead) for other in earlier) < LEAST_PREDICTED
    weights = choice.weights if few else weights_heard(score(known, trial.laws, earlier))
    return Heard(observations=known, weights=weights, laws=trial.laws, directions=(way,))


def _trials(observations: Observations, choice: Choice) -> tuple[Trial, ...]:
    """The backtests at CUTS, of the choice or of the named fit, whose runs are enough for draws."""
    found = choice.trials or try_all(observations, [choice.candidate], CUTS, choice.directions)
    at = {
        (split.direction, len(split.known))
        for way in choice.directions
        for share in CUTS
        if (split := split_at(observations, share, way))
    }
    least = max(one.fitted_form.constants for one in choice.weights) + 2
    return tuple(
        trial
        for trial in found
        if (trial.split.direction, len(trial.split.known)) in at and len(trial.split.known) >= least
    )
