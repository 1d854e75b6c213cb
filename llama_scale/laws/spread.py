"""The middle of a sample, and the noise that predictions add to draws."""

from __future__ import annotations

import math
from functools import cache
from numbers import Real
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llama_scale.errors import InputError, shown

DEFAULT_LEVEL = 0.9
LEAST_DRAWS = 20
NOISE_STRATA = 33  # quantiles of the normal that stand for the noise of a new run, at each draw


class Range(NamedTuple):
    """The smallest and largest value that was observed."""

    low: float
    high: float

    def beyond(self, value: float) -> float:
        """1 inside the range, value / high above it, value / low (less than 1) below it."""
        if value > self.high:
            return value / self.high
        return value / self.low if value < self.low else 1.0


def check_level(level: float) -> None:
    """Raises InputError unless `level` can be the chance of an interval."""
    if not (isinstance(level, Real) and 0 < level < 1):
        raise InputError(f"level is {shown(level)}, but must lie between 0 and 1", hint="write level=0.9")


def least_draws(level: float) -> int:
    """Draws that an interval of this level takes: one beyond each end of it, and never fewer than 20."""
    return max(LEAST_DRAWS, math.ceil(2 / (1 - level) - 1e-6))


def central_range(values: ArrayLike, level: float = DEFAULT_LEVEL) -> Range:
    """The middle `level` of a sample, equal tails cut."""
    low, high = tails(np.ravel(np.asarray(values, float)), level)
    return Range(float(low), float(high))


def median(values: ArrayLike) -> float:
    """The median of a sample, without numpy.ma, which np.median imports as np.quantile does."""
    ordered = np.sort(np.ravel(np.asarray(values, float)))
    return float(ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def tails(values: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    """The two quantiles that cut equal tails off the last axis, interpolated linearly.

    As np.quantile does, whose first call imports numpy.ma: 50 ms that a cold plan has no use for.
    """
    ordered = np.sort(values, axis=-1)
    places = np.array([(1 - level) / 2, (1 + level) / 2]) * (values.shape[-1] - 1)
    below = np.floor(places).astype(int)
    above = np.minimum(below + 1, values.shape[-1] - 1)
    tails = ordered[..., below] + (places - below) * (ordered[..., above] - ordered[..., below])
    return np.moveaxis(tails, -1, 0)


@cache
def normal_strata() -> NDArray[np.float64]:
    """Quantiles of the standard normal, as many as stand for a new run's noise."""
    return np.array([_normal_quantile((step + 0.5) / NOISE_STRATA) for step in range(NOISE_STRATA)])


def _normal_quantile(share: float) -> float:
    """Where the standard normal has `share` of its mass below, by bisection: no 20 ms for statistics."""
    low, high = -8.0, 8.0
    for _ in range(60):
        middle = (low + high) / 2
        below = math.erfc(-middle / math.sqrt(2)) / 2
        low, high = (middle, high) if below < share else (low, middle)
    return (low + high) / 2
