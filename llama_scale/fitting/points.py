"""Data sets as solvers take them: centred logs, and what their resamples differ in."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from llama_scale.fitting.descent import Array, Index, Problems
from llama_scale.frozen import frozen
from llama_scale.laws import ScalingLaw


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

    def problems(
        self, count: int = 1, *, log_losses: Array | None = None, weights: Array | None = None
    ) -> Problems:
        """So many problems of these rows, or one of each row of log losses or weights (R, n) in their place.

        Weights have mean 1, so that steps are alike.
        """
        unit = float(self.weights.mean())
        z = self.z[None] if log_losses is None else log_losses
        shares = self.weights[None] / unit if weights is None else self.weights / unit * weights
        sets = max(len(z), len(shares))
        of = np.zeros(count, np.intp) if sets == 1 else np.arange(sets)
        z, shares = map(np.ascontiguousarray, (z, shares))  # strided rows make every look twice as slow
        return Problems(self.x[None], self.y[None], z, shares, of, units=np.array([unit]))

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
        return cls(points, start, points.problems(log_losses=log_losses, weights=weights))

    def take(self, index: Index) -> Case:
        """Those at `index`."""
        return self._replace(problems=self.problems._replace(of=self.problems.of[index]))
