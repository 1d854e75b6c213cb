"""The middle of a sample, and the noise that predictions add to draws."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

DEFAULT_LEVEL = 0.9
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


def central_range(values: ArrayLike, level: float = DEFAULT_LEVEL) -> Range:
    """The middle `level` of a sample, equal tails cut."""
    low, high = tails(np.ravel(np.asarray(values, float)), level)
    return Range(float(low), float(high))


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
    from statistics import NormalDist

    steps = (np.arange(NOISE_STRATA) + 0.5) / NOISE_STRATA
    return np.array([NormalDist().inv_cdf(float(step)) for step in steps])
