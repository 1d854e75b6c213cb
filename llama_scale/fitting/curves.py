"""Fitting the multi-power law to loss curves of one model: variable projection for starts, then Gauss-Newton.

The objective is that of Luo et al. 2025 (arXiv 2503.12811, section 3): the sum of Huber losses, delta 1e-3,
on the log of the loss at every logged step. Given alpha, C, beta and gamma the law is linear in L0, A and B,
which therefore need no starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, least_squares

from llama_scale.errors import UnidentifiedError
from llama_scale.fitting.solver import nonnegative_least_squares
from llama_scale.frozen import frozen
from llama_scale.laws.curves import FLAT, Array, Changes, LearningRates, MultiPowerLaw, changes_of
from llama_scale.quantities import counted

DEFAULT_DELTA = 1e-3
MOST_POINTS = 200  # of one curve that are fitted; more are thinned evenly
LEAST_POINTS = 10
POLISHED = 4  # starts, the best by projection, that are descended
AGREEMENT = 1e-4  # relative gap of objectives at which starts have found the same minimum
# Starts, with rates in units of the peak: 1/C is the number of steps after which a fall of rate tells.
STARTS = tuple(product((0.35, 0.55, 0.8), (0.3, 0.1, 0.03, 0.01), (0.4, 0.8), (0.3, 0.7)))
# L0, log A, alpha, log B, log C, beta, gamma. Few curves hardly identify the last two: published laws of 25M
# to 400M have beta .58 to .60 and gamma .63 to .66. Half that beta, and the gamma at which a fall of rate
# tells after as many steps at any rate, are as far as they may go; left free, they predicted curves that
# were left out of the fit worse (25M: .23 % against .18 % on average).
LOW = np.array([0.0, -30.0, 0.02, -30.0, -15.0, 0.3, 0.0])
HIGH = np.array([50.0, 30.0, 3.0, 30.0, 8.0, 6.0, 1.0])
BOUND_MARGIN = 1e-5
NAMES = ("L0", "A", "alpha", "B", "C", "beta", "gamma")


@frozen(eq=False)
class Curve:
    """One loss curve: its learning rates, the steps (n,) at which it was logged, and the losses there (n,).

    `model` names what shares a law: one size, batch and text. `tokens_per_step` is None where unknown.
    """

    name: str
    model: str
    rates: LearningRates
    steps: Array
    loss: Array
    parameters: float | None = None
    tokens_per_step: float | None = None

    @property
    def changes_rate(self) -> bool:
        """Whether its learning rate ever moves after the warm-up."""
        return bool(np.any(np.abs(np.diff(self.rates.rates)) > FLAT * self.rates.peak))


@frozen(eq=False)
class Prepared:
    """A curve as the fit sees it: changes of rate, which knots (n,) were logged, and log loss there (n,)."""

    changes: Changes
    logged: NDArray[np.intp]
    log_loss: Array


@frozen
class CurveFit:
    """The law of one model's curves, its sum of Huber losses, how many starts agree, what is at a bound."""

    law: MultiPowerLaw
    objective: float
    starts: int
    agreed: int
    at_bound: tuple[str, ...]
    points: int


@frozen
class CurveError:
    """How far a law lies from one curve: mean and worst relative error of the loss, and at the last step."""

    name: str
    points: int
    mean: float
    worst: float
    final: float


