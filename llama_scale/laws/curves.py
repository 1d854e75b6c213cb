"""The law of a whole loss curve under a learning-rate schedule (Luo et al. 2025, arXiv 2503.12811, eq. 1).

A curve's schedule is kept as knots, with the rate linear in the step between two of them; a jump is two
knots one step apart. Sums over steps are exact for such rates. The sum over the steps at which the rate
changes is taken at a few points of each stretch (Gauss-Legendre), so that a curve of T knots costs T^2 and
not the square of its steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llama_scale.frozen import frozen

Array = NDArray[np.float64]
PIECES = 200  # of a schedule: over longer stretches a change of rate is not taken at a few points
NODES = 3  # points of a stretch at which its change of rate is placed
FLAT = 1e-9  # of the peak: smaller changes of rate are none
SHARP = 0.01  # of the peak: a turn of the rate by more is no gradual one
LEAST_RATE = 1e-6  # of the peak: what a rate of zero is taken as, where it is raised to -gamma


@frozen(eq=False)
class LearningRates:
    """Learning rate by step, after the warm-up: knots (m,) in order, and the rate at each.

    The first knot is where the warm-up has ended; `warmup_sum` is the sum of the rates up to it.
    """

    steps: Array
    rates: Array
    warmup_sum: float

    @property
    def peak(self) -> float:
        """The largest rate."""
        return float(self.rates.max())

    @property
    def sums(self) -> Array:
        """Sum of the rates of the steps after the first knot, up to each knot (m,)."""
        lengths = np.diff(self.steps)
        ends = np.diff(self.rates)
        return np.concatenate([[0.0], np.cumsum(lengths * (self.rates[:-1] + ends / 2) + ends / 2)])

    def with_knots(self, steps: ArrayLike) -> LearningRates:
        """The same rates with knots at `steps` too; raises ValueError for steps beyond the ends."""
        more = np.asarray(steps, float)
        if len(more) and (more.min() < self.steps[0] or more.max() > self.steps[-1]):
            raise ValueError(
                f"steps must lie within {self.steps[0]:g} and {self.steps[-1]:g}, where the schedule is known"
            )
        knots = np.union1d(self.steps, more)
        return replace(self, steps=knots, rates=np.interp(knots, self.steps, self.rates))

    def finer(self) -> LearningRates:
        """The same rates with no change of rate spread over more than a share of the whole schedule."""
        lengths = np.diff(self.steps)
        longest = max(1.0, (self.steps[-1] - self.steps[0]) / PIECES)
        moving = np.abs(np.diff(self.rates)) > FLAT * self.peak
        pieces = np.where(moving, np.ceil(lengths / longest), 1).astype(int)
        starts = np.repeat(self.steps[:-1], pieces)
        turn = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        return self.with_knots(np.round(starts + np.repeat(lengths / pieces, pieces) * turn))

    def until(self, step: float) -> LearningRates:
        """The rates up to a step."""
        whole = self.with_knots([step])
        kept = whole.steps <= step
        return replace(whole, steps=whole.steps[kept], rates=whole.rates[kept])

    def scaled(self, factor: float) -> LearningRates:
        """All rates times a factor."""
        return replace(self, rates=self.rates * factor, warmup_sum=self.warmup_sum * factor)


@frozen(eq=False)
class Changes:
    """Where a schedule's rate changes, as the law's sum sees it: (m,) knots by (K,) changes.

    `log_reach` (m, K) is the log of S_k(t), the sum of rates from a change to a knot; -inf where the change
    lies ahead. `drops` (K,) is by how much the rate falls there, `log_rates` (K,) the log of the rate after.
    """

    sums: Array
    log_reach: Array
    drops: Array
    log_rates: Array


def changes_of(rates: LearningRates, *, nodes: int = NODES) -> Changes:
    """The changes of a schedule, a few for each stretch over which the rate moves."""
    sums, lengths, ends = rates.sums, np.diff(rates.steps), np.diff(rates.rates)
    moving = np.flatnonzero(np.abs(ends) > FLAT * rates.peak)
    places, shares = _gauss(nodes)
    counts = lengths[moving, None]
    # The change of step j of n, j = 1..n; the stretch's n steps stand for the interval (.5, n + .5).
    at = np.where(counts > 1, 0.5 + counts * places, 1.0)
    slope = ends[moving, None] / counts
    after = rates.rates[moving, None] + slope * at
    before_sum = sums[moving, None] + (at - 1) * rates.rates[moving, None] + slope * (at - 1) * at / 2
    reach = sums[:, None] - before_sum.ravel()
    behind = np.arange(len(sums))[:, None] > np.repeat(moving, nodes)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_reach = np.log(np.where(behind, np.maximum(reach, 0.0), 0.0))
    return Changes(
        sums=sums + rates.warmup_sum,
        log_reach=log_reach,
        drops=(-ends[moving, None] * shares).ravel(),
        log_rates=np.log(np.maximum(after, LEAST_RATE * rates.peak)).ravel(),
    )


@cache
def _gauss(nodes: int) -> tuple[Array, Array]:
    """Gauss-Legendre places in (0, 1) and shares that add up to 1."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    return (points + 1) / 2, weights / 2


