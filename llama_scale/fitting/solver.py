"""Approach 3: the global minimum of a sum of Huber losses on log loss, for one data set or thousands at once.

With delta = 1e-3 and residuals of a per cent this is almost a sum of absolute values: kinks and
flat-bottomed valleys, where general-purpose optimisers stop early. Hence starts from a grid of
exponents with the linear constants solved exactly (variable projection), then Newton down a
ladder of shrinking deltas (`descent`, `newton`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from llama_scale.fitting.descent import Array, Index, Mask, Problems, descend, joined
from llama_scale.fitting.newton import (
    EXPONENT_BOUNDS,
    FIVE,
    K_BOUNDS,
    NAMES,
    FiveMoves,
    Layout,
    to_chart,
    to_constants,
)
from llama_scale.fitting.tangent import tangent_minima
from llama_scale.frozen import frozen
from llama_scale.laws import ScalingLaw

DEFAULT_DELTA = 1e-3
STAGES = (1e-1, 3e-2, 1e-2, 3e-3)  # deltas on the way down to the one asked for
RESAMPLE_STAGES = STAGES[2:]  # the same for resamples, which start nearer
GRID = np.geomspace(0.02, 1.6, 7)
COARSE_GRID = np.geomspace(0.05, 1.0, 4)
FEW_ROWS = 64  # fewer: one way more for each resample, as minima of a few rows are many
MIDDLE = COARSE_GRID[1:2]  # enough of the grid for resamples of more rows: the rest hardly ever led lower
FLATTER = np.array([1, 1, 1, 0.6, 0.6])  # where that path begins: at lower exponents
MANY_ROWS = 2000  # more: the coarse grid, for a fit within 2 s
AGREEMENT = 1e-6  # relative gap of objectives at which two starts have found the same minimum
ROUNDING = 1e-15  # an objective of data without noise that are met to rounding: lower ones are no better
LIMITS = np.array([EXPONENT_BOUNDS, EXPONENT_BOUNDS, K_BOUNDS])


@frozen
class Points:
    """Rows to fit, (n,) each: x = log N - log_n, y = log D - log_d, z = log loss, and weights."""

    x: Array
    y: Array
    z: Array
    weights: Array
    log_n: float
    log_d: float

    @classmethod
    def of(cls, parameters: Array, tokens: Array, loss: Array, weights: Array | None = None) -> Points:
        """Centre the logs of N and D at their means."""
        log_n, log_d = np.log(parameters), np.log(tokens)
        mean_n, mean_d = float(log_n.mean()), float(log_d.mean())
        return cls(
            x=log_n - mean_n,
            y=log_d - mean_d,
            z=np.log(loss),
            weights=np.ones(len(log_n)) if weights is None else weights,
            log_n=mean_n,
            log_d=mean_d,
        )

    def law(self, constants: Array) -> ScalingLaw:
        """The law, or batch of laws, of centred constants (5,) or (5, S); a sixth one is k."""
        e, a, b, alpha, beta, *k = constants
        return ScalingLaw(
            E=e,
            A=a * np.exp(alpha * self.log_n),
            B=b * np.exp(beta * self.log_d),
            alpha=alpha,
            beta=beta,
            k=k[0] if k else 1.0,
        )

    def constants(self, law: ScalingLaw) -> Array:
        """Centred constants (5,) or (5, S) of a law."""
        a, b = law.A * np.exp(-law.alpha * self.log_n), law.B * np.exp(-law.beta * self.log_d)
        outer = [law.k] if law.has_outer_power else []
        return np.array([law.E, a, b, law.alpha, law.beta, *outer], float)


class Resamples(NamedTuple):
    """What differs between problems: log losses or weights, (R, n), of row `of[s]` for problem s.

    Without `of` each row is one problem; with neither all problems are of the data themselves.
    """

    log_losses: Array | None = None
    weights: Array | None = None
    of: Index | None = None

    def take(self, rows: Index) -> Resamples:
        """Those at `rows`, which may repeat."""
        return self._replace(of=rows if self.of is None else self.of[rows])

    @property
    def number(self) -> int:
        """How many problems they are."""
        return len(next(part for part in (self.of, self.log_losses, self.weights) if part is not None))

    def problems(self, points: Points, count: int) -> Problems:
        """So many problems, with weights of mean 1 so that steps are alike."""
        unit = float(points.weights.mean())
        z, shares = points.z[None], points.weights[None] / unit
        of = np.arange(count) if self.of is None else self.of
        if self.log_losses is not None:
            z = self.log_losses
        elif self.weights is not None:
            shares = shares * self.weights
        else:
            of = np.zeros(count, np.intp)
        z, shares = map(np.ascontiguousarray, (z, shares))  # strided rows make every look twice as slow
        return Problems(points.x[None], points.y[None], z, shares, of, units=np.array([unit]))


WHOLE = Resamples()


class Case(NamedTuple):
    """Resamples of one data set as problems, and its own optimum (5 or 6,), where they start."""

    points: Points
    start: Array
    problems: Problems

    @classmethod
    def of(
        cls, points: Points, start: Array, *, log_losses: Array | None = None, weights: Array | None = None
    ) -> Case:
        """Simulated data (S, n) or resample counts (S, n); ValueError for both or neither."""
        if (log_losses is None) == (weights is None):
            raise ValueError("give either log_losses or weights")
        resamples = Resamples(log_losses, weights)
        return cls(points, start, resamples.problems(points, resamples.number))

    def take(self, index: Index) -> Case:
        """Those at `index`."""
        return self._replace(problems=self.problems._replace(of=self.problems.of[index]))


class Ways(NamedTuple):
    """Starts (5 or 6, T, S or 1) of the ways down of each problem, and which go straight at delta (T,)."""

    starts: Array
    straight: Mask


@frozen
class Minima:
    """Where each problem of a batch ended: constants (5, S), objective and whether it converged (S,)."""

    constants: Array
    objective: Array
    converged: Mask

    @property
    def at_bound(self) -> Mask:
        """Which constants (5 or 6, S) lie on a bound: E, A or B at zero, exponents and k at their limits."""
        e, a, b, *powers = self.constants
        k = powers[2] if len(powers) > 2 else 1.0
        low, high = LIMITS[: len(powers), :, None].transpose(1, 0, 2)
        return np.concatenate(
            [
                [e <= 1e-6 * (e + (a + b) ** k), a <= 1e-6 * (a + b), b <= 1e-6 * (a + b)],
                (self.constants[3:] <= low * 1.001) | (self.constants[3:] >= high * 0.999),
            ]
        )

    def take(self, index: NDArray[np.intp] | Mask) -> Minima:
        """The minima at `index`."""
        return Minima(
            constants=self.constants[:, index],
            objective=self.objective[index],
            converged=self.converged[index],
        )

    def replaced(self, index: NDArray[np.intp], others: Minima) -> Minima:
        """These minima with others in place of those at `index`."""
        parts = {f.name: getattr(self, f.name).copy() for f in fields(self)}
        for name, part in parts.items():
            part[..., index] = getattr(others, name)
        return Minima(**parts)


@frozen
class Solution:
    """The best minimum of all starts, its sum of Huber losses, and how many starts agree on it.

    `starts` are those that came to rest within the steps they were given, at whatever minimum; `rival` is
    the next higher of these minima, None where all agree.
    """

    law: ScalingLaw
    constants: Array
    objective: float
    starts: int
    agreed: int
    at_bound: tuple[str, ...]
    rival: Array | None = None


def solve(
    points: Points, *, delta: float = DEFAULT_DELTA, grid: Array | None = None, layout: Layout = FIVE
) -> Solution:
    """The global fit of one data set, from every pair of exponents of the grid, by two paths each.

    One path goes straight to `delta`, the other through the shrinking stages: minima that both reach
    from everywhere are not an accident of one path.
    """
    return solve_each([points], delta=delta, grid=grid, layout=layout)[0]


def solve_each(
    sets: Sequence[Points], *, delta: float = DEFAULT_DELTA, grid: Array | None = None, layout: Layout = FIVE
) -> list[Solution]:
    """The global fit of each data set: as one batch, so that many small ones cost little more than one."""
    parts = []
    for points in sets:
        own = (GRID if len(points.x) <= MANY_ROWS else COARSE_GRID) if grid is None else grid
        starts = np.tile(grid_starts(points, own, layout), 2)
        straight = np.arange(starts.shape[1]) < starts.shape[1] // 2
        parts.append((WHOLE.problems(points, 1), Ways(starts[..., None], straight)))
    found = follow(parts, minimise_all, delta=delta, layout=layout)
    return [best_of(points, minima, layout) for points, minima in zip(sets, found, strict=True)]


def best_of(points: Points, found: Minima, layout: Layout = FIVE) -> Solution:
    """The lowest of the minima that the starts of one data set reached, and how many reached it."""
    best = int(found.objective.argmin())
    lowest = float(found.objective[best])
    same = found.objective <= lowest * (1 + AGREEMENT) + ROUNDING
    others = np.flatnonzero(found.converged & ~same)
    return Solution(
        law=float_law(points.law(found.constants[:, best])),
        constants=found.constants[:, best],
        objective=lowest,
        starts=int(max(found.converged.sum(), 1)),
        agreed=int((same & found.converged).sum()),
        at_bound=tuple(name for name in names_at_bound(found.at_bound[:, best]) if name in layout.free),
        rival=found.constants[:, others[found.objective[others].argmin()]] if len(others) else None,
    )


def refit(
    points: Points,
    start: Array,
    *,
    delta: float = DEFAULT_DELTA,
    log_losses: Array | None = None,
    weights: Array | None = None,
    layout: Layout = FIVE,
) -> Minima:
    """Fit resamples: `weights` (S, n) are resample counts, or `log_losses` (S, n) simulated data."""
    case = Case.of(points, start, log_losses=log_losses, weights=weights)
    return refit_each([case], delta=delta, layout=layout)[0]


def refit_each(cases: Sequence[Case], *, delta: float = DEFAULT_DELTA, layout: Layout = FIVE) -> list[Minima]:
    """Fit the resamples of each data set, all as one batch.

    Each resample descends straight at `delta` from the minimum of its tangent problem about the full data's
    optimum (5,), and through RESAMPLE_STAGES from the like at the first of them, where `delta` is smaller.
    Where ways disagree, or end on a bound or unconverged, further starts decide. Many rows at a delta of 1e-2
    or more have one way alone, so that bounds and rest are all that is doubted there.
    """
    stages = tuple(stage for stage in RESAMPLE_STAGES if stage > delta)
    parts = [(case.problems, _first_ways(case, stages, delta, layout)) for case in cases]
    ends = follow(parts, minimise_all, delta=delta, stages=stages, layout=layout)
    best, doubts = [], []
    for case, found in zip(cases, ends, strict=True):
        lowest, gap = lowest_of(found, len(case.problems.of))
        best.append(lowest)
        doubts.append(doubtful(lowest, gap, layout))
    some = [number for number, doubt in enumerate(doubts) if len(doubt)]
    parts = [(cases[i].take(doubts[i]).problems, _further_ways(cases[i], layout)) for i in some]
    for i, found in zip(some, follow(parts, minimise_all, delta=delta, layout=layout), strict=True):
        decided, _ = lowest_of(found, len(doubts[i]))
        best[i] = best[i].replaced(doubts[i], better(best[i].take(doubts[i]), decided))
    return best


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


def doubtful(best: Minima, gap: Array, layout: Layout) -> Index:
    """Problems whose ways part, or whose best minimum is on a bound or not at rest."""
    bound = best.at_bound[layout.rows].any(axis=0)
    return np.flatnonzero((gap > AGREEMENT * best.objective) | ~best.converged | bound)


def lowest_of(found: Minima, count: int) -> tuple[Minima, Array]:
    """The lowest of the minima (T x S) of each problem's ways, and how far the ways part (S,)."""
    objectives = found.objective.reshape(-1, count)
    lowest = found.take(objectives.argmin(axis=0) * count + np.arange(count))
    return lowest, objectives.max(axis=0) - lowest.objective