def fit_curves(
    curves: Sequence[Curve], *, delta: float = DEFAULT_DELTA, start: MultiPowerLaw | None = None
) -> CurveFit:
    """The multi-power law of some curves of one model; from `start` alone where it is given.

    Raises UnidentifiedError where no curve changes its learning rate, or too few points were logged.
    """
    check_curves(curves)
    peak = max(curve.rates.peak for curve in curves)
    prepared = [_prepare(curve, peak) for curve in curves]
    starts = [_to_unknowns(start.rescaled(1 / peak))] if start else _best_starts(prepared)
    found = [_descend(prepared, unknowns, delta) for unknowns in starts]
    best = min(found, key=lambda one: one.cost)
    agreed = sum(one.cost <= best.cost * (1 + AGREEMENT) + 1e-15 for one in found)
    at_bound = (best.x <= LOW + BOUND_MARGIN * (HIGH - LOW)) | (best.x >= HIGH - BOUND_MARGIN * (HIGH - LOW))
    return CurveFit(
        law=_to_law(best.x).rescaled(peak),
        objective=float(best.cost),
        starts=len(found),
        agreed=int(agreed),
        at_bound=tuple(name for name, marked in zip(NAMES, at_bound, strict=True) if marked),
        points=sum(len(part.log_loss) for part in prepared),
    )


def check_curves(curves: Sequence[Curve]) -> None:
    """Raises UnidentifiedError where curves cannot tell the law's constants apart."""
    points = sum(len(curve.steps) for curve in curves)
    if points < 3 * LEAST_POINTS:
        raise UnidentifiedError(
            f"{counted(points, 'point')} on {counted(len(curves), 'curve')} cannot identify a law of 7"
            " constants",
            hint=f"log the loss more often: {3 * LEAST_POINTS} points are the least",
        )
    if not any(curve.changes_rate for curve in curves):
        raise UnidentifiedError(
            f"the learning rate never changes in {counted(len(curves), 'curve')} of {curves[0].model}, so"
            " nothing says what its decay brings",
            hint="add a curve whose learning rate falls: cosine, or a decay branch",
        )


def error_of(law: MultiPowerLaw, curve: Curve) -> CurveError:
    """The law's errors on a curve, over every logged step."""
    error = np.abs(law.loss_at(curve.rates, curve.steps) / curve.loss - 1)
    return CurveError(
        name=curve.name,
        points=len(error),
        mean=float(error.mean()),
        worst=float(error.max()),
        final=float(law.loss_at(curve.rates, curve.steps[-1:])[0] / curve.loss[-1] - 1),
    )


