"""The Skaling form L = E + (A N^-alpha + B D^-beta)^k, fitted, as Chinchilla is, by a sum of Huber losses.

E, k and the exponents trade against each other along long valleys, so steps are taken in a chart of what the
data fix well: the level T = E + G at the centre of log N and log D, G = (A + B)^k, the logs of the
slopes there, s = k G p alpha and t = k G (1 - p) beta with p = A / (A + B), and the logs of alpha, beta
and k, which only bend the surface. Steps are damped Gauss-Newton with weights psi(r) / r, batched over starts
and resamples. No prior holds the constants: where the runs show no irreducible loss, E ends at 0.

Shapes: S problems, n rows; constants (E, A, B, alpha, beta, k) centred, and chart, are (6, S).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from llama_scale.fitting.newton import EXPONENT_BOUNDS, K_BOUNDS, Array, Layout, Mask, solve_positive
from llama_scale.fitting.solver import (
    COARSE_GRID,
    DEFAULT_DELTA,
    Minima,
    Points,
    Solution,
    best_of,
    better,
)
from llama_scale.fitting.solver import solve as solve_chinchilla

AGREEMENT = 1e-4  # relative gap of objectives at which two starts have found the same minimum
MAX_STEPS = 200
TOLERANCE = 1e-7  # of the objective: two successive smaller falls, at little damping, end a descent
GIVE_UP = 1e8
LARGEST_STEP = 0.7  # of a logarithm
CURVATURE = 0.25  # of psi(r) / r, kept beyond delta: 1 bounds the loss from above but crawls
CHUNK = 1 << 15
STARTS_K = (0.12, 0.25, 0.5, 1.0)
QUICK_K = (0.15, 0.5)
STARTS_FLOOR = (0.0, 0.4, 0.7)  # E as a share of the loss at the centre
OTHER_FLOORS = (0.0, 0.4, 0.65)  # the same, of the further starts of resamples
STARTS_SHARE = (0.25, 0.5, 0.75)  # p
SIX = Layout.of("E", "A", "B", "alpha", "beta", "k")
LIMITS = np.log(np.array([EXPONENT_BOUNDS, EXPONENT_BOUNDS, K_BOUNDS]))


class Batch(NamedTuple):
    """Problems of one data set: log losses and weights (S, n)."""

    points: Points
    z: Array
    weights: Array

    def take(self, rows: Mask | slice) -> Batch:
        """The problems at `rows` of the batch."""
        return Batch(self.points, self.z[rows], self.weights[rows])


class Surface(NamedTuple):
    """Objective (S,), gradient (6, S) and curvature (6, 6, S) in the chart, and which rest at E = 0 (S,)."""

    value: Array
    gradient: Array
    matrix: Array
    on_floor: Mask

    def take(self, rows: Mask) -> Surface:
        """The problems at `rows` of the batch."""
        return Surface(self.value[rows], self.gradient[:, rows], self.matrix[:, :, rows], self.on_floor[rows])

    def where(self, chosen: Mask, other: Surface) -> Surface:
        """This surface for the problems that are chosen, the other for the rest."""
        return Surface(
            np.where(chosen, self.value, other.value),
            np.where(chosen, self.gradient, other.gradient),
            np.where(chosen, self.matrix, other.matrix),
            np.where(chosen, self.on_floor, other.on_floor),
        )


def solve(
    points: Points, *, delta: float = DEFAULT_DELTA, quick: bool = False, layout: Layout = SIX
) -> Solution:
    """The best minimum of many starts, which agree with the data's level and slopes at the centre.

    Where E, beta and k are free the Chinchilla form's own optimum is among them, so that the fit is
    never worse than that.
    """
    starts = starts_of(points, quick=quick, layout=layout)
    if not (layout.pins("E") or layout.pins("beta") or layout.pins("k")):
        neighbour = solve_chinchilla(points, delta=delta, grid=COARSE_GRID).constants
        starts = np.concatenate([starts, np.append(neighbour, 1.0)[:, None]], axis=1)
    return best_of(points, minimise(points, starts, delta=delta, layout=layout), layout)


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

    Minima at E = 0 and above it may both exist, so each resample descends from the full data's
    optimum (6,) and from its likes with other E; the lowest end counts.
    """
    count = len(weights if weights is not None else log_losses if log_losses is not None else ())
    starts = start[:, None] if layout.pins("E") else np.concatenate([start[:, None], likes(start)], axis=1)
    found = [
        minimise(
            points,
            np.tile(one[:, None], count),
            delta=delta,
            log_losses=log_losses,
            weights=weights,
            layout=layout,
        )
        for one in starts.T
    ]
    return functools.reduce(better, found)


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
    grid = np.meshgrid(QUICK_K if quick else STARTS_K, floors, STARTS_SHARE, indexing="ij")
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
) -> Minima:
    """Minimise each problem from its start (6, S)."""
    count, rows = starts.shape[1], len(points.x)
    batch = Batch(
        points,
        np.broadcast_to(points.z if log_losses is None else log_losses, (count, rows)),
        np.broadcast_to(points.weights if weights is None else weights * points.weights, (count, rows)),
    )
    width = max(1, CHUNK // rows)
    parts = []
    for first in range(0, count, width):
        part = slice(first, first + width)
        chart, value, converged = to_chart(starts[:, part]), np.zeros(0), np.zeros(0, bool)
        for stage in (*(d for d in (3e-2, 3e-3) if d > delta), delta):
            chart, value, converged = _descend(batch.take(part), chart, stage, layout)
        parts.append((to_constants(chart), value, converged))
    constants, objective, converged = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
    return Minima(constants=constants, objective=objective, converged=converged)


def to_chart(constants: Array) -> Array:
    """Chart (E, log s, log t, log alpha, log beta, log k): T is E + G, so E stands for it between steps."""
    e, a, b, alpha, beta, k = constants
    log_g = k * np.log(a + b)
    log_s = np.log(k * alpha) + log_g + np.log(a / (a + b))
    log_t = np.log(k * beta) + log_g + np.log(b / (a + b))
    return np.stack([e, log_s, log_t, np.log(alpha), np.log(beta), np.log(k)])


def to_constants(chart: Array) -> Array:
    """Constants (6, S) at a chart."""
    log_a, log_b = chart[1] - chart[3], chart[2] - chart[4]  # of k G p, k G (1 - p)
    log_sum, k = np.logaddexp(log_a, log_b), np.exp(chart[5])
    log_total = (log_sum - chart[5]) / k
    a, b = np.exp(log_total + log_a - log_sum), np.exp(log_total + log_b - log_sum)
    return np.stack([chart[0], a, b, *np.exp(chart[3:])])


def centre_excess(chart: Array) -> Array:
    """G (S,): the loss above E at the centre."""
    return np.exp(np.logaddexp(chart[1] - chart[3], chart[2] - chart[4]) - chart[5])


def expand(batch: Batch, chart: Array, delta: float, *, floor: bool = False) -> Surface:
    """Objective and its derivatives in (T, log s, log t, log alpha, log beta, log k); T rests where E = 0."""
    x, y = batch.points.x, batch.points.y
    log_a, log_b = chart[1] - chart[3], chart[2] - chart[4]
    log_sum, k = np.logaddexp(log_a, log_b), np.exp(chart[5])
    p, g = np.exp(log_a - log_sum)[:, None], np.exp(log_sum - chart[5])[:, None]
    bend_x, bend_y = np.multiply.outer(np.exp(chart[3]), x), np.multiply.outer(np.exp(chart[4]), y)
    u, v = p * np.exp(-bend_x), (1 - p) * np.exp(-bend_y)
    ratio = np.log(u + v)
    share = u / (u + v)
    k = k[:, None]
    excess = g * np.exp(k * ratio)
    loss = chart[0][:, None] + excess
    residual = np.log(loss) - batch.z
    clipped = np.clip(residual, -delta, delta)
    pull = batch.weights * clipped
    value = (pull * (residual - 0.5 * clipped)).sum(axis=-1)
    on_floor = (chart[0] <= 0) & (floor | ((pull / loss).sum(axis=-1) >= 0))
    # L = T - G + M in the open chart, L = M on the floor: G's part is left out there
    opened = np.where(on_floor[:, None], 0.0, g)
    level, inner, outer = excess / loss, opened / loss, 1 - k
    jacobian = np.empty((len(value), 6, len(x)))
    jacobian[:, 0] = np.where(on_floor[:, None], 0.0, 1 / loss)
    jacobian[:, 1] = level * (outer * p + k * share) - inner * p
    jacobian[:, 2] = level * (outer * (1 - p) + k * (1 - share)) - inner * (1 - p)
    jacobian[:, 3] = -jacobian[:, 1] - level * k * share * bend_x
    jacobian[:, 4] = -jacobian[:, 2] - level * k * (1 - share) * bend_y
    jacobian[:, 5] = level * (k * ratio - 1) + inner
    size = np.abs(residual)
    curve = batch.weights * np.where(size > delta, CURVATURE * delta / np.maximum(size, delta), 1.0)
    gradient = (jacobian @ pull[:, :, None])[..., 0].T
    matrix = (jacobian * curve[:, None]) @ jacobian.transpose(0, 2, 1)
    return Surface(value, gradient, matrix.transpose(1, 2, 0).copy(), on_floor)


def _descend(batch: Batch, chart: Array, delta: float, layout: Layout) -> tuple[Array, Array, Mask]:
    """Where each problem ends (6, S), its objective (S,), and whether it converged (S,)."""
    chart = chart.copy()
    chart[3:] = np.clip(chart[3:], LIMITS[:, :1], LIMITS[:, 1:])
    count = chart.shape[1]
    converged, live, damping = np.zeros(count, bool), np.arange(count), np.full(count, 1e-2)
    slow = np.zeros(count, int)
    here = expand(batch, chart, delta, floor=layout.pins("E"))
    objective = here.value.copy()
    for _ in range(MAX_STEPS):
        trial = _step(chart[:, live], here, damping, layout)
        there = expand(batch, trial, delta, floor=layout.pins("E"))
        better = there.value < here.value
        fall = np.where(better, here.value - there.value, 0.0)
        chart[:, live[better]] = trial[:, better]
        here = there.where(better, here)
        objective[live] = here.value
        slow = np.where(better, np.where(fall <= TOLERANCE * here.value, slow + 1, 0), slow)
        damping = np.where(better, damping * 0.2, damping * 8 + 1e-8)
        ended = (slow >= 2) | (damping > GIVE_UP) | (here.value < 1e-16)
        if ended.any():
            converged[live[ended]] = True
            keep = ~ended
            if not keep.any():
                break
            live, damping, slow, batch = live[keep], damping[keep], slow[keep], batch.take(keep)
            here = here.take(keep)
    return chart, objective, converged


def _step(chart: Array, here: Surface, damping: Array, layout: Layout) -> Array:
    """The next chart: a damped step, kept to the bounds, E not below 0."""
    low, high = LIMITS[:, :1], LIMITS[:, 1:]
    gradient, matrix = layout.reduced(here.gradient, here.matrix)
    at_low, at_high = np.zeros(chart.shape), np.zeros(chart.shape)
    at_low[3:], at_high[3:] = chart[3:] <= low, chart[3:] >= high
    still = np.zeros(chart.shape)
    still[0] = here.on_floor
    at_low, at_high, still = (layout.spread.T @ mark > 0 for mark in (at_low, at_high, still))
    pinned = still | (at_low & (gradient > 0)) | (at_high & (gradient < 0))
    gradient = np.where(pinned, 0.0, gradient)
    matrix = np.where(pinned[:, None] | pinned[None], 0.0, matrix)
    diagonal = np.arange(len(gradient))
    matrix[diagonal, diagonal] *= 1 + damping
    matrix[diagonal, diagonal] += 1e-14
    matrix[diagonal, diagonal] = np.where(pinned, 1.0, matrix[diagonal, diagonal])
    step = layout.spread @ solve_positive(matrix, -gradient)
    step *= np.minimum(1.0, LARGEST_STEP / np.maximum(np.abs(step[1:]).max(axis=0), 1e-300))
    trial = chart + step
    trial[3:] = np.clip(trial[3:], low, high)
    trial[0] = np.maximum(chart[0] + centre_excess(chart) + step[0] - centre_excess(trial), 0.0)
    trial[0] = np.where(here.on_floor | layout.pins("E"), 0.0, trial[0])
    return trial