def follow(
    parts: Sequence[tuple[Problems, Ways]],
    minimiser: Minimiser,
    *,
    delta: float,
    stages: tuple[float, ...] | None = None,
    layout: Layout,
) -> list[Minima]:
    """Where all problems end by each of their ways, one Minima (T x S) a part, as one batch."""
    if not parts:
        return []
    problems, starts, straight = [], [], []
    for some, ways in parts:
        count, number = len(some.of), ways.starts.shape[1]
        problems.append(some._replace(of=np.tile(some.of, number)))
        spread = np.broadcast_to(ways.starts, (*ways.starts.shape[:2], count))
        starts.append(spread.reshape(len(spread), -1))
        straight.append(np.repeat(ways.straight, count))
    words = {} if stages is None else {"stages": stages}
    found = minimiser(
        joined(problems),
        np.concatenate(starts, axis=1),
        delta=delta,
        straight=np.concatenate(straight),
        layout=layout,
        **words,
    )
    ends = np.cumsum([0, *(some.shape[1] for some in starts)])
    return [found.take(np.arange(low, high)) for low, high in pairwise(ends)]


class Minimiser(Protocol):
    """Minimises each problem from its start, delta shrinking in stages; `straight` ones skip them."""

    def __call__(
        self,
        problems: Problems,
        starts: Array,
        *,
        delta: float,
        stages: tuple[float, ...] = ...,
        straight: Mask | None = None,
        layout: Layout = ...,
    ) -> Minima: ...