def _prepare(curve: Curve, peak: float) -> Prepared:
    """The curve with rates in units of the peak, and no more points than a fit needs."""
    every = -(-len(curve.steps) // MOST_POINTS)
    steps, loss = curve.steps[::-every][::-1], curve.loss[::-every][::-1]
    rates = curve.rates.until(steps[-1])
    # Knots where the rate turns stay; of those where it was only logged, as many as there are points.
    turns = np.abs(np.diff(rates.rates, 2)) > FLAT * rates.peak
    kept = np.concatenate([[True], turns & (np.arange(len(turns)) % every == 0), [True]])
    jumps = np.flatnonzero(np.diff(rates.steps) <= 1)
    kept[jumps] = kept[np.minimum(jumps + 1, len(kept) - 1)] = True
    thin = LearningRates(steps=rates.steps[kept], rates=rates.rates[kept], warmup_sum=rates.warmup_sum)
    whole = thin.with_knots(steps).scaled(1 / peak)
    return Prepared(
        changes=changes_of(whole), logged=np.searchsorted(whole.steps, steps), log_loss=np.log(loss)
    )


def _best_starts(prepared: Sequence[Prepared]) -> list[Array]:
    """The starts of the grid whose projections fit best, each with its L0, A and B."""
    coarse = [_coarser(part) for part in prepared]
    inverse = np.concatenate([np.exp(-part.log_loss) for part in coarse])
    grams, moments = [], []
    for alpha, c, beta, gamma in STARTS:
        parts = [_columns(part, alpha, np.log(c), beta, gamma) for part in coarse]
        design = np.concatenate(parts) * inverse[:, None]
        grams.append(design.T @ design)
        moments.append(design.sum(axis=0))
    gram, moment = np.array(grams), np.array(moments)
    linear = nonnegative_least_squares(gram, moment)
    left = len(inverse) + np.einsum("si,sij,sj->s", linear, gram, linear) - 2 * (linear * moment).sum(axis=1)
    starts = []
    for index in np.argsort(left)[:POLISHED]:
        alpha, c, beta, gamma = STARTS[index]
        floor, a, b = np.maximum(linear[index], 1e-6)
        starts.append(np.array([floor, np.log(a), alpha, np.log(b), np.log(c), beta, gamma]))
    return starts


def _coarser(part: Prepared) -> Prepared:
    """A quarter of the points, for choosing starts."""
    logged = part.logged[::4]
    changes = part.changes
    return Prepared(
        changes=Changes(
            sums=changes.sums[logged],
            log_reach=changes.log_reach[logged],
            drops=changes.drops,
            log_rates=changes.log_rates,
        ),
        logged=np.arange(len(logged)),
        log_loss=part.log_loss[::4],
    )


def _columns(part: Prepared, alpha: float, log_c: float, beta: float, gamma: float) -> Array:
    """What L0, A and B multiply, at the logged points (n, 3)."""
    changes = part.changes
    reach = np.exp(log_c - gamma * changes.log_rates + changes.log_reach[part.logged])
    gained = -np.expm1(-beta * np.log1p(reach)) @ changes.drops
    sums = changes.sums[part.logged]
    return np.stack([np.ones_like(sums), sums**-alpha, -gained], axis=1)


def _descend(prepared: Sequence[Prepared], unknowns: Array, delta: float) -> OptimizeResult:
    """Least squares under Huber's loss, with the exact Jacobian."""

    @lru_cache(maxsize=1)  # SciPy asks for the residuals, then for their derivatives at the same place
    def both(at: bytes) -> tuple[Array, Array]:
        residuals, slopes = zip(*(_residuals(part, np.frombuffer(at)) for part in prepared), strict=True)
        return np.concatenate(residuals), np.concatenate(slopes)

    return least_squares(
        lambda at: both(at.tobytes())[0],
        np.clip(unknowns, LOW + 1e-6, HIGH - 1e-6),
        jac=cast(Any, lambda at: both(at.tobytes())[1]),  # its type is narrower than what it takes
        bounds=(LOW, HIGH),
        loss="huber",
        f_scale=delta,
        x_scale="jac",
        xtol=1e-10,
        ftol=1e-10,
        gtol=1e-12,
        max_nfev=200,
    )


def _residuals(part: Prepared, unknowns: Array) -> tuple[Array, Array]:
    """Log of predicted over measured loss (n,), and its derivatives (n, 7)."""
    floor, log_a, alpha, log_b, log_c, beta, gamma = unknowns
    changes = part.changes
    reach = np.exp(log_c - gamma * changes.log_rates + changes.log_reach[part.logged])
    growth = np.log1p(reach)
    left = np.exp(-beta * growth)
    sums = changes.sums[part.logged]
    decay, b = np.exp(log_a - alpha * np.log(sums)), np.exp(log_b)
    by_c = beta * reach / (1 + reach) * left
    gained = (1 - left) @ changes.drops
    loss = np.maximum(floor + decay - b * gained, 1e-3)
    slopes = [
        np.ones_like(sums),
        decay,
        -decay * np.log(sums),
        -b * gained,
        -b * (by_c @ changes.drops),
        -b * ((growth * left) @ changes.drops),
        b * (by_c @ (changes.drops * changes.log_rates)),
    ]
    return np.log(loss) - part.log_loss, np.stack(slopes, axis=1) / loss[:, None]


def _to_unknowns(law: MultiPowerLaw) -> Array:
    return np.array([law.L0, np.log(law.A), law.alpha, np.log(law.B), np.log(law.C), law.beta, law.gamma])


def _to_law(unknowns: Array) -> MultiPowerLaw:
    floor, log_a, alpha, log_b, log_c, beta, gamma = unknowns
    values = (floor, np.exp(log_a), alpha, np.exp(log_b), np.exp(log_c), beta, gamma)
    return MultiPowerLaw(**dict(zip(NAMES, map(float, values), strict=True)))
