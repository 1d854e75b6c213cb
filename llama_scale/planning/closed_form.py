"""The optimum where it is one equation in one unknown: additive laws, FLOPs of 6N and 2N, no limits.

A model of N parameters that is trained on D tokens costs 6 train_rate x N (D + S), where S, the demand x
serving rate / (3 x training rate), are the tokens of training that serving is worth. Both questions then
have the unknown x = log D, and a stationarity condition that is monotone and of one curvature in x, so
Newton's method converges from the starting points below without a safeguard. Law constants may be arrays
(draws), which are solved together.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from llama_scale.laws import Numbers, ScalingLaw

NEWTON_STEPS = 60  # five or six do


def tokens_of_lowest_loss(law: ScalingLaw, idle: Numbers, equivalent: Numbers) -> Numbers:
    """D of lowest loss on N (D + S) = K, given S (`idle`) and K (`equivalent`).

    It is the root in x = log D of log[alpha A K^-alpha (D + S)^(alpha - 1) D] - log[beta B D^-beta], which
    rises, and is concave for alpha < 1: started left of the root, Newton never passes it. The start is the
    larger of the roots with S neglected against D and D neglected against S.
    """
    log_idle = _log(idle)
    offset = np.log(law.alpha * law.A / (law.beta * law.B)) - law.alpha * np.log(equivalent)
    x = -offset / (law.alpha + law.beta)
    if np.all(law.alpha < 1):
        x = np.maximum(x, ((1 - law.alpha) * log_idle - offset) / (1 + law.beta))

    def step(x: Numbers) -> Numbers:
        log_sum = np.logaddexp(x, log_idle)
        value = offset + (law.alpha - 1) * log_sum + (1 + law.beta) * x
        return value / (1 + law.beta - (1 - law.alpha) * np.exp(x - log_sum))

    return np.exp(_newton(step, x))


def tokens_of_lowest_cost(law: ScalingLaw, idle: Numbers, loss: Numbers) -> Numbers:
    """D of the least N (D + S) that reaches `loss`; nan where the law's floor is not below it.

    It is the root in x = log D of Sardana & Frankle's condition (arXiv 2401.00448, section 2), in logarithms:
    log[(1 + beta/alpha) B D^-beta + (beta B S / alpha) D^(-beta - 1)] = log((loss - E)^(1/k)). The left side
    falls and is convex, a sum of exponentials in x: started left of the root, Newton never passes it.
    """
    log_idle, log_room = _log(idle), np.log(law.excess(loss))
    training = np.log((1 + law.beta / law.alpha) * law.B)
    serving = np.log(law.beta * law.B / law.alpha) + log_idle
    x = np.maximum((training - log_room) / law.beta, (serving - log_room) / (law.beta + 1))

    def step(x: Numbers) -> Numbers:
        terms = training - law.beta * x, serving - (law.beta + 1) * x
        log_sum = np.logaddexp(*terms)
        return (log_sum - log_room) / (-law.beta - np.exp(terms[1] - log_sum))

    return np.exp(_newton(step, x))


def _log(number: Numbers) -> Numbers:
    """The logarithm, -inf for 0."""
    with np.errstate(divide="ignore"):
        return np.log(number)


def _newton(step: Callable[[Numbers], Numbers], x: Numbers) -> Numbers:
    """Newton's method on every draw at once, until none moves by more than rounding; nan stays nan."""
    with np.errstate(invalid="ignore"):
        for _ in range(NEWTON_STEPS):
            change = step(x)
            x = x - change
            if not np.any(np.abs(change) > 1e-14 * np.maximum(1.0, np.abs(x))):
                break
    return x
