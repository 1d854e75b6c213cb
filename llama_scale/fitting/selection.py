"""Which candidates the law is made of: all that are not clearly worse, each heard as it predicted.

The question that a law is for lies beyond the runs, so candidates (form, Huber delta, weights) are
compared there and nowhere else: on forward backtests of the training runs. Runs held out to test the
chosen law have no part in it. Taking the candidate of least error alone overfits: two dozen are compared
on a handful of correlated predictions. So all are combined (Bates and Granger 1969, whose weights, inverse
squared errors, are taken here; twice the least error or more is not heard). Losses near the optimum say
little of where it is, so backtests do not tell a fit that in effect hears a seventh of the runs, and whose
best N is so much less sure, from one that hears all: each weight is also multiplied by the share of the runs
that the candidate hears (Kish 1965). With these weights candidates make the law (`consensus`) and mix its
draws (`uncertainty`); the one that lies nearest to the law is named, and stands for all in diagnostics.
benchmarks/extrapolation.py compares the law with the candidate of least error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Literal

import numpy as np

from llama_scale.fitting.backtests import DIRECTIONS, Direction, Trial, place, try_all
from llama_scale.fitting.candidates import Candidate, solve_all, weights_of
from llama_scale.fitting.consensus import Heard, log_losses, targets
from llama_scale.fitting.newton import Array
from llama_scale.fitting.observations import Observations
from llama_scale.frozen import frozen
from llama_scale.laws import FormName, ScalingLaw
from llama_scale.quantities import counted

CUTS = (0.5, 0.6, 0.7, 0.8, 0.9)  # of the runs along a direction: fit up to one, predict all beyond it
LEAST_ERROR = 1e-3  # added to errors: below a tenth of a per cent they are luck
CLEARLY_WORSE = 2.0  # times the least error: not heard
AUTO_FORMS: tuple[FormName, ...] = ("chinchilla", "skaling", "tied")  # Kaplan's has no irreducible loss
Asked = Literal["auto", "compute", "overtraining"]
LEAST_SPAN, MOST_RUNS, SAME_RATIO = 9.0, 0.5, 0.002


@frozen
class Scored:
    """A candidate, its mean relative error on backtests by direction, and its weight among all (sum 1).

    `distance` is the mean relative difference of its predictions beyond the runs from the weighted mean.
    """

    candidate: Candidate
    mean_error: float
    weight: float
    distance: float
    predicted_runs: int


@frozen
class Choice:
    """The candidate to fit, or nearest to those that are heard; all that were tried, which way, and why.

    `trials` are the backtests, `laws` the quick fits of all runs: what draws start from.
    """

    candidate: Candidate
    tried: tuple[Scored, ...]
    directions: tuple[Direction, ...]
    direction_note: str
    note: str
    trials: tuple[Trial, ...] = ()
    laws: Mapping[Candidate, ScalingLaw] = field(default_factory=dict)

    @property
    def is_mixed(self) -> bool:
        """Whether more than one candidate is heard."""
        return len(self.weights) > 1

    @property
    def weights(self) -> dict[Candidate, float]:
        """The candidates that are heard, with each one's share of the law and of the draws."""
        return weights_heard(self.tried) or {self.candidate: 1.0}

    def heard_on(self, observations: Observations, laws: Mapping[Candidate, ScalingLaw]) -> Heard:
        """What is heard, with its laws of these runs."""
        return Heard(observations=observations, weights=self.weights, laws=laws, directions=self.directions)


def choose(
    observations: Observations,
    candidates: Sequence[Candidate],
    *,
    direction: Asked = "auto",
    default: Candidate | None = None,
) -> Choice:
    """What to fit; the default, or else the first candidate, where there are too few runs to compare by."""
    directions, why = directions_of(observations, direction)
    known = {"directions": directions, "direction_note": why}
    if len(candidates) == 1:
        return Choice(candidate=candidates[0], tried=(), note="the fit was named, not chosen", **known)
    found = try_all(observations, candidates, CUTS, directions)
    if not found:
        first = default or candidates[0]
        note = f"too few runs to compare fits: {first.form} is the default"
        return Choice(candidate=first, tried=(), note=note, **known)
    laws = solve_all(observations, candidates)
    tried = score(observations, laws, found)
    best = nearest_of(tried)
    tests = f"{counted(len(found), 'forward prediction')} {_along(directions)}"
    heard = len(weights_heard(tried))
    note = f"the only one of {len(tried)} candidates that {tests} do not rule out"
    if heard > 1:
        of = f"{heard} of {len(tried)} candidates"
        note = f"the law is the mean of {of}, each weighed by its errors in {tests}"
    return Choice(candidate=best.candidate, tried=tried, trials=found, laws=laws, note=note, **known)