def minimise(
    points: Points,
    starts: Array,
    *,
    delta: float,
    resamples: Resamples = WHOLE,
    stages: tuple[float, ...] = STAGES,
    straight: Mask | None = None,
    layout: Layout = FIVE,
) -> Minima:
    """Minimise problems of one data set, each from its start (5, S)."""
    problems = resamples.problems(points, starts.shape[1])
    return minimise_all(problems, starts, delta=delta, stages=stages, straight=straight, layout=layout)


def minimise_all(
    problems: Problems,
    starts: Array,
    *,
    delta: float,
    stages: tuple[float, ...] = STAGES,
    straight: Mask | None = None,
    layout: Layout = FIVE,
) -> Minima:
    """Minimise each problem from its start (5, S), delta shrinking in stages; `straight` ones skip them.

    A problem whose minimum would have E < 0 is minimised again at E = 0.
    """
    problems = problems.compact()
    deltas = ladder(stages, delta)
    begin = 0 if straight is None else np.where(straight, len(deltas) - 1, 0)
    moves = FiveMoves.of(problems.z, is_open=True, layout=layout)
    chart, objective, converged = descend(problems, to_chart(starts, True), moves, deltas=deltas, begin=begin)
    constants = to_constants(chart, True)
    below = np.flatnonzero(constants[0] < 0)
    if len(below):
        moves = FiveMoves.of(problems.z, is_open=False, layout=layout)
        again = to_chart(np.maximum(constants[:, below], [[0], [1e-3], [1e-3], [0], [0]]), False)
        some = problems._replace(of=problems.of[below])
        chart, objective[below], converged[below] = descend(some, again, moves, deltas=ladder(STAGES, delta))
        constants[:, below] = to_constants(chart, False)
    return Minima(constants=constants, objective=objective * problems.scale, converged=converged)


def ladder(stages: tuple[float, ...], delta: float) -> tuple[float, ...]:
    """The stages above `delta`, and that."""
    return (*(stage for stage in stages if stage > delta), delta)


def _arrays(minima: Minima) -> tuple[Array, Array, Mask]:
    return minima.constants, minima.objective, minima.converged


def better(one: Minima, other: Minima) -> Minima:
    """Of two batches, the lower minimum of each problem."""
    wins = one.objective <= other.objective
    pairs = zip(_arrays(one), _arrays(other), strict=True)
    constants, objective, converged = (np.where(wins, a, b) for a, b in pairs)
    return Minima(constants=constants, objective=objective, converged=converged)


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


def names_at_bound(marks: Mask) -> tuple[str, ...]:
    """Names of the constants that are marked."""
    return tuple(name for name, mark in zip(NAMES, marks, strict=False) if mark)


def float_law(law: ScalingLaw) -> ScalingLaw:
    """The law with plain floats for constants."""
    return ScalingLaw(**{name: float(value) for name, value in law.constants.items()})
