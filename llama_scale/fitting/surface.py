"""The objective of the six-constant form and its exact derivatives, for thousands of problems at once.

Each problem is sum_i w_i Huber_delta(log L_hat_i - z_i) with L_hat = E + (A e^(-alpha x) + B e^(-beta y))^k,
x and y the centred logs of N and D. E, k and the exponents trade against each other along long valleys,
so derivatives are taken in a chart of what data fix well, in which the valleys are nearly straight:

    T           the level at the centre, E + G with G = (A + B)^k
    log s       s = k G p alpha, the slope in log N there, p = A / (A + B)
    log t       t = k G (1 - p) beta, the slope in log D
    log alpha, log beta, log k: these only bend the surface

With a = log s - log alpha and b = log t - log beta the excess over E is exp(h), h = log G + k R, where
log G = log(e^a + e^b) - log k and R = log(p e^(-alpha x) + (1 - p) e^(-beta y)). On the floor E is 0,
log L_hat = h, and T is no coordinate.

Shapes: S problems, n rows; charts (E, log s, log t, log alpha, log beta, log k) and constants
(E, A, B, alpha, beta, k) are (6, S), E standing for T between steps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from llama_scale.fitting.descent import Array, Batch, Mask, Surface

UPPER = np.triu_indices(5, 1)
LEAST_TERM = 1e-300  # of A and B, centred, or their slopes: a logarithm is taken of them
ACROSS = np.array([1.0, -1.0, -1.0, 1.0])  # of a - b, by log s, log t, log alpha, log beta


class Centre(NamedTuple):
    """A chart at the centre of the data, (S,) each: G, p and k; `lean` (5, S) is the gradient of log G."""

    excess: Array
    share: Array
    k: Array
    lean: Array


def to_chart(constants: Array) -> Array:
    """The chart of constants (6, S), of which A and B may have sunk to 0."""
    e, alpha, beta, k = constants[[0, 3, 4, 5]]
    a, b = np.maximum(constants[1:3], LEAST_TERM)
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


def centre_of(chart: Array) -> Centre:
    """What a chart says of the centre of the data."""
    log_a, log_b = chart[1] - chart[3], chart[2] - chart[4]
    log_sum = np.logaddexp(log_a, log_b)
    p = np.exp(log_a - log_sum)
    lean = np.stack([p, 1 - p, -p, p - 1, -np.ones_like(p)])
    return Centre(np.exp(log_sum - chart[5]), p, np.exp(chart[5]), lean)


def expand(batch: Batch, chart: Array, floor: Mask) -> Surface:
    """Objective and derivatives in the chart, T among its coordinates where a problem is not on the floor."""
    centre, delta = centre_of(chart), batch.delta
    p, k = centre.share[:, None], centre.k[:, None]
    bend_x, bend_y = np.exp(chart[3])[:, None] * batch.x, np.exp(chart[4])[:, None] * batch.y
    u, v = p * np.exp(-bend_x), (1 - p) * np.exp(-bend_y)
    inner = u + v
    ratio, share = np.log(inner), u / inner
    excess = centre.excess[:, None] * np.exp(k * ratio)
    loss = chart[0][:, None] + excess
    residual = np.log(loss) - batch.z
    clipped = np.clip(residual, -delta, delta)
    pull = batch.weights * clipped
    value = (pull * (residual - 0.5 * clipped)).sum(axis=-1)

    slopes = np.empty((len(value), 5, loss.shape[1]))  # of h
    slopes[:, 0] = (1 - k) * p + k * share
    slopes[:, 1] = 1 - slopes[:, 0]
    slopes[:, 2] = -slopes[:, 0] - k * share * bend_x
    slopes[:, 3] = -slopes[:, 1] - k * (1 - share) * bend_y
    slopes[:, 4] = k * ratio - 1
    inverse = 1 / loss
    part = excess * inverse
    lifted = pull * part
    curve = batch.weights * (clipped == residual) - pull
    bulk = curve * part * part + lifted
    # one product gives all sums over rows of slopes times a row's factor
    sums = slopes @ np.stack([lifted, curve * part * inverse], axis=-1)
    rise = (pull * inverse).sum(axis=-1)
    second = (slopes * bulk[:, None]) @ slopes.transpose(0, 2, 1) + _bend_of_slopes(
        centre, bend_x, bend_y, lifted, share, sums[..., 0]
    )
    opened = _opening(centre, floor)
    gradient = np.concatenate([np.where(floor, 0.0, rise)[None], sums[..., 0].T + rise * opened])
    hessian = _with_level(second, opened, sums[..., 1].T, (curve * inverse * inverse).sum(axis=-1))
    hessian[1:, 1:] += np.where(floor, 0.0, rise) * bend_of_level(centre)
    hessian[0] *= ~floor
    hessian[:, 0] *= ~floor
    here = Surface(value, rise, gradient, hessian)
    if batch.tilt is None:
        return here
    return Surface(*(one + two for one, two in zip(here, batch.tilt.expand(chart, floor), strict=True)))


def _opening(centre: Centre, floor: Mask) -> Array:
    """Gradient (5, S) of E at fixed T, by the other coordinates; none on the floor."""
    return np.where(floor, 0.0, -centre.excess * centre.lean)


def _with_level(second: Array, opened: Array, mixed: Array, flat: Array) -> Array:
    """The whole Hessian (6, 6, S): E = T - G joins its part to that of the excess (S, 5, 5)."""
    both = np.concatenate([np.ones_like(flat)[None], opened])
    sides = np.concatenate([np.zeros_like(flat)[None], mixed])
    crossed = both[:, None] * sides[None]
    hessian = flat * both[:, None] * both[None] + crossed + crossed.transpose(1, 0, 2)
    hessian[1:, 1:] += second.transpose(1, 2, 0)
    return hessian


def bend_of_level(centre: Centre) -> Array:
    """Second derivatives (5, 5, S) of E = T - G."""
    bend = centre.lean[:, None] * centre.lean[None]
    bend[:4, :4] += centre.share * (1 - centre.share) * np.multiply.outer(ACROSS, ACROSS)[..., None]
    return -centre.excess * bend


def _bend_of_slopes(
    centre: Centre, bend_x: Array, bend_y: Array, lifted: Array, share: Array, sums: Array
) -> Array:
    """Sums over rows of `lifted` times the second derivatives of h, (S, 5, 5)."""
    dot, k, total = np.vecdot, centre.k, lifted.sum(axis=-1)
    part = lifted * share
    spread = k[:, None] * part * (1 - share)
    spread_x, spread_y = spread * bend_x, spread * bend_y
    ones, ax, ay = spread.sum(axis=-1), spread_x.sum(axis=-1), spread_y.sum(axis=-1)
    axx, axy, ayy = dot(spread_x, bend_x), dot(spread_x, bend_y), dot(spread_y, bend_y)
    bend = np.zeros((len(total), 5, 5))
    # d = (1, -1, -1 - alpha x, 1 + beta y): how log(u / v) changes
    bend[:, :4, :4] = (
        (ones + (1 - k) * centre.share * (1 - centre.share) * total)[:, None, None]
    ) * np.multiply.outer(ACROSS, ACROSS)
    for row, sign in ((0, 1.0), (1, -1.0)):
        bend[:, row, 2] -= sign * ax
        bend[:, row, 3] += sign * ay
    bend[:, 2, 2] += 2 * ax + axx - k * dot(part, bend_x)
    bend[:, 3, 3] += 2 * ay + ayy - k * dot(lifted - part, bend_y)
    bend[:, 2, 3] -= ax + ay + axy
    bend[:, :4, 4] = sums[:, :4] - (centre.lean[:4] * total).T
    bend[:, 4, 4] = sums[:, 4] + total
    bend[:, UPPER[1], UPPER[0]] = bend[:, UPPER[0], UPPER[1]]
    return bend