def score(
    observations: Observations, laws: Mapping[Candidate, ScalingLaw], trials: Sequence[Trial]
) -> tuple[Scored, ...]:
    """Errors, weights and distances from the consensus of all candidates, given their laws of all runs."""
    sizes = np.array(
        [[np.abs(np.expm1(trial.errors(one))).mean() for trial in trials] for one in laws], float
    )
    means = np.exp(np.log(sizes + LEAST_ERROR).mean(axis=1))
    hears = np.array([share_heard(weights_of(observations, one)) for one in laws])
    weights = np.where(means < CLEARLY_WORSE * means.min(), hears * means**-2, 0.0)
    weights /= weights.sum()
    directions: list[Direction] = [
        way for way in DIRECTIONS if any(trial.split.direction == way for trial in trials)
    ]
    shares = {one: share for one, share in zip(laws, weights.tolist(), strict=True) if share}
    where = targets(observations, directions)
    heard = Heard(observations=observations, weights=shares, laws=laws, directions=tuple(directions))
    middle = heard.mean(where)
    distances = [float(np.abs(log_losses(law, where) - middle).mean()) for law in laws.values()]
    return tuple(
        Scored(
            candidate=one,
            mean_error=float(means[i]) - LEAST_ERROR,
            weight=float(weights[i]),
            distance=distances[i],
            predicted_runs=sum(len(trial.split.ahead) for trial in trials),
        )
        for i, one in enumerate(laws)
    )


def weights_heard(tried: Iterable[Scored]) -> dict[Candidate, float]:
    """The candidates that are heard, and how much."""
    return {one.candidate: one.weight for one in tried if one.weight > 0}


def nearest_of(tried: Iterable[Scored]) -> Scored:
    """Of those that are heard, the one nearest to their consensus."""
    return min((one for one in tried if one.weight), key=lambda one: one.distance)


def share_heard(weights: Array) -> float:
    """The effective number of runs of these weights (n,), over their number: 1 for equal weights."""
    return float(weights.sum() ** 2 / (weights**2).sum() / len(weights))


def directions_of(observations: Observations, asked: Asked) -> tuple[tuple[Direction, ...], str]:
    """Which way the question lies, and how that is known.

    Runs held out say it by where they lie, never by their losses: along the direction in which they go
    farther beyond the others. Without them by compute, and by tokens per parameter as well where the runs
    were laid out that way: a grid of sizes and tokens per parameter.
    """
    if asked != "auto":
        return (asked,), "as asked"
    if observations.held_out is not None:
        reach = {way: _reach(observations, observations.held_out, way) for way in DIRECTIONS}
        way = max(DIRECTIONS, key=lambda one: reach[one])
        return (way,), f"the runs held out lie {reach[way]:.3g} times beyond the others that way"
    if _is_grid_of_ratios(observations):
        return DIRECTIONS, "runs lie on a grid of sizes and tokens per parameter: both ways"
    return ("compute",), "the default; --direction overtraining where plans are of many tokens per parameter"


def _reach(runs: Observations, beyond: Observations, direction: Direction) -> float:
    return float(place(beyond, direction).max() / place(runs, direction).max())


def _is_grid_of_ratios(observations: Observations) -> bool:
    """Whether most runs share their tokens per parameter, of a wide span, with runs of other sizes."""
    if not np.isnan(observations.budgets).all():
        return False
    ratios = observations.tokens / observations.parameters
    cells = np.round(np.log(ratios) / SAME_RATIO)
    sizes = np.round(np.log(observations.parameters), 3)
    shared = [len(set(sizes[cells == cell].tolist())) > 1 for cell in cells]
    return bool(np.mean(shared) > MOST_RUNS and ratios.max() > LEAST_SPAN * ratios.min())


def _along(directions: Iterable[Direction]) -> str:
    words = {"compute": "of dearer runs", "overtraining": "of runs of more tokens per parameter"}
    return " and ".join(words[way] for way in directions)
