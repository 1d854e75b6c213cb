"""Damped Newton with the exact Hessian on thousands of small robust fits at once, in plain numpy.

Each problem minimises sum_i w_i Huber_delta(log L_hat_i - z_i), L_hat = E + A e^(-alpha x) + B e^(-beta y),
with x, y the centred logs of N and D. In those constants the valley is long and bent: a lower E is
paid for by a flatter, larger A. So steps are taken in a chart in which it is nearly straight:

    open chart   (T, s, t, alpha, beta)    T = E + A + B the level at the centre, s = alpha A and
                                           t = beta B the slopes there; exponents only bend the curve
    floor chart  (-, log A, log B, alpha, beta)    E = 0, for problems whose minimum would have E < 0

In the open chart every one of 196 starts reaches the optimum of each of six public data sets, in about
25 steps; in (log E, log A, log B, alpha, beta) many still crawl after 300.

Shapes: S problems, n rows; constants and coordinates are (5, S), arrays over rows (S, n).
"""

from __future__ import annotations

import numpy as np

from llama_scale.fitting.descent import Array, Batch, Index, Mask, Problems, Surface
from llama_scale.frozen import frozen

NAMES = ("E", "A", "B", "alpha", "beta", "k")
EXPONENT_BOUNDS = (0.01, 4.0)
K_BOUNDS = (0.05, 2.0)  # of the outer power, where a form has one
TOLERANCE = 1e-13  # of the objective: a smaller promised fall is rest
LARGEST_TURN = 0.3  # of an exponent, in one step
SLOPES, EXPONENTS = np.array([1, 2]), np.array([3, 4])  # rows of the charts


@frozen
class Layout:
    """Which constants of a form move, and which move as one: its minimum is sought over those alone.

    A linear parametrisation of the chart. `free` names the coordinates that move, `spread` (6, f) holds a
    one where a constant follows one of them; a constant whose row is zero is pinned at its start. As
    a constant and its logarithm are tied alike, the same matrix serves charts and constants.
    """

    free: tuple[str, ...]
    spread: Array

    @classmethod
    def of(cls, *groups: str) -> Layout:
        """From groups of constants, such as "E", "A", "B", "alpha=beta"; constants not named are pinned."""
        members = [group.split("=") for group in groups]
        spread = np.array([[float(name in names) for names in members] for name in NAMES])
        return cls(free=tuple(names[0] for names in members), spread=spread)

    @property
    def rows(self) -> list[int]:
        """Rows of the constants that move; of those that are tied, the first."""
        return [NAMES.index(name) for name in self.free]

    def pins(self, name: str) -> bool:
        """Whether a constant stays where it is."""
        return not self.spread[NAMES.index(name)].any()

    def ties(self, one: str, other: str) -> bool:
        """Whether two constants move as one."""
        return bool((self.spread[NAMES.index(one)] * self.spread[NAMES.index(other)]).any())

    def reduced(self, gradient: Array, matrix: Array) -> tuple[Array, Array]:
        """Gradient (f, S) and curvature (f, f, S) in the free coordinates, from those in the chart."""
        spread = self.spread[: len(gradient)]
        if spread.shape[0] == spread.shape[1]:
            return gradient, matrix
        return spread.T @ gradient, np.einsum("if,ijs,jg->fgs", spread, matrix, spread)


FIVE = Layout.of("E", "A", "B", "alpha", "beta")
SIX = Layout.of("E", "A", "B", "alpha", "beta", "k")


