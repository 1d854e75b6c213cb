"""Intervals that forward backtests bear out: how far exponents waver beyond the runs.

Draws of refits know what the noise of the runs leaves open, not how far the law itself drifts where no
run has been. Backtests do: laws of the nearer runs, with draws of their own, predict the farther ones. The
share of these inside the intervals says how much is missing, and it is put where it grows with the distance
and reaches every use of the law: both exponents of each draw are multiplied by exp(spread z), z normal, with
the law held at both ends of the runs, so that what they fixed stays fixed. They turn together because
backtests see how fast the loss falls, not how N and D share it: that doubt is in the refits and in the
mixture of forms. The spread is the least with which the intervals cover as often as they say, over all
predictions of a direction and, to the nearest run, of each backtest: one full of runs must not hide another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llama_scale.fitting.backtests import Direction, Trial, place, split_at, try_all
from llama_scale.fitting.candidates import Candidate
from llama_scale.fitting.newton import Array
from llama_scale.fitting.observations import Observations
from llama_scale.fitting.selection import Choice, nearest_of, score
from llama_scale.fitting.uncertainty import Draws, Resampling, draw_mixture
from llama_scale.frozen import frozen
from llama_scale.laws import Fit, ScalingLaw, median

CUTS = (0.6, 0.8)
DRAWS = 100
SPREADS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4)
FARTHEST = 0.8
LEAST_PREDICTED = 12  # runs, to choose by: two a constant
LEAST_FALL = 0.2  # from end to end of the runs, over what is left above E: less holds no exponent
POOR = 0.7  # of the level: lower coverage than that is told


@frozen
class Backtest:
    """Forward backtests of the chosen fit with its intervals, by laws of the nearer runs.

    `coverage` and `half_width` (median, of the loss) are of intervals as the draws alone give them;
    `spread` is what exponents are made to waver by, `covered` the coverage with it. `factor` widens
    predictions further: 1 unless no spread of the grid was enough.
    """

    predicted_runs: int
    mean_error: float
    coverage: float
    level: float
    half_width: float
    spread: float
    covered: float
    factor: float


class Ends(NamedTuple):
    """The middle N and D, in logs, of the cheapest runs and of the farthest: where the data hold a law."""

    near: tuple[float, float]
    far: tuple[float, float]


def waver(law: ScalingLaw, ends: Ends, spread: float, seed: int = 0) -> ScalingLaw:
    """Draws whose exponents waver by `spread`, each law and its best split as they were at the far end.

    E and both terms give way so that the loss at the near end stays too: the runs have fixed it, and a law
    that falls faster beyond them must have a higher floor. Where the far end is hardly lower than the near
    one, or E would fall below zero, only the far end is held.
    """
    if spread == 0:
        return law
    near, far = ends
    turn = np.exp(spread * np.random.default_rng(seed + 1).standard_normal(np.size(law.E)))
    alpha, beta = law.alpha * turn, law.beta * turn
    turned = replace(
        law,
        A=law.A * far[0] ** (alpha - law.alpha),
        B=law.B * far[1] ** (beta - law.beta),
        alpha=alpha,
        beta=beta,
    )
    above_floor = law.loss(*far) - law.E
    falls, would_fall = (one.loss(*near) - one.loss(*far) for one in (law, turned))
    held = falls > LEAST_FALL * above_floor
    scale = np.where(held, falls / np.where(held, would_fall, 1.0), 1.0)
    scale = np.minimum(scale, 1 + law.E / above_floor)
    each = scale ** (1 / np.asarray(law.k, float))
    return replace(
        turned,
        E=np.maximum(law.E + above_floor * (1 - scale), 0.0),
        A=turned.A * each,
        B=turned.B * each,
    )


def ends_of(observations: Observations, direction: Direction) -> Ends:
    """The ends of the runs: the cheapest fifth, and the fifth farthest along the direction."""
    flops, where = observations.train_flops, place(observations, direction)
    near = flops <= np.sort(flops)[int(np.ceil((1 - FARTHEST) * len(flops))) - 1]
    far = where >= np.sort(where)[int(FARTHEST * len(where))]
    return Ends(near=_middle(observations, near), far=_middle(observations, far))


def _middle(observations: Observations, kept: NDArray[np.bool_]) -> tuple[float, float]:
    sizes, tokens = observations.parameters[kept], observations.tokens[kept]
    return float(np.exp(np.log(sizes).mean())), float(np.exp(np.log(tokens).mean()))


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
    trial: Trial, chosen: Candidate, draws: Draws, spread: float, level: float
) -> tuple[Array, Array]:
    """Of each run ahead (m,): error over the reach of its interval on that side; half-width, in logs."""
    known, ahead = trial.split.known, trial.split.ahead
    drawn = waver(draws.law, ends_of(known, trial.split.direction), spread)
    fit = as_fit(known, trial.laws[chosen], drawn, draws.noise)
    guess = fit.predict(ahead.parameters, ahead.tokens, level=level)
    assert guess.low is not None
    assert guess.high is not None
    error, high, low = (
        np.log(value / np.asarray(guess.loss)) for value in (ahead.loss, guess.high, guess.low)
    )
    reach = np.maximum(np.where(error > 0, high, -low), 1e-12)
    return np.abs(error) / reach, (high - low) / 2


def calibrate(
    observations: Observations,
    choice: Choice,
    *,
    level: float,
    seed: int = 0,
    method: Resampling | None = None,
) -> Backtest | None:
    """Backtest the intervals, and find the least spread that makes them cover; None with too few runs."""
    trials = _trials(observations, choice)
    if not trials:
        return None
    then = [chosen_as_then(trial, choice) for trial in trials]
    drawn = [
        draw_mixture(trial.split.known, weights, trial.laws, draws=DRAWS, seed=seed, method=method)
        for trial, (_, weights) in zip(trials, then, strict=True)
    ]
    ways = np.concatenate([[trial.split.direction] * len(trial.split.ahead) for trial in trials])
    error = np.concatenate([trial.errors(one) for trial, (one, _) in zip(trials, then, strict=True)])
    found: dict[float, tuple[Array, Array]] = {}

    def covers(spread: float) -> bool:
        parts = [
            reached(trial, one, draws, spread, level)
            for trial, (one, _), draws in zip(trials, then, drawn, strict=True)
        ]
        ratios, widths = (np.concatenate(part) for part in zip(*parts, strict=True))
        found[spread] = (ratios, widths)
        present = [ways == way for way in choice.directions if (ways == way).any()]
        misses = [int((part[0] > 1).sum()) - 0.5 - (1 - level) * len(part[0]) for part in parts]
        return max(misses) <= 0 and all((ratios[one] <= 1).mean() >= level for one in present)

    chosen = _least(SPREADS, covers)
    if chosen not in found:
        covers(chosen)
    least = found[0.0]
    enough = np.sort(found[chosen][0])[int(np.ceil(level * len(error))) - 1]
    factor = float(max(1.0, enough)) if chosen == SPREADS[-1] else 1.0
    return Backtest(
        predicted_runs=len(error),
        mean_error=float(np.abs(np.expm1(error)).mean()),
        coverage=float((least[0] <= 1).mean()),
        level=level,
        half_width=median(least[1]),
        spread=chosen,
        covered=float((found[chosen][0] <= factor).mean()),
        factor=factor,
    )


def chosen_as_then(trial: Trial, choice: Choice) -> tuple[Candidate, Mapping[Candidate, float]]:
    """What the known runs of a trial alone would have chosen, and the weight of each candidate.

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
    if sum(len(other.split.ahead) for other in earlier) < LEAST_PREDICTED:
        return choice.candidate, choice.weights
    tried = score(known, trial.laws, earlier)
    return nearest_of(tried).candidate, {one.candidate: one.weight for one in tried}


def _least(grid: Sequence[float], holds: Callable[[float], bool]) -> float:
    """The least of a rising grid at which something holds, and goes on to; the last if it never does."""
    if holds(grid[0]):
        return grid[0]
    low, high = 0, len(grid) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(grid[middle]) else (middle, high)
    return grid[high]


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


def warnings_of_backtest(tested: Backtest | None, choice: Choice) -> list[str]:
    """What a reader must know of a law whose backtests went badly."""
    if tested is None or tested.coverage >= POOR * tested.level:
        return []
    other = "" if choice.tried else "; --form auto lets backtests choose another"
    return [
        f"laws of the nearer runs missed the farther ones: {tested.coverage:.0%} in {tested.level:.0%}"
        f" intervals before these were widened, so this form may not hold beyond the runs{other}"
    ]
