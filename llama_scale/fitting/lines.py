"""Power laws through optima: G C^a by least squares of logs, with the draws of both constants."""

from __future__ import annotations

import numpy as np

from llama_scale.fitting.rows import Array
from llama_scale.frozen import frozen
from llama_scale.laws import Range, central_range


@frozen(eq=False)
class PowerLine:
    """An optimum that grows as G C^a. `draws` (2, S) are exponents and log coefficients; (2, 0) for none."""

    exponent: float
    log_coefficient: float
    draws: Array

    def at(self, train_flops: float) -> float:
        """The optimum at a budget."""
        return float(np.exp(self.log_coefficient + self.exponent * np.log(train_flops)))

    def range_at(self, train_flops: float, level: float) -> Range | None:
        """The middle `level` of the draws of that optimum; None without draws."""
        if not self.draws.shape[1]:
            return None
        low, high = central_range(self.draws[1] + self.draws[0] * np.log(train_flops), level)
        return Range(float(np.exp(low)), float(np.exp(high)))

    def exponent_range(self, level: float) -> Range | None:
        """The middle `level` of the draws of the exponent; None without draws."""
        return central_range(self.draws[0], level) if self.draws.shape[1] else None


def power_line(log_flops: Array, log_optima: Array, drawn: Array, drawn_at: Array | None = None) -> PowerLine:
    """Through optima (n,), and through each column of `drawn` (m, S), at the same FLOPs or at others (m,)."""
    exponent, coefficient = line_constants(log_flops, log_optima[:, None])
    return PowerLine(
        exponent=float(exponent[0]),
        log_coefficient=float(coefficient[0]),
        draws=np.stack(line_constants(log_flops if drawn_at is None else drawn_at, drawn)),
    )


def line_constants(log_flops: Array, log_optima: Array) -> tuple[Array, Array]:
    """Slopes and intercepts (S',) of columns (n, S) over their finite entries, of which they need three."""
    known = np.isfinite(log_optima)
    enough = known.sum(axis=0) >= 3
    known, optima = known[:, enough], log_optima[:, enough]
    count = np.maximum(known.sum(axis=0), 1)
    x, y = np.where(known, log_flops[:, None], 0.0), np.where(known, optima, 0.0)
    mean_x, mean_y = x.sum(axis=0) / count, y.sum(axis=0) / count
    apart = np.where(known, x - mean_x, 0.0)
    slopes = (apart * y).sum(axis=0) / np.maximum((apart**2).sum(axis=0), 1e-300)
    return slopes, mean_y - slopes * mean_x
