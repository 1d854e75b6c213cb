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

from collections.abc import Sequence

import numpy as np

from llama_scale.fitting.descent import Array, Batch, Index, Mask, Problems, Surface, descend
from llama_scale.fitting.minima import (
    AGREEMENT,
    Minima,
    Solution,
    Ways,
    best_of,
    decided,
    doubtful,
    follow,
    ladder,
    lowest_of,
)
from llama_scale.fitting.newton import EXPONENT_BOUNDS, K_BOUNDS, SIX, Layout, damped_step
from llama_scale.fitting.points import Case, Points
from llama_scale.fitting.solver import FEW_ROWS
from llama_scale.fitting.solver import solve_each as solve_chinchilla
from llama_scale.fitting.surface import centre_of, expand, to_chart, to_constants
from llama_scale.frozen import frozen

STAGES = (3e-2, 3e-3)
TOLERANCE = 1e-12  # of the objective: a smaller promised fall is rest
MOST_RELEASES = 3
LARGEST_STEP = 0.7  # of a logarithm
STARTS_K = (0.12, 0.25, 0.5, 1.0)
QUICK_K = (0.15, 0.5)
STARTS_FLOOR = (0.0, 0.4, 0.7)  # E as a share of the loss at the centre
OTHER_FLOORS = (0.0, 0.4, 0.65)  # the same, of the further starts of resamples
STARTS_SHARE = (0.25, 0.5, 0.75)  # p
QUICK_SHARE = (0.5,)
MANY_ROWS = 2000  # more: the few starts, for a fit within 2 s
LIMITS = np.log(np.array([EXPONENT_BOUNDS, EXPONENT_BOUNDS, K_BOUNDS]))


def solve_each(
    sets: Sequence[Points], *, delta: float, quick: bool = False, layout: Layout = SIX
) -> list[Solution]:
    """The best minimum of many starts for each data set, all as one batch.

    Two ways lead down: straight at `delta`, where starts find minima of their own if there are several, and
    through the stages, where all soon meet and a few starts are enough. Where E, beta and k are free,
    the Chinchilla form's own optimum is among the starts, so that the fit is never worse than that.
    """
    bends = not (quick or layout.pins("E") or layout.pins("beta") or layout.pins("k"))
    neighbours = solve_chinchilla(sets, delta=delta, quick=True) if bends else [None] * len(sets)
    parts = []
    for points, neighbour in zip(sets, neighbours, strict=True):
        few = starts_of(points, quick=True, layout=layout)
        many = few if quick or len(points.x) > MANY_ROWS else starts_of(points, layout=layout)
        if neighbour is not None:
            many = np.concatenate([many, np.append(neighbour.constants, 1.0)[:, None]], axis=1)
        starts = np.concatenate([many, few], axis=1)
        straight = np.arange(starts.shape[1]) < many.shape[1]
        parts.append((points.problems(), Ways(starts[..., None], straight)))
    found = follow(parts, minimise, ladder(STAGES, delta), layout)
    return [best_of(points, minima, layout) for points, minima in zip(sets, found, strict=True)]


def refit_each(cases: Sequence[Case], *, delta: float, layout: Layout) -> list[Minima]:
    """Fit the resamples of each data set, all as one batch.

    Minima at E = 0 and above it may both exist, and the way through larger deltas leads every start to the
    same one. So each resample descends along two paths, from the full data's optimum (6,) through the
    stages, and straight from its like with a high E, or from starts of low k where E is pinned; where they
    disagree, or one ends on a bound, further starts decide, by both ways.
    """
    deltas = ladder(STAGES, delta)
    best, doubts = [], []
    for lowest, objectives in _follow(cases, [_first_ways(case, layout) for case in cases], deltas, layout):
        gap = np.abs(objectives[0] - objectives[1:].min(axis=0))
        best.append(lowest)
        doubts.append(doubtful(lowest, gap, layout))
    return decided(
        best, doubts, lambda some: _decide([cases[i].take(doubts[i]) for i in some], deltas, layout)
    )