@frozen
class MultiPowerLaw:
    """L(t) = L0 + A S(t)^-alpha - B sum_k (rate before k - rate from k) G(rate_k^-gamma S_k(t)).

    S(t) is the sum of all learning rates up to step t, warm-up included, S_k(t) that from step k on, and
    G(x) = 1 - (1 + C x)^-beta. Losses in nats per token; the constants hold for one model and batch size,
    and for learning rates in the unit in which they were fitted.
    """

    L0: float
    A: float
    alpha: float
    B: float
    C: float
    beta: float
    gamma: float

    def loss(self, rates: LearningRates) -> Array:
        """Predicted loss (m,) at each knot."""
        whole = rates.finer()
        return self.loss_of(changes_of(whole))[np.searchsorted(whole.steps, rates.steps)]

    def loss_at(self, rates: LearningRates, steps: ArrayLike) -> Array:
        """Predicted loss at given steps of a schedule."""
        wanted = np.atleast_1d(np.asarray(steps, float))
        whole = rates.with_knots(wanted)
        return self.loss(whole)[np.searchsorted(whole.steps, wanted)]

    def final_loss(self, rates: LearningRates) -> float:
        """Predicted loss where the schedule ends."""
        return float(self.loss(rates)[-1])

    def loss_of(self, changes: Changes) -> Array:
        """The same, of changes found before."""
        reach = np.exp(np.log(self.C) - self.gamma * changes.log_rates + changes.log_reach)
        gained = -np.expm1(-self.beta * np.log1p(reach))
        return self.L0 + self.A * changes.sums**-self.alpha - self.B * (gained @ changes.drops)

    def rescaled(self, factor: float) -> MultiPowerLaw:
        """The law of the same curves where all learning rates are written `factor` times as large."""
        a, b, c = self.A * factor**self.alpha, self.B / factor, self.C * factor ** (self.gamma - 1)
        return replace(self, A=a, B=b, C=c)


def rates_by_step(rates: Sequence[float] | Array, *, warmup_steps: int) -> LearningRates:
    """Learning rates from one a step, step 1 first; those of the warm-up only count in their sum."""
    values = np.asarray(rates, float)
    if not 0 < warmup_steps < len(values):
        raise ValueError(f"{warmup_steps} warm-up steps of {len(values)}: one at least, and not all")
    after = values[warmup_steps - 1 :]
    steps = np.arange(warmup_steps, len(values) + 1, dtype=float)
    turns = np.abs(np.diff(after, 2)) / values.max()
    bent = np.flatnonzero(turns > FLAT)
    every = max(1, len(bent) // PIECES)  # a curved decay turns at every step: its knots are thinned
    kept = np.concatenate([[True], turns > SHARP, [True]])
    kept[1 + bent[::every]] = True
    return LearningRates(steps=steps[kept], rates=after[kept], warmup_sum=float(values[:warmup_steps].sum()))


def rates_between(steps: ArrayLike, rates: ArrayLike, *, warmup_sum: float | None = None) -> LearningRates:
    """Learning rates from those logged at some steps: linear between, but a lone change is a jump.

    A change between two stretches of constant rate is taken to happen at the later step. Rates that rise
    before the first peak are the warm-up. Without any, the steps before the first count as a linear
    warm-up from zero, unless `warmup_sum` is given.
    """
    at, values = np.asarray(steps, float), np.asarray(rates, float)
    top = values.max() * (1 - 1e-6)
    first = int(np.argmax(values >= top)) if values[0] < top else 0
    before = values[0] * at[0] / 2
    rising = float((np.diff(at[: first + 1]) * (values[:first] + values[1 : first + 1]) / 2).sum())
    at, values = at[first:], values[first:]
    ends = np.abs(np.diff(values)) > FLAT * values.max()
    flat_before = np.concatenate([[True], ~ends[:-1]])
    flat_after = np.concatenate([~ends[1:], [True]])
    jumps = np.flatnonzero(ends & flat_before & flat_after & (np.diff(at) > 1))
    knots = np.concatenate([at, at[jumps + 1] - 1])
    order = np.argsort(knots, kind="stable")
    return LearningRates(
        steps=knots[order],
        rates=np.concatenate([values, values[jumps]])[order],
        warmup_sum=before + rising if warmup_sum is None else warmup_sum,
    )
