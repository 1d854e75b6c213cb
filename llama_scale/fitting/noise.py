"""How noisy the runs are: one part shared by the branches of a trunk, one of each run alone.

Residuals of log loss are modelled as r_ij = t_i + e_ij, trunk i, branch j, both normal. With six trunks,
of which the law's own constants absorb about three, a bootstrap over trunks has almost nothing to
draw from, and a bootstrap over runs takes the branches of a trunk for independent. So the two
variances are estimated from the residuals by restricted likelihood (which pays for the constants that were
fitted), with their own uncertainty: their posterior under p(sd_own) ~ 1 / sd_own and, for the ratio
r = sd_trunk / sd_own, p(r) ~ (1 + r^2)^(-1/2): between the half-Cauchy and the flat prior that Gelman
2006 weighs for few groups. On sweeps of 6 trunks the first covers the best N too seldom (83 % at 90 %),
the flat one the loss too often (97 %); this one 90 % and 92 % (benchmarks/coverage.py).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llama_scale.fitting.newton import Array
from llama_scale.fitting.rows import count_different
from llama_scale.fitting.solver import Points
from llama_scale.frozen import frozen

ANGLES = np.linspace(0.0, np.radians(88.0), 120)


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
    """Derivatives (n, 5) of log predicted loss by E, A, B, alpha, beta, at centred constants (5,).

    With a sixth constant, k, there is a sixth column.
    """
    e, a, b, alpha, beta = constants[:5]
    k = constants[5] if len(constants) > 5 else 1.0
    u, v = np.exp(-alpha * points.x), np.exp(-beta * points.y)
    inner = a * u + b * v
    outer = k * inner ** (k - 1)
    parts = [u, v, -a * points.x * u, -b * points.y * v]
    parts += [inner * np.log(inner) / k] if len(constants) > 5 else []
    columns = np.stack([np.ones_like(u), *(outer * part for part in parts)], axis=1)
    return columns / (e + inner**k)[:, None]


def log_prediction(points: Points, constants: Array) -> Array:
    """Log predicted loss (n,) or (S, n) at centred constants (5,) or (5, S); a sixth one is k."""
    e, a, b, alpha, beta, *k = np.asarray(constants)[..., None]
    inner = a * np.exp(-alpha * points.x) + b * np.exp(-beta * points.y)
    return np.log(e + (inner ** k[0] if k else inner))


def estimate_noise(
    residuals: Array,
    design: Array,
    families: NDArray[np.intp],
    *,
    draws: int,
    generator: np.random.Generator,
) -> Noise:
    """Draw both standard deviations given least-squares residuals (n,) and the design (n, 5) that was fitted.

    The design's column space is projected out, so constants cost degrees of freedom. Where no two
    runs share a family the trunk's part is zero: it cannot be told from a run's own.
    """
    left = np.linalg.svd(design / np.linalg.norm(design, axis=0), full_matrices=True)[0]
    rest = left[:, design.shape[1] :]
    seen = rest.T @ residuals
    if count_different(families) == len(families):
        own = np.sqrt((seen**2).sum() / generator.chisquare(len(seen), draws))
        return Noise(trunk=np.zeros(draws), own=own)
    same = (families[:, None] == families).astype(float)
    shares, axes = np.linalg.eigh(rest.T @ same @ rest)
    ratios = np.tan(ANGLES) ** 2
    variances = 1 + ratios[:, None] * np.maximum(shares, 0)
    scaled = ((axes.T @ seen) ** 2 / variances).sum(axis=1)
    log_prior = 0.5 * np.log1p(ratios)  # of r as a density over its angle
    log_posterior = log_prior - 0.5 * np.log(variances).sum(axis=1) - 0.5 * len(seen) * np.log(scaled)
    chance = np.exp(log_posterior - log_posterior.max())
    picked = generator.choice(len(ratios), draws, p=chance / chance.sum())
    own = np.sqrt(scaled[picked] / generator.chisquare(len(seen), draws))
    return Noise(trunk=own * np.tan(ANGLES)[picked], own=own)
