"""What repeated data are worth: the two decays of Muennighoff et al. 2023, all their minima, and draws.

Where the law of data seen once is held fixed, as published, what is left is a surface over R_D* and R_N* with
many minima of almost one height, along a valley. So the surface is searched as a whole, from the ends of
which nothing is fitted better, and every minimum is told. Runs' own law: `repeated_joint`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llama_scale.fitting.newton import Array, Index, Mask
from llama_scale.frozen import frozen
from llama_scale.laws import RepeatedDataLaw, Repetition, ScalingLaw

LIMITS = (0.1, 1e4)  # of both decays; beyond them nothing decays, or everything at once
PUBLISHED_STARTS = 20.0  # the published search started from decays of 0 to 20
GRID = (64, 48)
MOST_CELLS = 4_000_000  # rows x grid: more rows, a coarser grid
FINE = 9  # points a side of the finer grid about a point
REFINEMENTS = 2  # of the grid, for draws
SAME_MINIMUM = 0.05  # minima nearer than this in the log of both decays are one
SHOWN_WITHIN = 0.02  # minima higher than the lowest by more, of its objective, are no rivals
MOST_MINIMA = 12
LOOSE_SHARE = 0.02
LIMIT_MARGIN = 1.05  # a decay so near a limit is at it


@frozen(eq=False)
class RepeatedRuns:
    """Runs with the unique tokens that they were trained on; arrays (n,), a weight a run."""

    parameters: Array
    tokens: Array
    unique_tokens: Array
    loss: Array

    def __len__(self) -> int:
        return len(self.loss)

    def take(self, index: Mask | Index) -> RepeatedRuns:
        """The runs at `index`."""
        return RepeatedRuns(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @property
    def seen_once(self) -> Mask:
        """Which runs saw no token twice."""
        return self.tokens <= self.unique_tokens * 1.001


class DecayMinimum(NamedTuple):
    """Decays at a minimum of the sum of Huber losses, those at a limit of the search, and the law there."""

    tokens_decay: float
    parameters_decay: float
    objective: float
    at_limit: tuple[str, ...]
    law: ScalingLaw

    @classmethod
    def at(cls, law: ScalingLaw, decays: tuple[float, float], objective: float) -> DecayMinimum:
        """One at these decays, of tokens and of parameters."""
        names = ("tokens_decay", "parameters_decay")
        at_limit = tuple(name for name, value in zip(names, decays, strict=True) if _is_at_limit(value))
        return cls(*decays, objective, at_limit, law)

    def with_parameters_decay(self, kept: float) -> DecayMinimum:
        """The same where no run tells the decay of parameters, and one is kept."""
        at_limit = tuple(name for name in self.at_limit if name != "parameters_decay")
        return self._replace(parameters_decay=kept, at_limit=at_limit)

    @property
    def repetition(self) -> Repetition:
        """The decays alone."""
        return Repetition(tokens_decay=self.tokens_decay, parameters_decay=self.parameters_decay)


def surface(
    law: ScalingLaw, runs: RepeatedRuns, tokens_decays: Array, parameters_decays: Array, delta: float
) -> Array:
    """Huber losses (I, J, n) of each run at each pair of decays (I,) and (J,).

    The terms of size and data are computed once for each decay, and only added for each pair.
    """
    repeated = RepeatedDataLaw(
        law=law,
        unique_tokens=runs.unique_tokens,
        repetition=Repetition(
            tokens_decay=tokens_decays[:, None], parameters_decay=parameters_decays[:, None]
        ),
    )
    by_data = law.B * repeated.effective_tokens(runs.tokens) ** -law.beta
    by_size = law.A * repeated.effective_parameters(runs.parameters) ** -law.alpha
    inner = np.asarray(by_data)[:, None] + np.asarray(by_size)[None]
    residuals = np.abs(np.log(law.E + inner**law.k) - np.log(runs.loss))
    return np.where(residuals < delta, residuals**2 / 2, delta * (residuals - delta / 2))


def height_at(law: ScalingLaw, runs: RepeatedRuns, decays: Iterable[float], delta: float) -> float:
    """The sum of Huber losses at one pair of decays, of tokens and of parameters."""
    first, second = (np.array([decay]) for decay in decays)
    return float(surface(law, runs, first, second, delta).sum())


def decay_minima(law: ScalingLaw, runs: RepeatedRuns, *, delta: float) -> tuple[DecayMinimum, ...]:
    """All minima of a grid over both decays, each descended to its bottom; the lowest first."""
    axes = _axes(GRID, len(runs))
    heights = surface(law, runs, *axes, delta).sum(axis=-1)
    starts = _local_minima(heights)
    order = sorted(starts, key=lambda cell: heights[cell])[: 2 * MOST_MINIMA]
    return distinct(_descend(law, runs, (axes[0][i], axes[1][j]), delta) for i, j in order)


def distinct(minima: Iterable[DecayMinimum]) -> tuple[DecayMinimum, ...]:
    """Those apart from each other that rival the lowest, which is first."""
    found: list[DecayMinimum] = []
    for minimum in minima:
        if not any(_distance(minimum, other) < SAME_MINIMUM for other in found):
            found.append(minimum)
    found.sort(key=lambda minimum: minimum.objective)
    ceiling = found[0].objective * (1 + SHOWN_WITHIN) + 1e-15
    return tuple(minimum for minimum in found if minimum.objective <= ceiling)[:MOST_MINIMA]


def published_choice(minima: Sequence[DecayMinimum]) -> DecayMinimum:
    """The lowest minimum among the published starts, 0 to 20 in both decays; the lowest of all without."""
    near = [
        minimum
        for minimum in minima
        if max(minimum.tokens_decay, minimum.parameters_decay) <= PUBLISHED_STARTS
    ]
    return (near or list(minima))[0]


def draw_decays(law: ScalingLaw, runs: RepeatedRuns, weights: Array, *, delta: float) -> Repetition:
    """The lowest pair of decays of each resample: `weights` (S, n) are counts of runs.

    Each is searched over the whole grid, then over two finer ones about its lowest point, to 2 % of a decay.
    """
    axes = _axes(GRID, len(runs))
    cells = _lowest(surface(law, runs, *axes, delta), weights)
    return _refined_together(law, runs, weights, axes, cells, delta)


def nearest_minimum(draws: Repetition, minima: Sequence[DecayMinimum]) -> Array:
    """The share of draws that lie nearest each minimum, in the logs of both decays."""
    points = np.log(np.stack([draws.tokens_decay, draws.parameters_decay]))
    bottoms = np.log([(minimum.tokens_decay, minimum.parameters_decay) for minimum in minima])
    distances = ((points.T[:, None] - bottoms) ** 2).sum(axis=-1)
    return np.bincount(distances.argmin(axis=1), minlength=len(minima)) / len(distances)


def loose_decays(draws: Repetition) -> list[tuple[str, float]]:
    """Decays of which over 2 % of the draws lie at the limits of the search, each with that share."""
    found = []
    for name in ("tokens_decay", "parameters_decay"):
        share = float(np.mean(_is_at_limit(np.asarray(getattr(draws, name)))))
        if share > LOOSE_SHARE:
            found.append((name, share))
    return found


def _axes(sides: tuple[int, int], rows: int) -> tuple[Array, Array]:
    shrink = min(1.0, np.sqrt(MOST_CELLS / (sides[0] * sides[1] * rows)))
    first, second = (np.geomspace(*LIMITS, max(8, int(side * shrink))) for side in sides)
    return first, second


def _local_minima(heights: Array) -> list[tuple[int, int]]:
    """Cells no higher than their eight neighbours; those of the edge too."""
    padded = np.pad(heights, 1, constant_values=np.inf)
    rows, columns = heights.shape
    sides = [
        padded[1 + i : 1 + i + rows, 1 + j : 1 + j + columns]
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
        if i or j
    ]
    lowest = np.all([heights <= side for side in sides], axis=0)
    return [(int(i), int(j)) for i, j in np.argwhere(lowest)]


def _descend(law: ScalingLaw, runs: RepeatedRuns, start: tuple[float, float], delta: float) -> DecayMinimum:
    """The bottom below a start, by a simplex: the surface has kinks at every run that is fitted exactly."""
    from scipy.optimize import minimize  # half a second to import, which other forms shouldn't wait for

    bounds = np.log(LIMITS)

    def height(logs: Array) -> float:
        return height_at(law, runs, np.exp(np.clip(logs, *bounds)), delta)

    scale = max(height(np.log(start)), 1e-30)
    simplex = np.log(start) + np.array([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1]])
    logs = np.log(start)
    for _ in range(2):  # again, from the bottom found: a simplex may have collapsed on a kink
        found = minimize(
            lambda at: height(at) / scale,
            logs,
            method="Nelder-Mead",
            options={"initial_simplex": simplex, "xatol": 1e-5, "fatol": 1e-9, "maxfev": 300},
        )
        logs = np.clip(found.x, *bounds)
        simplex = logs + np.array([[0.0, 0.0], [0.02, 0.0], [0.0, 0.02]])
    tokens, parameters = np.exp(logs).tolist()
    return DecayMinimum.at(law, (tokens, parameters), height(logs))


def _is_at_limit(decay: Any) -> Any:
    return (decay < LIMITS[0] * LIMIT_MARGIN) | (decay > LIMITS[1] / LIMIT_MARGIN)


def _distance(one: DecayMinimum, other: DecayMinimum) -> float:
    return max(
        abs(np.log(one.tokens_decay / other.tokens_decay)),
        abs(np.log(one.parameters_decay / other.parameters_decay)),
    )


def _lowest(losses: Array, weights: Array) -> NDArray[np.intp]:
    """The lowest cell (S, 2) of each resample, of losses (I, J, n)."""
    rows, columns, runs = losses.shape
    heights = losses.reshape(rows * columns, runs) @ weights.T
    return np.stack(np.divmod(heights.argmin(axis=0), columns), axis=1)


def _refined_together(
    law: ScalingLaw,
    runs: RepeatedRuns,
    weights: Array,
    axes: tuple[Array, Array],
    cells: NDArray[np.intp],
    delta: float,
) -> Repetition:
    """Lowest points of ever finer grids, one for each point that any resample has lowest so far."""
    found = np.stack([axes[0][cells[:, 0]], axes[1][cells[:, 1]]], axis=1)
    steps = np.array([axis[1] / axis[0] for axis in axes])
    for _ in range(REFINEMENTS):
        for point in np.unique(found, axis=0):
            mine = (found == point).all(axis=1)
            first, second = (_about(*pair) for pair in zip(point, steps, strict=True))
            best = _lowest(surface(law, runs, first, second, delta), weights[mine])
            found[mine] = np.stack([first[best[:, 0]], second[best[:, 1]]], axis=1)
        steps = steps ** (2 / (FINE - 1))
    return Repetition(tokens_decay=found[:, 0], parameters_decay=found[:, 1])


def _about(centre: float, step: float) -> Array:
    """A finer axis from one step below a point to one above, within the limits."""
    return np.geomspace(max(centre / step, LIMITS[0]), min(centre * step, LIMITS[1]), FINE)
