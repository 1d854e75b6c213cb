"""Which further run would tell a law's constants apart: by the law's own derivatives, over candidate runs.

With design J (n, f), the derivatives of log predicted loss by each constant in relative units, and noise
s, the constants' covariance is s^2 (J'J)^-1. A run whose derivatives are g lowers the variance along v by
(v'C g)^2 / (s^2 + g'C g), C that covariance (Sherman & Morrison 1950): the run that lowers it most
identifies v best (a c-optimal design). Where two minima compete it is the run on whose loss they differ
most.

Candidates have sizes, durations and tokens per parameter within the runs' ranges or up to twice beyond them,
and cost at most four times the dearest run's 6ND.
"""

from __future__ import annotations

import numpy as np

from llama_scale.fitting.forms import Form
from llama_scale.fitting.newton import Array
from llama_scale.fitting.noise import log_prediction
from llama_scale.fitting.points import Points
from llama_scale.frozen import frozen

STEPS = 31  # candidate sizes, and durations
BEYOND = 2.0  # times the largest, or the least, size and duration
DEARER = 4.0  # times the dearest run's FLOPs
LEAST = 1e-10  # of the design's largest singular value: what no run moves has a variance all the same


@frozen
class NextRun:
    """A run worth making: N parameters, D tokens and 6ND, and why.

    `sd_before` and `sd_after` are those along the direction asked for, in relative units of the constants;
    None where the run is to decide between two minima, whose predictions differ by `gap`.
    """

    parameters: float
    tokens: float
    train_flops: float
    sd_before: float | None = None
    sd_after: float | None = None
    gap: float | None = None


def candidates(points: Points) -> Points:
    """Runs that could be made next, as points without losses."""
    edge = np.log(BEYOND)
    x, y = (np.linspace(axis.min() - edge, axis.max() + edge, STEPS) for axis in (points.x, points.y))
    grid_x, grid_y = (axis.ravel() for axis in np.meshgrid(x, y, indexing="ij"))
    ratio, seen = grid_y - grid_x, points.y - points.x
    kept = grid_x + grid_y <= (points.x + points.y).max() + np.log(DEARER)
    kept &= (ratio >= seen.min() - edge) & (ratio <= seen.max() + edge)
    x, y = grid_x[kept], grid_y[kept]
    return Points(
        x=x, y=y, z=np.zeros_like(x), weights=np.ones_like(x), log_n=points.log_n, log_d=points.log_d
    )


def relative_design(points: Points, constants: Array, form: Form) -> Array:
    """Derivatives (n, f) of log predicted loss by relative changes of each constant.

    Of a constant that is 0, as E may be, by its share of the loss at the centre; of A and B, where there
    is an outer power, by those of A^k and B^k, which are losses.
    """
    e, a, b, _, _, *powers = constants
    k = powers[0] if powers else 1.0
    units = np.append(constants, k)[:6] * np.array([1, 1 / k, 1 / k, 1, 1, 1])
    units[0] = e if e > 0 else (a + b) ** k
    return form.design(points, constants) * units[form.layout.rows]


def most_informative(
    points: Points, constants: Array, form: Form, *, noise: float, direction: Array
) -> NextRun:
    """The candidate that most lowers the variance along `direction` (f,) of the constants."""
    design = relative_design(points, constants, form) * np.sqrt(points.weights)[:, None]
    _, sizes, axes = np.linalg.svd(design, full_matrices=False)
    variance = max(noise, 1e-9) ** 2
    covariance = (axes.T * (variance / np.maximum(sizes, LEAST * sizes[0]) ** 2)) @ axes
    runs = candidates(points)
    reach = relative_design(runs, constants, form)
    known = float(direction @ covariance @ direction)
    spread = ((reach @ covariance) * reach).sum(axis=1)
    gain = (reach @ covariance @ direction) ** 2 / (variance + spread)
    best = int(gain.argmax())
    return _run_at(
        runs, best, sd_before=float(np.sqrt(known)), sd_after=float(np.sqrt(max(known - gain[best], 0.0)))
    )


def most_telling(points: Points, one: Array, other: Array) -> NextRun:
    """The candidate on whose log loss two sets of constants differ most."""
    runs = candidates(points)
    gap = np.abs(log_prediction(runs, one) - log_prediction(runs, other))
    best = int(gap.argmax())
    return _run_at(runs, best, gap=float(gap[best]))


def _run_at(runs: Points, index: int, **why: float) -> NextRun:
    parameters, tokens = np.exp(runs.x[index] + runs.log_n), np.exp(runs.y[index] + runs.log_d)
    return NextRun(
        parameters=float(parameters), tokens=float(tokens), train_flops=float(6 * parameters * tokens), **why
    )
