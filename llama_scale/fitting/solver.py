"""Approach 3: the global minimum of a sum of Huber losses on log loss, for one data set or thousands at once.

With delta = 1e-3 and residuals of a per cent this is almost a sum of absolute values: kinks and
flat-bottomed valleys, where general-purpose optimisers stop early. Hence starts from a grid of
exponents with the linear constants solved exactly (variable projection), then Newton down a
ladder of shrinking deltas (`descent`, `newton`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llama_scale.fitting.descent import Array, Index, Problems, descend
from llama_scale.fitting.minima import (
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
from llama_scale.fitting.newton import FIVE, FiveMoves, Layout, to_chart, to_constants
from llama_scale.fitting.points import Case, Points
from llama_scale.fitting.tangent import tangent_minima

DEFAULT_DELTA = 1e-3
LEAST_SQUARES = 10.0  # a delta that no residual reaches
STAGES = (1e-1, 3e-2, 1e-2, 3e-3)  # deltas on the way down to the one asked for
RESAMPLE_STAGES = STAGES[2:]  # the same for resamples, which start nearer
GRID = np.geomspace(0.02, 1.6, 7)
COARSE_GRID = np.geomspace(0.05, 1.0, 4)
FEW_ROWS = 64  # fewer: one way more for each resample, as minima of a few rows are many
MIDDLE = COARSE_GRID[1:2]  # enough of the grid for resamples of more rows: the rest hardly ever led lower
FLATTER = np.array([1, 1, 1, 0.6, 0.6])  # where that path begins: at lower exponents
MANY_ROWS = 2000  # more: the coarse grid, for a fit within 2 s


def solve_each(
    sets: Sequence[Points], *, delta: float, quick: bool = False, layout: Layout = FIVE
) -> list[Solution]:
    """The global fit of each data set, from every pair of exponents of a grid, by two paths each.

    One path goes straight to `delta`, the other through the shrinking stages: minima that both reach
    from everywhere are not an accident of one path. All are one batch, so that many small sets cost little
    more than one.
    """
    parts = []
    for points in sets:
        grid = COARSE_GRID if quick or len(points.x) > MANY_ROWS else GRID
        starts = np.tile(grid_starts(points, grid, layout), 2)
        straight = np.arange(starts.shape[1]) < starts.shape[1] // 2
        parts.append((points.problems(), Ways(starts[..., None], straight)))
    found = follow(parts, minimise, ladder(STAGES, delta), layout)
    return [best_of(points, minima, layout) for points, minima in zip(sets, found, strict=True)]


def refit_each(cases: Sequence[Case], *, delta: float, layout: Layout) -> list[Minima]:
    """Fit the resamples of each data set, their descents as one batch.

    Each resample descends straight at `delta` from the minimum of its tangent problem about the full data's
    optimum (5,), and through RESAMPLE_STAGES from the like at the first of them, where `delta` is smaller.
    Where ways disagree, or end on a bound or unconverged, further starts decide. Many rows at a delta of 1e-2
    or more have one way alone, so that bounds and rest are all that is doubted there.
    """
    stages = tuple(stage for stage in RESAMPLE_STAGES if stage > delta)
    parts = [(case.problems, _first_ways(case, stages, delta, layout)) for case in cases]
    best, doubts = [], []
    for case, found in zip(cases, follow(parts, minimise, (*stages, delta), layout), strict=True):
        lowest, objectives = lowest_of(found, len(case.problems.of))
        best.append(lowest)
        doubts.append(doubtful(lowest, np.ptp(objectives, axis=0), layout))

    def further(some: list[int]) -> list[Minima]:
        parts = [(cases[i].take(doubts[i]).problems, _further_ways(cases[i], layout)) for i in some]
        ends = follow(parts, minimise, ladder(STAGES, delta), layout)
        return [lowest_of(found, len(doubts[i]))[0] for i, found in zip(some, ends, strict=True)]

    return decided(best, doubts, further)


def _first_ways(case: Case, stages: tuple[float, ...], delta: float, layout: Layout) -> Ways:
    ways = tangent_minima(case.problems, case.start, deltas=(*stages[:1], delta), layout=layout)
    straight = [False, True][-len(ways) :]
    if len(case.points.x) <= FEW_ROWS:
        ways = [*ways, np.repeat((case.start * FLATTER)[:, None], len(case.problems.of), axis=1)]
        straight = [*straight, True]
    return Ways(np.stack(ways, axis=1), np.array(straight))


def _further_ways(case: Case, layout: Layout) -> Ways:
    grid = COARSE_GRID if len(case.points.x) <= FEW_ROWS else MIDDLE
    starts = np.concatenate([case.start[:, None], grid_starts(case.points, grid, layout)], axis=1)
    return Ways(starts[..., None], np.arange(starts.shape[1]) == 0)


def minimise(
    problems: Problems,
    starts: Array,
    *,
    deltas: tuple[float, ...],
    begin: Index | int = 0,
    layout: Layout = FIVE,
) -> Minima:
    """Minimise each problem from its start (5, S) down the deltas (`minima.Minimiser`).

    A problem whose minimum would have E < 0 is minimised again at E = 0.
    """
    problems = problems.compact()
    moves = FiveMoves.of(problems, is_open=True, layout=layout)
    chart, objective, converged = descend(problems, to_chart(starts, True), moves, deltas=deltas, begin=begin)
    constants = to_constants(chart, True)
    below = np.flatnonzero(constants[0] < 0)
    if len(below):
        some = problems._replace(of=problems.of[below])
        moves = FiveMoves.of(some, is_open=False, layout=layout)
        again = to_chart(np.maximum(constants[:, below], [[0], [1e-3], [1e-3], [0], [0]]), False)
        deltas = ladder(STAGES, deltas[-1])
        chart, objective[below], converged[below] = descend(some, again, moves, deltas=deltas)
        constants[:, below] = to_constants(chart, False)
    return Minima(constants=constants, objective=objective * problems.scale, converged=converged)


def grid_starts(points: Points, grid: Array = GRID, layout: Layout = FIVE) -> Array:
    """Starts (5, S): pairs of exponents of the grid, each with its E, A, B >= 0 of least squared error."""
    alpha, beta = (axis.ravel() for axis in np.meshgrid(grid, grid, indexing="ij"))
    if layout.ties("alpha", "beta"):
        alpha = beta = grid
    inverse = np.exp(-points.z)
    root = np.sqrt(points.weights)
    columns = np.stack(
        [
            np.broadcast_to(inverse, (len(alpha), len(inverse))),
            np.exp(np.multiply.outer(alpha, -points.x)) * inverse,
            np.exp(np.multiply.outer(beta, -points.y)) * inverse,
        ],
        axis=1,
    )
    columns = columns * root
    linear = nonnegative_least_squares(columns @ columns.transpose(0, 2, 1), columns @ root)
    return np.concatenate([np.maximum(linear.T, 1e-3 * np.exp(points.z.min())), [alpha, beta]])


def nonnegative_least_squares(gram: Array, moment: Array) -> Array:
    """Minimise c'Gc/2 - m'c over c >= 0, (S, 3, 3) and (S, 3), by trying all 7 sets of free unknowns."""
    best, lowest = np.zeros_like(moment), np.zeros(len(moment))
    ridge = 1e-12 * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(3)
    for choice in np.ndindex(2, 2, 2):
        free = np.array(choice, bool)
        if not free.any():
            continue
        matrix = np.where(free[:, None] & free, gram + ridge, np.eye(3))
        solved = np.linalg.solve(matrix, np.where(free, moment, 0.0)[..., None])[..., 0]
        value = 0.5 * np.einsum("si,sij,sj->s", solved, gram, solved) - (moment * solved).sum(axis=-1)
        wins = (solved >= 0).all(axis=-1) & (value < lowest)
        best[wins], lowest[wins] = solved[wins], value[wins]
    return best