def _decide(cases: Sequence[Case], deltas: tuple[float, ...], layout: Layout) -> list[Minima]:
    """The lowest minima of resamples in doubt: three more paths, and where those part, the grid of starts."""
    others = [_others(case, layout) for case in cases]
    ways = [Ways(starts[:, :3, None], np.arange(starts[:, :3].shape[1]) != 1) for starts in others]
    best, parted = [], []
    for lowest, objectives in _follow(cases, ways, deltas, layout):
        apart = (np.ptp(objectives, axis=0) > AGREEMENT * lowest.objective) | ~lowest.converged
        best.append(lowest)
        parted.append(np.flatnonzero(apart))

    def again(some: list[int]) -> list[Minima]:
        ways = []
        for i in some:
            grid = starts_of(cases[i].points, quick=True, layout=layout)
            starts = np.concatenate([others[i], grid], axis=1)
            ways.append(Ways(np.tile(starts, 2)[..., None], np.repeat([True, False], starts.shape[1])))
        ends = _follow([cases[i].take(parted[i]) for i in some], ways, deltas, layout)
        return [lowest for lowest, _ in ends]

    return decided(best, parted, again)


def _first_ways(case: Case, layout: Layout) -> Ways:
    others = _others(case, layout)
    few = layout.pins("E") and len(case.points.x) <= FEW_ROWS
    starts = np.concatenate([case.start[:, None], others[:, 1:] if few else others[:, -1:]], axis=1)
    return Ways(starts[..., None], np.arange(starts.shape[1]) > 0)


def _others(case: Case, layout: Layout) -> Array:
    """Starts (6, T): the optimum of the whole data, and its likes or starts of low k."""
    further = starts_of(case.points, layout=layout)[:, :3] if layout.pins("E") else likes(case.start)
    return np.concatenate([case.start[:, None], further], axis=1)


def _follow(
    cases: Sequence[Case], ways: Sequence[Ways], deltas: tuple[float, ...], layout: Layout
) -> list[tuple[Minima, Array]]:
    """The lowest minima of the resamples of each case, and the objectives that each way leads to (T, S)."""
    parts = [(case.problems, way) for case, way in zip(cases, ways, strict=True)]
    ends = zip(cases, follow(parts, minimise, deltas, layout), strict=True)
    return [lowest_of(found, len(case.problems.of)) for case, found in ends]


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
    problems: Problems,
    starts: Array,
    *,
    deltas: tuple[float, ...],
    begin: Index | int = 0,
    layout: Layout = SIX,
) -> Minima:
    """Minimise each problem from its start (6, S) down the deltas (`minima.Minimiser`)."""
    problems = problems.compact()
    moves = SixMoves(layout=layout)
    chart, objective, converged = descend(problems, to_chart(starts), moves, deltas=deltas, begin=begin)
    return Minima(constants=to_constants(chart), objective=objective * problems.scale, converged=converged)


@frozen
class SixMoves:
    """How problems with an outer power move (`descent.Moves`).

    E >= 0 is kept by an active set: a step that would cross the floor is cut there, and the problem goes on
    along the floor.
    """

    layout: Layout
    tolerance: float = TOLERANCE

    @property
    def releases(self) -> int:
        return 0 if self.layout.pins("E") else MOST_RELEASES

    def inside(self, chart: Array) -> Array:
        return np.concatenate([chart[:3], np.clip(chart[3:], LIMITS[:, :1], LIMITS[:, 1:])])

    def expand(self, batch: Batch, chart: Array, floor: Mask) -> Surface:
        return expand(batch, chart, floor)

    def between(self, here: Array, there: Array) -> Array:
        step = there - here  # but for the first coordinate, where charts hold E and steps are of the level
        step[0] += centre_of(there).excess - centre_of(here).excess
        return step

    def step(
        self, problem: Index, chart: Array, here: Surface, damping: Array, floor: Mask
    ) -> tuple[Array, Array, Mask]:
        layout, low, high = self.layout, LIMITS[:, :1], LIMITS[:, 1:]
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