def expand(batch: Batch, constants: Array) -> tuple[Array, Array, Array]:
    """Objective (S,), gradient (5, S) and Hessian (5, 5, S) in E, A, B, alpha, beta.

    With q = 1 / L_hat, u = q e^(-alpha x), v = q e^(-beta y), every entry is a sum over rows of products of
    q, u, v, x u and y v. Arrays over rows are used again, as fresh memory costs as much as arithmetic.
    """
    x, y, dot = batch.x, batch.y, np.vecdot
    big_e, big_a, big_b, alpha, beta = constants[..., None]
    u, v = x * -alpha, y * -beta
    np.exp(u, out=u)
    np.exp(v, out=v)
    level, spare = big_a * u, big_b * v
    level += spare
    level += big_e
    np.maximum(level, 1e-3, out=level)  # a step to a negative loss is priced so high that it is refused
    residual = np.log(level, out=spare)
    residual -= batch.z
    q = np.divide(1.0, level, out=level)
    u *= q
    v *= q
    clipped = np.maximum(residual, -batch.delta)
    np.minimum(clipped, batch.delta, out=clipped)
    pull = batch.weights * clipped
    curve = batch.weights * (clipped == residual)
    curve -= pull
    clipped *= -0.5
    clipped += residual
    value = dot(pull, clipped)
    slopes = q, u, v, np.multiply(u, x, out=residual), np.multiply(v, y, out=clipped)

    sizes = np.ones_like(constants)
    np.negative(constants[1:3], out=sizes[3:])
    g = np.stack([dot(pull, slope) for slope in slopes])
    h, part = np.empty((5, 5, len(value))), np.empty_like(curve)
    for i, slope in enumerate(slopes):
        np.multiply(curve, slope, out=part)
        for j in range(i, 5):
            h[i, j] = h[j, i] = dot(part, slopes[j])
    h *= sizes[:, None] * sizes
    for i, logs in ((1, x), (2, y)):
        h[i, i + 2] -= g[i + 2]
        h[i + 2, i] -= g[i + 2]
        h[i + 2, i + 2] += constants[i] * dot(pull, np.multiply(slopes[i + 2], logs, out=part))
    g *= sizes
    return value, g, h


def to_constants(chart: Array, is_open: bool) -> Array:
    """Constants (5, S) at coordinates of the open or the floor chart."""
    level, s, t, alpha, beta = chart
    if not is_open:
        return np.stack([np.zeros_like(level), np.exp(s), np.exp(t), alpha, beta])
    big_a, big_b = s / alpha, t / beta
    return np.stack([level - big_a - big_b, big_a, big_b, alpha, beta])


def to_chart(constants: Array, is_open: bool) -> Array:
    """Coordinates of constants (5, S); the floor chart forgets E."""
    big_e, big_a, big_b, alpha, beta = constants
    if not is_open:
        return np.stack([np.zeros_like(big_e), np.log(big_a), np.log(big_b), alpha, beta])
    return np.stack([big_e + big_a + big_b, alpha * big_a, beta * big_b, alpha, beta])


def _pull_back(chart: Array, is_open: bool, g: Array, h: Array) -> tuple[Array, Array]:
    """Gradient and Hessian in the chart's coordinates, from those in the constants."""
    gradient, hessian = g.copy(), h.copy()
    slopes, exponents = chart[1:3], chart[3:]
    if not is_open:
        _scale_slopes(gradient, hessian, np.exp(slopes))
        gradient[0] = hessian[0] = hessian[:, 0] = 0.0
        hessian[SLOPES, SLOPES] += gradient[1:3]
        return gradient, hessian
    # E = T - A - B, A = s / alpha, B = t / beta: first by A and B at fixed T, then by exponents at fixed s, t
    gradient[1:3] -= g[0]
    hessian[1:3] -= hessian[0]
    hessian[:, 1:3] -= hessian[:, :1]
    shear, excess = slopes / exponents**2, gradient[1:3] / exponents**2
    gradient[3:] -= shear * gradient[1:3]
    hessian[3:] -= shear[:, None] * hessian[1:3]
    hessian[:, 3:] -= shear * hessian[:, 1:3]
    _scale_slopes(gradient, hessian, 1 / exponents)
    hessian[SLOPES, EXPONENTS] -= excess
    hessian[EXPONENTS, SLOPES] -= excess
    hessian[EXPONENTS, EXPONENTS] += 2 * excess * slopes / exponents
    return gradient, hessian


def _scale_slopes(gradient: Array, hessian: Array, scale: Array) -> None:
    """Turn derivatives by A and B, in place, into those by what A and B are `scale` (2, S) times."""
    gradient[1:3] *= scale
    hessian[1:3] *= scale[:, None]
    hessian[:, 1:3] *= scale


