"""Forms with an outer power, L = E + (A N^-alpha + B D^-beta)^k, fitted by a sum of Huber losses on log loss.

Which of the six constants move is the form's `Layout`: all in the Skaling form, four in Kaplan's. Steps
are damped Newton with the exact Hessian in the chart of `surface`, batched over starts and resamples,
with E >= 0 kept by an active set. No prior holds the constants: where the runs show no irreducible
loss, E ends at 0.

On resamples of ten public data sets and of made-up sweeps every start that comes to rest ends within 1e-12 of
one of at most a few minima, so starts serve to tell these apart, not to creep nearer.

Shapes: S problems, n rows; constants (E, A, B, alpha, beta, k) centred, and chart, are (6, S).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llama_scale.fitting.newton import EXPONENT_BOUNDS, K_BOUNDS, Array, Layout, Mask, damped_step
from llama_scale.fitting.solver import (
    COARSE_GRID,
    DEFAULT_DELTA,
    FEW_ROWS,
    Minima,
    Points,
    Solution,
    best_of,
    better,
    joined,
)
from llama_scale.fitting.solver import solve as solve_chinchilla
from llama_scale.fitting.surface import Batch, Surface, centre_of, expand, to_chart, to_constants

AGREEMENT = 1e-6  # relative gap of objectives at which two starts have found the same minimum
MAX_STEPS = 80
STAGES = (3e-2, 3e-3)
TOLERANCE = 1e-12  # of the objective: a smaller promised fall ends a stage
GIVE_UP = 1e8
MOST_RELEASES = 3
LARGEST_STEP = 0.7  # of a logarithm
CHUNK = 1 << 15
STARTS_K = (0.12, 0.25, 0.5, 1.0)
QUICK_K = (0.15, 0.5)
STARTS_FLOOR = (0.0, 0.4, 0.7)  # E as a share of the loss at the centre
OTHER_FLOORS = (0.0, 0.4, 0.65)  # the same, of the further starts of resamples
STARTS_SHARE = (0.25, 0.5, 0.75)  # p
QUICK_SHARE = (0.5,)
MANY_ROWS = 2000  # more: the few starts, for a fit within 2 s
SIX = Layout.of("E", "A", "B", "alpha", "beta", "k")
LIMITS = np.log(np.array([EXPONENT_BOUNDS, EXPONENT_BOUNDS, K_BOUNDS]))


def solve(
    points: Points, *, delta: float = DEFAULT_DELTA, quick: bool = False, layout: Layout = SIX
) -> Solution:
    """The best minimum of many starts, which agree with the data's level and slopes at the centre.

    Two ways lead down: straight at `delta`, where starts find minima of their own if there are several, and
    through the stages, where all soon meet and a few starts are enough. Where E, beta and k are free,
    the Chinchilla form's own optimum is among the starts, so that the fit is never worse than that.
    """
    few = starts_of(points, quick=True, layout=layout)
    many = few if quick or len(points.x) > MANY_ROWS else starts_of(points, layout=layout)
    if not (quick or layout.pins("E") or layout.pins("beta") or layout.pins("k")):
        neighbour = solve_chinchilla(points, delta=delta, grid=COARSE_GRID).constants
        many = np.concatenate([many, np.append(neighbour, 1.0)[:, None]], axis=1)
    found = joined(
        minimise(points, many, delta=delta, stages=(), layout=layout),
        minimise(points, few, delta=delta, layout=layout),
    )
    return best_of(points, found, layout)


def refit(
    points: Points,
    start: Array,
    *,
    delta: float = DEFAULT_DELTA,
    log_losses: Array | None = None,
    weights: Array | None = None,
    layout: Layout = SIX,
) -> Minima:
    """Fit resamples: `weights` (S, n) are resample counts, or `log_losses` (S, n) simulated data.

    Minima at E = 0 and above it may both exist, and the way through larger deltas leads every start to the
    same one. So each resample descends along two paths, from the full data's optimum (6,) through the
    stages, and straight from its like with a high E, or from starts of low k where E is pinned; where they
    disagree, or one ends on a bound, further starts decide, by both ways.
    """
    if (log_losses is None) == (weights is None):
        raise ValueError("give either log_losses or weights")
    resamples = Resamples(log_losses, weights)
    further = starts_of(points, layout=layout)[:, :3] if layout.pins("E") else likes(start)
    others = np.concatenate([start[:, None], further], axis=1)
    first = _follow(points, start[:, None], resamples, delta, STAGES, layout)
    last = further if layout.pins("E") and len(points.x) <= FEW_ROWS else others[:, -1:]
    second = _follow(points, last, resamples, delta, (), layout)
    best = better(first, second)
    doubtful = np.flatnonzero(
        (np.abs(first.objective - second.objective) > AGREEMENT * best.objective)
        | ~best.converged
        | best.at_bound[layout.rows].any(axis=0)
    )
    if len(doubtful):
        found = _decide(points, others, resamples.take(doubtful), delta, layout)
        best = best.replaced(doubtful, better(best.take(doubtful), found))
    return best


def _decide(points: Points, others: Array, resamples: Resamples, delta: float, layout: Layout) -> Minima:
    """The lowest minima of resamples in doubt: three more paths, and where those part, the grid of starts."""
    ways = (((), others[:, :1]), (STAGES, others[:, 1:2]), ((), others[:, 2:3]))
    ends = [_follow(points, start, resamples, delta, stages, layout) for stages, start in ways if start.size]
    best = functools.reduce(better, ends)
    worst = np.max([end.objective for end in ends], axis=0)
    parted = np.flatnonzero((worst - best.objective > AGREEMENT * best.objective) | ~best.converged)
    if len(parted):
        starts = np.concatenate([others, starts_of(points, quick=True, layout=layout)], axis=1)
        for stages in ((), STAGES):
            found = _follow(points, starts, resamples.take(parted), delta, stages, layout)
            best = best.replaced(parted, better(best.take(parted), found))
    return best


class Resamples(NamedTuple):
    """What differs between the problems of a batch: log losses or weights, (S, n)."""

    log_losses: Array | None
    weights: Array | None

    def take(self, rows: NDArray[np.intp]) -> Resamples:
        """Those at `rows`, which may repeat."""
        return Resamples(*(None if part is None else part[rows] for part in self))

    @property
    def problems(self) -> int:
        """How many problems they are."""
        return len(next(part for part in self if part is not None))


def _follow(
    points: Points,
    starts: Array,
    resamples: Resamples,
    delta: float,
    stages: tuple[float, ...],
    layout: Layout,
) -> Minima:
    """The lowest minimum of each resample from every one of the starts (6, T)."""
    count, each = resamples.problems, starts.shape[1]
    log_losses, weights = resamples.take(np.repeat(np.arange(count), each))
    found = minimise(
        points,
        np.tile(starts, count),
        delta=delta,
        log_losses=log_losses,
        weights=weights,
        layout=layout,
        stages=stages,
    )
    lowest = found.objective.reshape(count, each).argmin(axis=1)
    return found.take(np.arange(count) * each + lowest)


def likes(constants: Array) -> Array:
    """Constants (6, S) of the same level, slopes and exponents at the centre, E at each of OTHER_FLOORS."""
    e, a, b, alpha, beta, k = constants
    excess, share = (a + b) ** k, a / (a + b)
    rest = (e + excess) * (1 - np.array(OTHER_FLOORS))
    powers = np.clip(k * excess / rest, *K_BOUNDS)  # slopes go with k G
    total = rest ** (1 / powers)
    same = np.ones(len(rest))
    return np.stack(
        [e + excess - rest, total * share, total * (1 - share), alpha * same, beta * same, powers]
    )


def starts_of(points: Points, *, quick: bool = False, layout: Layout = SIX) -> Array:
    """Starts (6, S) by k, E and p; the exponents follow from the slopes of a paraboloid through the data.

    A pinned E starts, and stays, at 0, and a pinned exponent at 1.
    """
    x, y, loss = points.x, points.y, np.exp(points.z)
    columns = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)
    root = np.sqrt(points.weights)
    slopes = np.linalg.lstsq(columns * root[:, None], loss * root, rcond=None)[0][1:3]
    level = float(loss.mean())
    s, t = (max(-float(slope), 1e-2 * level) for slope in slopes)
    floors = (0.0,) if layout.pins("E") else STARTS_FLOOR
    shares = QUICK_SHARE if quick and not layout.pins("E") else STARTS_SHARE
    grid = np.meshgrid(QUICK_K if quick else STARTS_K, floors, shares, indexing="ij")
    k, floor, p = (axis.ravel() for axis in grid)
    rest = level * (1 - floor)
    exponents = np.clip([s / (k * rest * p), t / (k * rest * (1 - p))], *(1.001, 0.999) * np.exp(LIMITS[0]))
    for row, name in enumerate(("alpha", "beta")):
        exponents[row] = 1.0 if layout.pins(name) else exponents[row]
    total = rest ** (1 / k)
    return np.stack([level * floor, total * p, total * (1 - p), *exponents, k])


def minimise(
    points: Points,
    starts: Array,
    *,
    delta: float,
    log_losses: Array | None = None,
    weights: Array | None = None,
    layout: Layout = SIX,
    stages: tuple[float, ...] = STAGES,
) -> Minima:
    """Minimise each problem from its start (6, S)."""
    count, rows = starts.shape[1], len(points.x)
    scale = float(points.weights.mean())  # the steps are those of weights of mean 1, whatever their unit
    shares = points.weights / scale
    batch = Batch(
        points.x,
        points.y,
        np.broadcast_to(points.z if log_losses is None else log_losses, (count, rows)),
        np.broadcast_to(shares if weights is None else weights * shares, (count, rows)),
        delta,
    )
    width = max(1, CHUNK // rows)
    parts = []
    for first in range(0, count, width):
        problems = batch.take(slice(first, first + width))
        chart, value, converged = to_chart(starts[:, first : first + width]), np.zeros(0), np.zeros(0, bool)
        for stage in (*(d for d in stages if d > delta), delta):
            chart, value, converged = descend(problems._replace(delta=stage), chart, layout)
        parts.append((to_constants(chart), value * scale, converged))
    constants, objective, converged = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
    return Minima(constants=constants, objective=objective, converged=converged)


def descend(batch: Batch, chart: Array, layout: Layout) -> tuple[Array, Array, Mask]:
    """Where each problem ends (6, S), its objective (S,), and whether it converged (S,).

    Problems that have converged leave the batch. E >= 0 is kept by an active set: a step that would
    cross the floor is cut there, the problem goes on along the floor, and once it has come to rest
    it is released where a larger E would still lower the objective, LARGEST_RELEASES times at most.
    """
    chart = chart.copy()
    chart[3:] = np.clip(chart[3:], LIMITS[:, :1], LIMITS[:, 1:])
    count = chart.shape[1]
    converged, live, damping = np.zeros(count, bool), np.arange(count), np.full(count, 1e-3)
    releases = np.zeros(count, int) + (MOST_RELEASES if layout.pins("E") else 0)
    floor = chart[0] <= 0
    here = expand(batch, chart, floor)
    objective = here.value.copy()
    for _ in range(MAX_STEPS):
        trial, fall, on_floor = _step(chart[:, live], here, damping, floor, layout)
        there = expand(batch, trial, on_floor)
        better = there.value < here.value
        chart[:, live[better]] = trial[:, better]
        landed = better & on_floor & ~floor
        floor = np.where(better, on_floor, floor)
        here = there.where(better, here)
        objective[live] = here.value
        damping = np.where(better, damping * 0.2, damping * 8 + 1e-8)
        damping[landed] = 1e-3
        ended = ((fall <= TOLERANCE * here.value) & (damping <= 1) & ~landed) | (damping > GIVE_UP)
        ended |= here.value < batch.least
        freed = ended & floor & (here.rise < 0) & (releases < MOST_RELEASES)
        if freed.any():
            releases[freed] += 1
            ended, floor, damping = ended & ~freed, floor & ~freed, np.where(freed, 1e-3, damping)
            here = expand(batch, chart[:, live], floor)
        if ended.any():
            converged[live[ended]] = True
            keep = ~ended
            if not keep.any():
                break
            live, damping, releases, floor = live[keep], damping[keep], releases[keep], floor[keep]
            batch, here = batch.take(keep), here.take(keep)
    return chart, objective, converged


def _step(
    chart: Array, here: Surface, damping: Array, floor: Mask, layout: Layout
) -> tuple[Array, Array, Mask]:
    """The next chart, the fall that the quadratic model promises (S,), and which are then on the floor."""
    low, high = LIMITS[:, :1], LIMITS[:, 1:]
    gradient, matrix = layout.reduced(here.gradient, here.hessian)
    marks = np.zeros((3, *chart.shape))
    marks[0, 3:], marks[1, 3:], marks[2, 0] = chart[3:] <= low, chart[3:] >= high, floor
    at_low, at_high, still = layout.spread.T @ marks > 0
    pinned = still | (at_low & (gradient > 0)) | (at_high & (gradient < 0))
    step, fall = damped_step(gradient, matrix, damping, pinned)
    step = layout.spread @ step
    step *= np.minimum(1.0, LARGEST_STEP / np.maximum(np.abs(step[1:]).max(axis=0), 1e-300))
    trial, rest = _moved(chart, step, floor)
    crossing = ~floor & (rest < 0)
    if crossing.any():
        part = chart[0] / np.where(crossing, chart[0] - rest, 1.0)
        trial = np.where(crossing, _moved(chart, step * part, floor)[0], trial)
        trial[0] = np.where(crossing, 0.0, trial[0])
    return trial, fall, floor | crossing


def _moved(chart: Array, step: Array, floor: Mask) -> tuple[Array, Array]:
    """The chart after a step, kept to the bounds, and the E that its level leaves, which may be below 0."""
    trial = chart + step
    trial[3:] = np.clip(trial[3:], LIMITS[:, :1], LIMITS[:, 1:])
    rest = chart[0] + centre_of(chart).excess + step[0] - centre_of(trial).excess
    trial[0] = np.where(floor, 0.0, np.maximum(rest, 0.0))
    return trial, rest
