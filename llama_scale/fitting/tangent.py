"""Near which constants resamples have their minima: those of their problems with predictions made linear.

In the open chart of `newton` log predictions bend little about the whole data's fit, so that the tangent
problem, which is convex, leads a resample to within a few steps of its minimum. And all resamples share
one design: a look costs three matrix products, no exponentials and no logarithms.

Shapes: S problems, n rows, f coordinates that move; moves are (f, S), arrays over rows (S, n).
"""

from __future__ import annotations

import numpy as np

from llama_scale.fitting.descent import Array, Batch, Index, Mask, Problems, Surface, descend
from llama_scale.fitting.newton import (
    EXPONENT_BOUNDS,
    LARGEST_TURN,
    Layout,
    damped_step,
    to_chart,
    to_constants,
)
from llama_scale.frozen import frozen

STAGES = (1e-1, 1e-2)  # deltas on the way: at small ones no residual near the start may be within reach
TOLERANCE = 1e-4  # of the objective: what predictions bend makes nearer minima no nearer


@frozen
class TangentMoves:
    """How problems move (`descent.Moves`) whose log predictions are `base` (n,) + `design` (n, f) @ move."""

    base: Array
    design: Array
    products: Array
    tolerance: float = TOLERANCE
    releases: int = 0

    @classmethod
    def at(cls, chart: Array, x: Array, y: Array, layout: Layout) -> TangentMoves:
        """Those of the law at a chart (5,), which is L = T + s (e^(-alpha x) - 1) / alpha + the like of D."""
        level, s, t, alpha, beta = chart
        u, v = np.exp(-alpha * x), np.exp(-beta * y)
        of_s, of_t = (u - 1) / alpha, (v - 1) / beta
        loss = level + s * of_s + t * of_t
        of_exponents = s * (-x * u - of_s) / alpha, t * (-y * v - of_t) / beta
        slopes = np.stack([np.ones_like(x), of_s, of_t, *of_exponents], axis=1) / loss[:, None]
        design = slopes @ layout.spread[:5]
        one, other = np.tril_indices(design.shape[1])
        products = design[:, one] * design[:, other]
        return cls(base=np.log(loss), design=design, products=products)

    def inside(self, chart: Array) -> Array:
        return chart.copy()

    def expand(self, batch: Batch, chart: Array, floor: Mask) -> Surface:
        residual = chart.T @ self.design.T
        residual += self.base
        residual -= batch.z
        clipped = np.minimum(np.maximum(residual, -batch.delta), batch.delta)
        pull = batch.weights * clipped
        curve = batch.weights * (clipped == residual)
        clipped *= -0.5
        clipped += residual
        value = np.vecdot(pull, clipped)
        one, other = np.tril_indices(len(chart))
        hessian = np.empty((len(chart), *chart.shape))
        hessian[one, other] = hessian[other, one] = (curve @ self.products).T
        return Surface(value, np.zeros_like(value), (pull @ self.design).T, hessian)

    def between(self, here: Array, there: Array) -> Array:
        return there - here

    def step(
        self, problem: Index, chart: Array, here: Surface, damping: Array, floor: Mask
    ) -> tuple[Array, Array, Mask]:
        step, fall = damped_step(here.gradient, here.hessian, damping, np.zeros(chart.shape, bool))
        return chart + step, fall, floor


def tangent_minima(
    problems: Problems, start: Array, *, deltas: tuple[float, ...], layout: Layout
) -> list[Array]:
    """Constants (5, S) at the minima of tangent problems about a start (5,), or on the way to far ones.

    For each of falling deltas, every one from the minima at that before it.
    """
    chart = to_chart(start[:, None], True)
    moves = TangentMoves.at(chart[:, 0], problems.x[0], problems.y[0], layout)
    move = np.zeros((len(layout.free), len(problems.of)))
    way = tuple(stage for stage in STAGES if stage > deltas[0])
    minima = []
    for delta in deltas:
        move, _, _ = descend(problems, move, moves, deltas=(*way, delta))
        minima.append(_moved(chart, layout.spread[:5] @ move))
        way = ()
    return minima


def _moved(chart: Array, step: Array) -> Array:
    """Constants (5, S) where steps (5, S) from one chart (5, 1) end, which turn no exponent too far."""
    there = chart + step * np.minimum(1.0, LARGEST_TURN / np.maximum(np.abs(step[3:]).max(axis=0), 1e-300))
    there[3:] = np.clip(there[3:], *EXPONENT_BOUNDS)
    return to_constants(there, True)
