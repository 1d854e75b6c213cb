"""Bounded least squares of sigmoids, for one set of scores or thousands at once.

Unknowns are, in this order, floor, ceiling, steepness and midpoint.
"""

from __future__ import annotations

import numpy as np

from llama_scale.fitting.newton import Array
from llama_scale.laws import Sigmoid

LEAST_SPREAD = 0.02  # nats: losses nearer than that say nothing of a slope
STEEPEST, FLATTEST = 50.0, 0.05  # of the sigmoid, a nat
START_MIDDLES = np.linspace(-0.75, 1.25, 6)  # in spans of the losses, above the lowest
START_SLOPES = np.array([1.0, 3.0, 8.0, 20.0])  # times one over the span
STARTS = len(START_MIDDLES) * len(START_SLOPES)
LEAST_RISE = 1e-3
ITERATIONS, PATIENCE = 80, 4  # at most, and steps without a gain anywhere before it ends
FREE = 4  # constants


def best_sigmoid(loss: Array, score: Array) -> tuple[Array, int]:
    """The best unknowns (4,) of a grid of starts, floor and ceiling solved linearly, and how many agree."""
    span = max(float(np.ptp(loss)), LEAST_SPREAD)
    starts = []
    for middle in loss.min() + span * START_MIDDLES:
        for steepness in np.clip(START_SLOPES / span, FLATTEST, STEEPEST):
            share = 1 / (1 + np.exp(np.clip(steepness * (loss - middle), -60, 60)))
            design = np.stack([1 - share, share], axis=1)
            floor, ceiling = np.linalg.lstsq(design, score, rcond=None)[0]
            starts.append([floor, ceiling, steepness, middle])
    scores = np.broadcast_to(score, (len(starts), len(score)))
    found, cost = _minimise(loss, scores, np.array(starts), _bounds(loss))
    best = int(cost.argmin())
    return found[best], int((cost <= cost[best] * (1 + 1e-3) + 1e-12).sum())


def draw_sigmoids(loss: Array, score: Array, unknowns: Array, draws: int, seed: int) -> Sigmoid:
    """Refits of simulated scores: the curve plus its residuals, resampled and widened for lost freedom."""
    centre = score_of(unknowns, loss)
    residuals = (score - centre) * np.sqrt(len(loss) / max(1, len(loss) - FREE))
    generator = np.random.default_rng(seed)
    simulated = centre + residuals[generator.integers(len(loss), size=(draws, len(loss)))]
    found, _ = _minimise(loss, simulated, np.tile(unknowns, (draws, 1)), _bounds(loss))
    return sigmoid_of(found.T)


def sigmoid_of(unknowns: Array) -> Sigmoid:
    """The sigmoid, or batch of them, of unknowns (4,) or (4, S): floor, ceiling, steepness, midpoint."""
    floor, ceiling, steepness, middle = (float(v) if np.ndim(v) == 0 else v for v in unknowns)
    return Sigmoid(floor=floor, ceiling=ceiling, steepness=steepness, midpoint=middle)


def _minimise(loss: Array, scores: Array, starts: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
    """Bounded least squares of many problems at once: scores (S, n) from starts (S, 4), Levenberg-Marquardt.

    An unknown that rests on a bound, and would go beyond it, is held there for the step.
    """
    low, high = bounds
    at = _inside(starts, low, high)
    damping = np.full(len(at), 1e-3)
    residual, slope = _residuals(at, loss, scores)
    cost, still = (residual**2).sum(axis=1), 0
    for _ in range(ITERATIONS):
        gradient = np.einsum("sni,sn->si", slope, residual)
        held = ((at <= low) & (gradient > 0)) | ((at >= high) & (gradient < 0))
        free = ~held
        hessian = np.einsum("sni,snj->sij", slope, slope) * (free[:, :, None] & free[:, None, :])
        diagonal = np.einsum("sii->si", hessian)
        extra = damping[:, None] * diagonal + np.where(free, 1e-12, 1.0)
        hessian = hessian + extra[:, :, None] * np.eye(FREE)
        step = np.linalg.solve(hessian, np.where(free, -gradient, 0.0)[..., None])[..., 0]
        ahead = _inside(at + step, low, high)
        new_residual, new_slope = _residuals(ahead, loss, scores)
        new_cost = (new_residual**2).sum(axis=1)
        wins = new_cost < cost
        still = 0 if (new_cost < cost * (1 - 1e-9)).any() else still + 1
        at = np.where(wins[:, None], ahead, at)
        residual = np.where(wins[:, None], new_residual, residual)
        slope = np.where(wins[:, None, None], new_slope, slope)
        cost = np.where(wins, new_cost, cost)
        damping = np.clip(np.where(wins, damping / 3, damping * 4), 1e-9, 1e9)
        if still == PATIENCE:
            break
    return at, cost


def _inside(unknowns: Array, low: Array, high: Array) -> Array:
    """Within bounds, and the ceiling above the floor."""
    at = np.clip(unknowns, low, high)
    at[:, 1] = np.maximum(at[:, 1], at[:, 0] + LEAST_RISE)
    return at


def _residuals(unknowns: Array, loss: Array, scores: Array) -> tuple[Array, Array]:
    """Predicted less measured scores (S, n), and their derivatives (S, n, 4)."""
    floor, ceiling, steepness, middle = (column[:, None] for column in unknowns.T)
    share = 1 / (1 + np.exp(np.clip(steepness * (loss - middle), -60, 60)))
    bend = (ceiling - floor) * share * (1 - share)
    slope = np.stack([1 - share, share, -bend * (loss - middle), bend * steepness], axis=-1)
    return floor + (ceiling - floor) * share - scores, slope


def _bounds(loss: Array) -> tuple[Array, Array]:
    """Of floor, ceiling, steepness, midpoint: scores are fractions, the midpoint not far from the losses."""
    span = max(float(np.ptp(loss)), LEAST_SPREAD)
    low = np.array([0.0, LEAST_RISE, FLATTEST, max(0.0, loss.min() - 2 * span)])
    return low, np.array([1.0 - LEAST_RISE, 1.0, STEEPEST, loss.max() + span])


def score_of(unknowns: Array, loss: Array) -> Array:
    """The scores (n,) of losses (n,) under unknowns (4,)."""
    floor, ceiling, steepness, middle = unknowns
    return floor + (ceiling - floor) / (1 + np.exp(np.clip(steepness * (loss - middle), -60, 60)))
