"""Forward backtests: laws of the nearer runs predict the farther ones, which they never saw.

Farther means dearer in compute, or, where the question is over-trained models, of more tokens per
parameter. Runs of one named budget stay together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from llama_scale.errors import UnidentifiedError
from llama_scale.fitting.candidates import Candidate, solve_everywhere
from llama_scale.fitting.newton import Array
from llama_scale.fitting.observations import Observations, check_design
from llama_scale.frozen import frozen
from llama_scale.laws import ScalingLaw

Direction = Literal["compute", "overtraining"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
STAGES = (0.6, 0.8, 1.0)  # of what is in order: where a test is simple, fit up to one, predict up to the next
LEAST_REACH = 1e-9  # of an interval, where errors are counted in it
SAME_PLACE = 1e-6  # relative: runs nearer than that along a direction stay together


@frozen
class Split:
    """Runs that are fitted, and runs beyond them that are predicted."""

    known: Observations
    ahead: Observations
    direction: Direction

    @property
    def reach(self) -> float:
        """How far the farthest predicted run lies beyond the known ones, as a factor."""
        return float(place(self.ahead, self.direction).max() / place(self.known, self.direction).max())

    def errors(self, law: ScalingLaw) -> Array:
        """Log of predicted over measured loss (m,) of a law on the runs ahead."""
        predicted = law.loss(self.ahead.parameters, self.ahead.tokens)
        return np.log(np.asarray(predicted, float) / self.ahead.loss)


def place(observations: Observations, direction: Direction) -> Array:
    """Where runs (n,) lie along a direction: FLOPs, of their budget where they have one, or D/N."""
    if direction == "overtraining":
        return observations.tokens / observations.parameters
    budgets = observations.budgets
    return np.where(np.isnan(budgets), observations.train_flops, budgets)


def split_at(observations: Observations, share: float, direction: Direction) -> Split | None:
    """The nearest `share` of runs and the rest, ties going ahead; None where either would be empty."""
    where = place(observations, direction)
    order = np.argsort(where, kind="stable")
    where, cut = where[order], int(share * len(where) + 1e-9)
    while 0 < cut < len(where) and where[cut] <= where[cut - 1] * (1 + SAME_PLACE):
        cut -= 1
    if not 0 < cut < len(where):
        return None
    known, ahead = observations.take(order[:cut]), observations.take(order[cut:])
    return Split(known=known, ahead=ahead, direction=direction)


def farthest(observations: Observations, share: float, direction: Direction) -> Observations:
    """The runs beyond the nearest `share`; all of them where they tie, as those of one budget do."""
    split = split_at(observations, share, direction)
    return split.ahead if split else observations


def splits(
    observations: Observations, shares: Sequence[float], direction: Direction, *, constants: int
) -> Iterator[Split]:
    """The different splits at these shares whose known runs can identify a law of so many constants."""
    seen = set()
    for share in shares:
        split = split_at(observations, share, direction)
        if split and len(split.known) not in seen and identifies(split.known, constants):
            seen.add(len(split.known))
            yield split


def identifies(observations: Observations, constants: int) -> bool:
    """Whether runs are enough, and differ enough, for a law of so many constants."""
    try:
        check_design(observations)
    except UnidentifiedError:
        return False
    return len(observations) > constants


@frozen
class Trial:
    """One split, and the laws of all candidates fitted to its known runs."""

    split: Split
    laws: Mapping[Candidate, ScalingLaw]

    def errors(self, candidate: Candidate) -> Array:
        """Log of predicted over measured loss (m,) of a candidate on the runs ahead."""
        return self.split.errors(self.laws[candidate])


def nearer_and_next(order: NDArray[np.intp]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """What to fit, and what to predict by it, at each of STAGES of an order, the farthest last."""
    for share, until in pairwise(STAGES):
        start, stop = round(share * len(order)), round(until * len(order))
        yield order[:start], order[start:stop]


def over_reach(error: Array, low: Array, high: Array) -> Array:
    """Errors (m,) over how far their interval, about 0, reaches on that side: 1 at its end."""
    return np.abs(error) / np.maximum(np.where(error > 0, high, -low), LEAST_REACH)


def factor_for(ratios: Array, level: float) -> float:
    """What intervals are widened by to hold `level` of errors: of a few, the rms tells the tail better."""
    from statistics import NormalDist  # 20 ms, which other forms needn't wait for

    return max(1.0, NormalDist().inv_cdf((1 + level) / 2) * float(np.sqrt(np.mean(ratios**2))))


def try_all(
    observations: Observations,
    candidates: Sequence[Candidate],
    shares: Sequence[float],
    directions: Iterable[Direction],
) -> tuple[Trial, ...]:
    """Fit every candidate to the known runs of every split along these directions."""
    constants = max(candidate.fitted_form.constants for candidate in candidates)
    found = [
        split
        for direction in directions
        for split in splits(observations, shares, direction, constants=constants)
    ]
    laws = solve_everywhere([split.known for split in found], candidates)
    return tuple(Trial(split=split, laws=own) for split, own in zip(found, laws, strict=True))
