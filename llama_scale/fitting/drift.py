"""How far a law drifts where no run has been: what backtests saw of it, and draws that waver as much.

A drift turns both exponents of a law by one factor, with the law held at both ends of the runs, so that what
they fixed stays fixed. They turn together because backtests see how fast the loss falls, not how N and D
share it: that doubt is in the refits and in the mixture of forms. Each backtest measures one turn, to the
precision that its noise and its draws leave; turns of true laws are taken as normal about none, and how wide
is a posterior over all that was measured. So a turn that noise explains hardly widens an interval, one that
it can't explain does, and a few backtests never make the intervals certain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llama_scale.fitting.backtests import Direction, Split, place
from llama_scale.fitting.newton import Array
from llama_scale.fitting.observations import Observations
from llama_scale.fitting.uncertainty import Draws
from llama_scale.frozen import frozen
from llama_scale.laws import ScalingLaw

FARTHEST = 0.8
LEAST_FALL = 0.2  # from end to end of the runs, over what is left above E: less holds no exponent
STEP = 0.1  # of a turn, for the slope of losses
USUAL = 0.1  # the likeliest scale in backtests inside ten public sets: benchmarks/README.md
MOST = 0.4  # the widest spread that is thought of: beyond it a form does not hold at all
NODES = 200


class Ends(NamedTuple):
    """The middle N and D, in logs, of the cheapest runs and of the farthest: where the data hold a law."""

    near: tuple[float, float]
    far: tuple[float, float]


@frozen
class Drift:
    """What one backtest saw: log of the true exponents over the fitted ones, and its standard error."""

    direction: Direction
    turn: float
    error: float


def waver(law: ScalingLaw, ends: Ends, turns: Array) -> ScalingLaw:
    """Draws (n,) with exponents times exp(turns), each law and its best split as they were at the far end.

    E and both terms give way so that the loss at the near end stays too: the runs have fixed it, and a law
    that falls faster beyond them must have a higher floor. Where the far end is hardly lower than the near
    one, or E would fall below zero, only the far end is held.
    """
    near, far = ends
    alpha, beta = law.alpha * np.exp(turns), law.beta * np.exp(turns)
    turned = replace(
        law,
        A=law.A * far[0] ** (alpha - law.alpha),
        B=law.B * far[1] ** (beta - law.beta),
        alpha=alpha,
        beta=beta,
    )
    above_floor = law.loss(*far) - law.E
    falls, would_fall = (one.loss(*near) - one.loss(*far) for one in (law, turned))
    held = falls > LEAST_FALL * above_floor
    scale = np.where(held, falls / np.where(held, would_fall, 1.0), 1.0)
    with np.errstate(divide="ignore"):  # a law that is at its floor by then gives way without a limit
        scale = np.minimum(scale, 1 + law.E / above_floor)
    each = scale ** (1 / np.asarray(law.k, float))
    return replace(
        turned,
        E=np.maximum(law.E + above_floor * (1 - scale), 0.0),
        A=turned.A * each,
        B=turned.B * each,
    )


def ends_of(observations: Observations, direction: Direction) -> Ends:
    """The ends of the runs: the cheapest fifth, and the fifth farthest along the direction."""
    flops, where = observations.train_flops, place(observations, direction)
    near = flops <= np.sort(flops)[int(np.ceil((1 - FARTHEST) * len(flops))) - 1]
    far = where >= np.sort(where)[int(FARTHEST * len(where))]
    return Ends(near=_middle(observations, near), far=_middle(observations, far))


def _middle(observations: Observations, kept: NDArray[np.bool_]) -> tuple[float, float]:
    sizes, tokens = observations.parameters[kept], observations.tokens[kept]
    return float(np.exp(np.log(sizes).mean())), float(np.exp(np.log(tokens).mean()))


def drift_of(split: Split, errors: Array, draws: Draws) -> Drift | None:
    """The turn that brings a law of the known runs to the runs ahead, by generalised least squares.

    `errors` (m,) are logs of predicted over measured loss. Those of one law go together: their covariance is
    that of the draws, each run's own noise, and that of trunks which the law has not seen: what it knows of
    the others' is in the draws. None where turning moves no loss.
    """
    ahead, ends = split.ahead, ends_of(split.known, split.direction)

    def losses(turn: float) -> Array:
        law = waver(draws.law, ends, np.full(np.shape(draws.law.E), turn)) if turn else draws.law
        return np.log(np.asarray(law.loss(ahead.parameters[:, None], ahead.tokens[:, None]), float))

    slopes = (losses(STEP) - losses(-STEP)).mean(axis=1) / (2 * STEP)
    families, seen = np.array(ahead.families), set(split.known.families)
    unseen = (families[:, None] == families) & np.array([one not in seen for one in ahead.families])
    covariance = np.atleast_2d(np.cov(losses(0.0))) + draws.trunk_noise**2 * unseen
    covariance += max(draws.own_noise, 1e-6) ** 2 * np.eye(len(errors))
    weights = np.linalg.solve(covariance, slopes)
    information = float(slopes @ weights)
    if not information > 0:
        return None
    return Drift(
        direction=split.direction,
        turn=float(-(weights @ errors) / information),
        error=information**-0.5,
    )


def turns_of(drifts: Sequence[Drift], draws: int, seed: int = 0) -> Array:
    """Turns (draws,) of laws as wide as these drifts make likely: normal, each of a spread of its own."""
    generator = np.random.default_rng(seed + 1)
    return generator.permutation(likely_spreads(drifts, draws)) * generator.standard_normal(draws)


def spread_of(drifts: Sequence[Drift]) -> float:
    """The root mean square of the turns that these drifts make likely."""
    return float(np.sqrt(np.mean(likely_spreads(drifts, NODES) ** 2)))


def likely_spreads(drifts: Sequence[Drift], count: int) -> Array:
    """Equally likely standard deviations of turns (count,), rising, given what was measured."""
    spreads = prior_spreads()
    fit = log_likelihood(drifts, spreads)
    rising = np.cumsum(np.exp(fit - fit.max()))
    return spreads[np.searchsorted(rising / rising[-1], (np.arange(count) + 0.5) / count)]


def prior_spreads(scale: float = USUAL) -> Array:
    """Spreads (NODES,) that are equally likely beforehand: half-Cauchy of this scale, cut at MOST."""
    return scale * np.tan((np.arange(NODES) + 0.5) / NODES * np.arctan(MOST / scale))


def log_likelihood(drifts: Sequence[Drift], spreads: Array) -> Array:
    """Of drifts under normal turns of these spreads (S,), in nats.

    Backtests of one direction share most of their runs, so together they count as one.
    """
    found = np.zeros(len(spreads))
    for direction in {drift.direction for drift in drifts}:
        turn, error = np.array([(d.turn, d.error) for d in drifts if d.direction == direction]).T
        variance = spreads[:, None] ** 2 + error**2
        found -= (np.log(variance) + turn**2 / variance).mean(axis=1) / 2
    return found