def box_of(problems: Problems, is_open: bool) -> tuple[Array, Array]:
    """Box (5, S) of the coordinates: slopes are not negative, exponents stay within EXPONENT_BOUNDS.

    Each problem's is by its own losses alone, so that it ends where it would without the others.
    """
    weighty = problems.weights > 0
    least = np.where(weighty, problems.z, np.inf).min(axis=1)
    most = np.where(weighty, problems.z, -np.inf).max(axis=1)
    if len(least) > 1:
        least, most = least[problems.of], most[problems.of]
    low, high = (np.full(len(least), bound) for bound in EXPONENT_BOUNDS)
    if is_open:
        least, most = np.exp(least), np.exp(most)
        floor, ceiling = [least / 4, 1e-9 * least, 1e-9 * least], [4 * most, 100 * most, 100 * most]
    else:
        zero = np.zeros(len(least))
        floor, ceiling = [zero, least - 20, least - 20], [zero, most + 5, most + 5]
    return np.stack([*floor, low, low]), np.stack([*ceiling, high, high])


@frozen
class FiveMoves:
    """How problems without an outer power move (`descent.Moves`): in one chart, each within its box."""

    is_open: bool
    low: Array
    high: Array
    layout: Layout = FIVE
    tolerance: float = TOLERANCE
    releases: int = 0

    @classmethod
    def of(cls, problems: Problems, *, is_open: bool, layout: Layout = FIVE) -> FiveMoves:
        """The moves of these problems."""
        low, high = box_of(problems, is_open)
        return cls(is_open=is_open, low=low, high=high, layout=layout)

    def inside(self, chart: Array) -> Array:
        return np.clip(chart, self.low, self.high)

    def expand(self, batch: Batch, chart: Array, floor: Mask) -> Surface:
        value, slopes, bends = expand(batch, to_constants(chart, self.is_open))
        return Surface(value, slopes[0], *_pull_back(chart, self.is_open, slopes, bends))

    def between(self, here: Array, there: Array) -> Array:
        return there - here

    def step(
        self, problem: Index, chart: Array, here: Surface, damping: Array, floor: Mask
    ) -> tuple[Array, Array, Mask]:
        low, high = (side if side.shape[1] == 1 else side[:, problem] for side in (self.low, self.high))
        slope, matrix = self.layout.reduced(here.gradient, here.hessian)
        spread = self.layout.spread[:5]
        at_low, at_high = spread.T @ np.array([chart <= low, chart >= high], float) > 0
        pinned = (at_low & ((slope > 0) | at_high)) | (at_high & (slope < 0))
        step, fall = damped_step(slope, matrix, damping, pinned)
        step = spread @ step
        step *= np.minimum(1.0, LARGEST_TURN / np.maximum(np.abs(step[3:]).max(axis=0), 1e-300))
        step += chart
        return np.clip(step, low, high, out=step), fall, floor


def damped_step(gradient: Array, hessian: Array, damping: Array, pinned: Mask) -> tuple[Array, Array]:
    """Steps (f, S), with pinned coordinates at rest, and the fall that the quadratic model promises (S,)."""
    if pinned.any():
        gradient = np.where(pinned, 0.0, gradient)
        matrix = np.where(pinned[:, None] | pinned[None], 0.0, hessian)
    else:
        matrix = hessian.copy()
    diagonal = np.einsum("iis->is", matrix)  # a view
    diagonal += damping * (np.abs(diagonal) + 1e-12)
    diagonal[pinned] = 1.0
    step = solve_positive(matrix, -gradient)
    return step, -0.5 * np.einsum("is,is->s", gradient, step)


def solve_positive(matrix: Array, right: Array) -> Array:
    """Solve M s = r, (k, k, S) and (k, S), by LDL' factors with pivots made positive: every step descends.

    Loops over the few unknowns, not over problems: many times faster than numpy's batched LAPACK at k = 5.
    """
    size = len(right)
    # the right side is one more column, which elimination carries along
    rest = np.concatenate([matrix, right[:, None]], axis=1)
    tiny = 1e-12 * np.abs(np.einsum("iis->is", matrix)) + 1e-300
    for j in range(size):
        pivot = np.maximum(np.abs(rest[j, j]), tiny[j])
        scaled = rest[j, j + 1 :] / pivot
        rest[j + 1 :, j + 1 :] -= rest[j, j + 1 : size, None] * scaled
        rest[j, j + 1 :] = scaled
    solution = rest[:, size]
    for j in reversed(range(size - 1)):
        solution[j] -= np.einsum("is,is->s", rest[j, j + 1 : size], solution[j + 1 :])
    return solution
