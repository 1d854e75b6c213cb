"""How noisy the runs are: one part shared by the branches of a trunk, one of each run alone.

Residuals of log loss are modelled as r_ij = t_i + e_ij, trunk i, branch j, both normal. With six trunks,
of which the law's own constants absorb about three, a bootstrap over trunks has almost nothing to
draw from, and a bootstrap over runs takes the branches of a trunk for independent. So the two
variances are estimated from the residuals by restricted likelihood (which pays for the constants that were
fitted), with their own uncertainty: their posterior under p(sd_own) ~ 1 / sd_own and, for the ratio
r = sd_trunk / sd_own, p(r) ~ (1 + r^2)^(-1/2): between the half-Cauchy and the flat prior that Gelman
2006 weighs for few groups. On sweeps of 6 trunks the first covers the best N too seldom (83 % at 90 %),
the flat one the loss too often (97 %); this one 90 % and 92 % (draws without a drift).

The noisier trunks are, the more the law may follow the branches of each and leave their levels. How closely
it can is found with the law itself: a likelihood that was linear in the constants took E and exponents far
below zero, and put 2.7 % of noise on trunks whose repeats differed by .4 %.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llama_scale.fitting.newton import Array, Layout
from llama_scale.fitting.points import Points
from llama_scale.frozen import frozen

ANGLES = np.linspace(0.0, np.radians(88.0), 60)
STEPS = 40  # of Levenberg-Marquardt
FIRST_DAMPING = 1e-2


@frozen
class Noise:
    """Relative standard deviations, drawn from their posterior, (S,) each: of a trunk, and of a run alone."""

    trunk: Array
    own: Array

    @property
    def total(self) -> Array:
        """Of one run on a trunk that was not seen."""
        return np.hypot(self.trunk, self.own)

    def simulate(self, families: NDArray[np.intp], generator: np.random.Generator) -> Array:
        """Noise of log loss (S, n) for runs of these families, one realisation a draw."""
        shape = (len(self.own), int(families.max()) + 1)
        shared = self.trunk[:, None] * generator.standard_normal(shape)
        alone = self.own[:, None] * generator.standard_normal((len(self.own), len(families)))
        return shared[:, families] + alone


def jacobian(points: Points, constants: Array) -> Array:
    """Derivatives (n, 5) or (S, n, 5) of log predicted loss by E, A, B, alpha, beta, at centred constants.

    Those are (5,) or (5, S). With a sixth constant, k, there is a sixth column.
    """
    e, a, b, alpha, beta, *outer_power = np.asarray(constants)[..., None]
    k = outer_power[0] if outer_power else 1.0
    u, v = np.exp(-alpha * points.x), np.exp(-beta * points.y)
    inner = a * u + b * v
    outer = k * inner ** (k - 1)
    parts = [u, v, -a * points.x * u, -b * points.y * v]
    parts += [inner * np.log(inner) / k] if outer_power else []
    columns = np.stack([np.ones_like(u), *(outer * part for part in parts)], axis=-1)
    return columns / (e + inner**k)[..., None]


def log_prediction(points: Points, constants: Array) -> Array:
    """Log predicted loss (n,) or (S, n) at centred constants (5,) or (5, S); a sixth one is k."""
    e, a, b, alpha, beta, *k = np.asarray(constants)[..., None]
    inner = a * np.exp(-alpha * points.x) + b * np.exp(-beta * points.y)
    return np.log(e + (inner ** k[0] if k else inner))


def noise_about(estimate: float, freedom: int, draws: int, generator: np.random.Generator) -> Noise:
    """Noise of runs without trunks: its posterior under p(sd) ~ 1 / sd, with the freedom that is left."""
    freedom = max(freedom, 1)
    own = estimate * np.sqrt(freedom / generator.chisquare(freedom, draws))
    return Noise(trunk=np.zeros(draws), own=own)


def estimate_noise(
    points: Points,
    constants: Array,
    layout: Layout,
    families: NDArray[np.intp],
    *,
    draws: int,
    generator: np.random.Generator,
) -> Noise:
    """Draw both standard deviations, given the constants (5,) or (6,) of a least-squares fit.

    The fitted constants cost degrees of freedom. Some runs must share a family: else nothing tells the two
    apart.
    """
    design = jacobian(points, constants) @ layout.spread[: len(constants)]
    free = len(points.z) - design.shape[1]
    shared = Shared.of(families, np.tan(ANGLES) ** 2)
    squares = _least_squares(points, constants, layout, shared)
    lengths = np.linalg.norm(design, axis=0)
    volume = shared.volume + np.linalg.slogdet(shared.products(design / lengths, design / lengths))[1]
    log_prior = 0.5 * np.log1p(shared.ratios)  # of r as a density over its angle
    log_posterior = log_prior - 0.5 * volume - 0.5 * free * np.log(squares)
    chance = np.exp(log_posterior - log_posterior.max())
    picked = generator.choice(len(chance), draws, p=chance / chance.sum())
    own = np.sqrt(squares[picked] / generator.chisquare(free, draws))
    return Noise(trunk=own * np.tan(ANGLES)[picked], own=own)


@frozen
class Shared:
    """Covariances I + ratio * (same family), one a ratio (R,): log determinants, and products over them."""

    ratios: Array
    members: Array  # (F, n), a one where a run is of a family
    shares: Array  # (R, F) of squared family sums, which the inverse takes away
    volume: Array

    @classmethod
    def of(cls, families: NDArray[np.intp], ratios: Array) -> Shared:
        members = (np.arange(families.max() + 1)[:, None] == families).astype(float)
        grown = ratios[:, None] * members.sum(axis=1)
        return cls(
            ratios=ratios,
            members=members,
            shares=ratios[:, None] / (1 + grown),
            volume=np.log1p(grown).sum(axis=1),
        )

    def products(self, left: Array, right: Array) -> Array:
        """Products (R, i, j) of columns (n, i) or (R, n, i) with (n, j) or (R, n, j)."""
        sums = self.shares[..., None] * (self.members @ left), self.members @ right
        return np.swapaxes(left, -1, -2) @ right - np.swapaxes(sums[0], -1, -2) @ sums[1]


def _least_squares(points: Points, constants: Array, layout: Layout, shared: Shared) -> Array:
    """Least squares (R,) of residuals over each covariance, by Levenberg-Marquardt in log constants."""
    spread = layout.spread[: len(constants)]

    def residuals(moves: Array) -> tuple[Array, Array, Array]:
        here = constants[:, None] * np.exp(spread @ moves.T)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # a step too far is not taken
            left = (points.z - log_prediction(points, here))[..., None]
            return here, left, shared.products(left, left)[:, 0, 0]

    moves = np.zeros((len(shared.ratios), spread.shape[1]))
    damping = np.full(len(moves), FIRST_DAMPING)
    here, left, squares = residuals(moves)
    for _ in range(STEPS):
        slopes = (jacobian(points, here) * here.T[:, None]) @ spread
        matrix = shared.products(slopes, slopes)
        sizes = np.einsum("rii->ri", matrix)
        lift = damping[:, None] * sizes + 1e-9 * sizes.max(axis=1, keepdims=True)
        matrix = matrix + lift[:, None] * np.eye(spread.shape[1])
        step = np.linalg.solve(matrix, shared.products(slopes, left))[..., 0]
        tried = moves + np.clip(step, -1.0, 1.0)
        there, left_there, squares_there = residuals(tried)
        better = squares_there < squares
        moves[better], left[better], squares[better] = (
            tried[better],
            left_there[better],
            squares_there[better],
        )
        here = np.where(better, there, here)
        damping = np.where(better, damping / 5, damping * 3)
    return np.maximum(squares, np.finfo(float).tiny)  # losses of a law itself leave nothing
