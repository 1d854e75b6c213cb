"""Noise measured from repeats: runs of one size and duration under several seeds, and what it weighs runs by.

Two parts of a run's error matter to its weight. One is its seed's, which repeats measure: a pooled variance
over groups of repeats, as a power of compute whose exponent is shrunk towards none (its prior sd is
.25 in the log of the variance for each e-fold of compute), because two or three seeds a group say little
of one group alone. The other is what the law itself misses there, tau^2, which repeats share: five
seeds of one point do not make the law five times truer there. So m repeats of seed variance s^2 have
a mean of variance s^2 / m + tau^2, and each run of the group weighs 1 / (s^2 + m tau^2). Runs without
repeats have m = 1 and the s^2 of their compute. Weights have mean 1.

tau^2 is by moments: what the means of all groups vary about a least-squares fit, less what seeds explain.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from llama_scale.fitting.forms import CHINCHILLA
from llama_scale.fitting.newton import Array
from llama_scale.fitting.noise import log_prediction
from llama_scale.fitting.observations import Observations
from llama_scale.fitting.points import Points
from llama_scale.fitting.solver import LEAST_SQUARES
from llama_scale.frozen import frozen
from llama_scale.laws import median

LEAST_DEGREES = 4  # of freedom: fewer measure no noise
LARGEST_SD = 0.02  # of log loss: repeats that differ by more were run with other settings, not other seeds
SAME_RUN = 1e-3  # relative: sizes and durations nearer than that are repeats
SLOPES = np.linspace(-1.5, 1.5, 301)  # of log variance in log compute
SLOPE_SD = 0.25


@frozen
class SeedNoise:
    """Noise of seeds: `sd` of log loss at the median compute, by repeats with `degrees` of freedom.

    `slope` is that of log variance in log compute, `misfit` the sd that repeats share, tau; `weights` (n,)
    have mean 1.
    """

    sd: float
    slope: float
    misfit: float
    groups: int
    degrees: int
    weights: Array

    @property
    def note(self) -> str:
        """What was measured, in a sentence."""
        return (
            f"{self.groups} points were run with several seeds: their noise is {self.sd:.2%} of the loss,"
            f" beside {self.misfit:.2%} that the law misses; runs are weighted by both"
        )


@lru_cache(maxsize=16)
def seed_noise(observations: Observations) -> SeedNoise | None:
    """Noise from repeats: runs of one size and duration in different families, whose losses differ.

    None where these are too few, or differ by more than seeds do.
    """
    groups = repeat_groups(observations)
    log_loss, log_flops = np.log(observations.loss), np.log(observations.train_flops)
    log_flops = log_flops - median(log_flops)
    sizes = np.bincount(groups)
    means = np.bincount(groups, log_loss) / sizes
    squares = np.asarray(np.bincount(groups, (log_loss - means[groups]) ** 2), float)
    degrees = np.where(squares > 0, sizes - 1, 0)
    if degrees.sum() < LEAST_DEGREES:
        return None
    compute = np.bincount(groups, log_flops) / sizes
    level, slope = _variance_by_compute(squares, degrees, compute)
    if level > LARGEST_SD**2:
        return None
    variances = level * np.exp(slope * compute)
    misfit = _misfit(observations, groups, means, variances / sizes)
    weights = 1 / (variances + sizes * misfit)[groups]
    return SeedNoise(
        sd=float(np.sqrt(level)),
        slope=float(slope),
        misfit=float(np.sqrt(misfit)),
        groups=int((degrees > 0).sum()),
        degrees=int(degrees.sum()),
        weights=weights / weights.mean(),
    )


def repeat_groups(observations: Observations) -> NDArray[np.intp]:
    """A number a run (n,): the same for runs of one size, duration and text, whose families differ."""
    same = (observations.parameters, observations.tokens, observations.fresh_tokens)
    keys = [np.round(np.log(values) / SAME_RUN) for values in same]
    seen: dict[tuple[float, ...], tuple[int, set[str]]] = {}
    numbers = []
    for i, key in enumerate(zip(*(key.tolist() for key in keys), strict=True)):
        number, families = seen.get(key, (-1, set()))
        if number < 0 or observations.families[i] in families:
            number, families = i, set()
        seen[key] = (number, families | {observations.families[i]})
        numbers.append(number)
    return np.unique(numbers, return_inverse=True)[1].ravel()


def _variance_by_compute(
    squares: Array, degrees: NDArray[np.intp] | Array, compute: Array
) -> tuple[float, float]:
    """Level and slope of a variance level e^(slope compute): likeliest, times the slope's prior."""
    centre = (degrees * compute).sum() / degrees.sum()
    tilt = np.exp(-np.multiply.outer(SLOPES, compute - centre))
    levels = (tilt * squares).sum(axis=1) / degrees.sum()
    cost = 0.5 * degrees.sum() * np.log(levels) + 0.5 * (SLOPES / SLOPE_SD) ** 2
    best = int(cost.argmin())
    return float(levels[best] * np.exp(-SLOPES[best] * centre)), float(SLOPES[best])


def _misfit(observations: Observations, groups: NDArray[np.intp], means: Array, explained: Array) -> float:
    """tau^2: the variance of the groups' means about a fitted law, less what their seeds explain."""
    first = np.unique(groups, return_index=True)[1]
    points = Points.of(observations.parameters[first], observations.tokens[first], np.exp(means))
    fitted = CHINCHILLA.solve(points, delta=LEAST_SQUARES, quick=True).constants
    residuals = log_prediction(points, fitted) - points.z
    left = max(len(first) - len(fitted), 1)
    return max(0.0, float((residuals**2).sum() / left - explained.mean()))
