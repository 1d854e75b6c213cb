"""The objective of a law of data seen once and both decays of repeated data, with exact derivatives.

U_N, from which on R_N* discounts parameters, hangs on the law: so all seven constants are one problem, in

    (T, log s, log t, alpha, beta, log R_D*, log R_N*),  T = E + A + B, s = alpha A, t = beta B as in `newton`

and with logs centred, of which X is that of N' and Y that of D',

    L = T + s (e^(-alpha X) - 1) / alpha + t (e^(-beta Y) - 1) / beta
    X = log U_N + g(log N / U_N, R_N*)    log U_N = (log s - log t + beta log U) / alpha
    Y = log U + g(log D / U, R_D*)        g(r, R) = log(1 + R (1 - exp(-(e^r - 1) / R))), r itself below 0

On the floor E is 0, and neither T nor the ones stand in L.

Shapes: S problems, n rows; charts are (7, S), arrays over rows (S, n). Of `Problems` y is log U.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from llama_scale.fitting.descent import Array, Batch, Index, Mask, Surface
from llama_scale.fitting.newton import LARGEST_TURN, TOLERANCE, damped_step
from llama_scale.fitting.surface import LEAST_TERM
from llama_scale.frozen import frozen

LOGS = [1, 2, 5, 6]  # rows of the chart
LAW = slice(1, 5)  # rows of the chart that U_N hangs on
LARGEST_STEP = 0.7  # of a logarithm
MOST_EXCESS, MOST_SPENT = 600.0, 1e3  # beyond them e^excess would overflow, and no worth is left


def to_chart(constants: Array, is_open: bool) -> Array:
    """The chart (7, S) of centred constants E, A, B, alpha, beta and both decays."""
    e, a, b, alpha, beta = constants[:5]
    level = e + a + b if is_open else np.zeros_like(e)
    terms = np.maximum([alpha * a, beta * b], LEAST_TERM)
    return np.stack([level, *np.log(terms), alpha, beta, *np.log(constants[5:])])


def to_constants(chart: Array, is_open: bool) -> Array:
    """The constants (7, S) of a chart."""
    level, alpha, beta = chart[[0, 3, 4]]
    a, b = np.exp(chart[1]) / alpha, np.exp(chart[2]) / beta
    e = level - a - b if is_open else np.zeros_like(level)
    return np.stack([e, a, b, alpha, beta, *np.exp(chart[5:])])


class Worth(NamedTuple):
    """g(r, R), and its derivatives by r and by log R."""

    value: Array
    r: Array
    decay: Array
    rr: Array
    r_decay: Array
    decay_decay: Array


def worth(excess: Array, decay: Array) -> Worth:
    """What e^excess times the unique amount is worth, in logs, where it decays (S, 1); excess at least 0."""
    amount = np.exp(np.minimum(excess, MOST_EXCESS))
    spent = np.minimum((amount - 1) / decay, MOST_SPENT)
    kept, lost = np.exp(-spent), -np.expm1(-spent)
    total = 1 + decay * lost
    by_r, by_decay = kept * amount / total, decay * (lost - kept * spent) / total
    return Worth(
        value=np.log(total),
        r=by_r,
        decay=by_decay,
        rr=by_r * (1 - amount / decay - by_r),
        r_decay=by_r * (spent - by_decay),
        decay_decay=by_decay * (1 - by_decay) - decay * kept * spent**2 / total,
    )


@frozen
class JointMoves:
    """How problems move, within bounds (7, 1), whose runs saw D/U epochs: `repeats` (n,) is its logarithm."""

    repeats: Array
    is_open: bool
    low: Array
    high: Array
    tolerance: float = TOLERANCE
    releases: int = 0

    def inside(self, chart: Array) -> Array:
        return np.clip(chart, self.low, self.high)

    def expand(self, batch: Batch, chart: Array, floor: Mask) -> Surface:
        level, log_s, log_t, alpha, beta, log_data, log_size = chart[..., None]
        one, unique = float(self.is_open), batch.y
        s, t = np.exp(log_s), np.exp(log_t)
        matched = (log_s - log_t + beta * unique) / alpha
        is_over = batch.x > matched
        size = worth(np.maximum(batch.x - matched, 0), np.exp(log_size))
        data = worth(self.repeats, np.exp(log_data))
        x, y = np.where(is_over, matched + size.value, batch.x), unique + data.value
        p, q = s * np.exp(-alpha * x), t * np.exp(-beta * y)
        by_size, by_data = (p - one * s) / alpha, (q - one * t) / beta
        by_alpha, by_beta = -(x * p + by_size) / alpha, -(y * q + by_data) / beta
        # lower ones are priced so high as to be refused
        loss = np.maximum(one * level + by_size + by_data, 1e-3)
        residual = np.log(loss) - batch.z
        clipped = np.clip(residual, -batch.delta, batch.delta)
        pull = batch.weights * clipped
        value = (pull * (residual - 0.5 * clipped)).sum(axis=-1)
        curve = (batch.weights * (clipped == residual) - pull) / loss**2
        pull /= loss

        # how X moves: with U_N where parameters are in excess, and with R_N*
        follows = np.where(is_over, 1 - size.r, 0.0)
        matched_by = np.empty((len(value), 4, loss.shape[1]))  # log s, log t, alpha, beta
        matched_by[:, 0], matched_by[:, 1] = 1 / alpha, -1 / alpha
        matched_by[:, 2], matched_by[:, 3] = -matched / alpha, unique / alpha
        x_by = np.zeros((len(value), 7, loss.shape[1]))
        x_by[:, LAW] = matched_by * follows[:, None]
        x_by[:, 6] = np.where(is_over, size.decay, 0.0)
        slopes = -p[:, None] * x_by  # of L
        slopes[:, 0] = one
        for row, direct in ((1, by_size), (2, by_data), (3, by_alpha), (4, by_beta), (5, -q * data.decay)):
            slopes[:, row] += direct
        gradient = (slopes @ pull[..., None])[..., 0]

        # second derivatives: those of log L and of X in p, then X's own and what is left, pair by pair
        p, q = pull * p, pull * q
        hessian = _products(slopes, curve) + _products(x_by, p * alpha)
        hessian[:, LAW, LAW] -= _products(matched_by, np.where(is_over, p * size.rr, 0.0))
        crossed = np.zeros_like(hessian)
        crossed[:, [1, 3]] = np.stack([-p, p * x], axis=1) @ x_by.transpose(0, 2, 1)
        crossed[:, 6, LAW] += (matched_by @ np.where(is_over, p * size.r_decay, 0.0)[..., None])[..., 0]
        hessian += crossed + crossed.transpose(0, 2, 1)
        tied = p * follows / alpha**2
        for row, other, terms in (
            (1, 1, pull * by_size),
            (1, 3, pull * by_alpha + tied),
            (2, 2, pull * by_data),
            (2, 3, -tied),
            (2, 4, pull * by_beta),
            (2, 5, -q * data.decay),
            (3, 3, (x * x * p - 2 * pull * by_alpha) / alpha - 2 * tied * matched),
            (3, 4, tied * unique),
            (4, 4, (y * y * q - 2 * pull * by_beta) / beta),
            (4, 5, q * y * data.decay),
            (5, 5, q * (beta * data.decay**2 - data.decay_decay)),
            (6, 6, -np.where(is_over, p * size.decay_decay, 0.0)),
        ):
            total = terms.sum(axis=-1)
            hessian[:, row, other] += total
            if row != other:
                hessian[:, other, row] += total
        return Surface(value, np.zeros_like(value), gradient.T, hessian.transpose(1, 2, 0))

    def between(self, here: Array, there: Array) -> Array:
        return there - here

    def step(
        self, problem: Index, chart: Array, here: Surface, damping: Array, floor: Mask
    ) -> tuple[Array, Array, Mask]:
        slope = here.gradient
        pinned = ((chart <= self.low) & (slope > 0)) | ((chart >= self.high) & (slope < 0))
        step, fall = damped_step(slope, here.hessian, damping, pinned)
        for rows, most in ((slice(3, 5), LARGEST_TURN), (LOGS, LARGEST_STEP)):
            step *= np.minimum(1.0, most / np.maximum(np.abs(step[rows]).max(axis=0), 1e-300))
        step += chart
        return np.clip(step, self.low, self.high, out=step), fall, floor


def _products(slopes: Array, factors: Array) -> Array:
    """Sums over rows of products of slopes (S, c, n), each row times its factor: (S, c, c)."""
    return (slopes * factors[:, None]) @ slopes.transpose(0, 2, 1)
