"""The Fit that carries a law between stages: draws, noise, where its runs lay, and what it predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llama_scale.architecture import ParameterConvention
from llama_scale.laws.forms import Numbers, ScalingLaw

FlopsAccounting = Literal["6nd", "exact"]
ACCOUNTINGS: tuple[FlopsAccounting, ...] = get_args(FlopsAccounting)
DEFAULT_LEVEL = 0.9
NOISE_STRATA = 33  # quantiles of the normal that stand for the noise of a new run, at each draw


class Range(NamedTuple):
    """The smallest and largest value that was observed."""

    low: float
    high: float

    def beyond(self, value: float) -> float:
        """1 inside the range, value / high above it, value / low (less than 1) below it."""
        if value > self.high:
            return value / self.high
        return value / self.low if value < self.low else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """Where the runs behind a law lie, parameters in its convention; None where the source doesn't say."""

    train_flops: Range | None = None
    parameters: Range | None = None
    tokens: Range | None = None
    tokens_per_parameter: Range | None = None

    def extrapolation(self, *, parameters: float, tokens: float, train_flops: float) -> dict[str, float]:
        """How far a run lies beyond each known range, by name, as `Range.beyond` counts it."""
        values = {
            "train_flops": train_flops,
            "parameters": parameters,
            "tokens": tokens,
            "tokens_per_parameter": tokens / parameters,
        }
        ranges = {name: getattr(self, name) for name in values}
        return {name: ranges[name].beyond(value) for name, value in values.items() if ranges[name]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The loss of a run that has not been trained, and where one such run should land with chance `level`.

    `low` and `high` are None for a law without draws: an interval is never invented.
    """

    loss: Numbers
    low: Numbers | None
    high: Numbers | None
    level: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """The compute-optimal split of a budget; intervals are those of the law's draws, None without them."""

    parameters: float
    tokens: float
    loss: float
    parameters_interval: Range | None
    tokens_interval: Range | None
    loss_interval: Range | None
    level: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Fit:
    """A law, how sure we are of it, and what it was fitted on: what the fitting stage hands to the planner.

    `draws` is a batch of laws, each as plausible as its frequency, or None with the reason in
    `draws_note`. `noise` is the relative standard deviation of one new run about the true law, and
    `noise_draws` the same for each draw. `interval_factor` widens predictive intervals where
    backtests showed them too narrow. `evidence` is the rest of `fit --json`: objective,
    standard_errors, intervals, diagnostics, selection, backtest, provenance.
    """

    name: str
    law: ScalingLaw
    convention: ParameterConvention
    source: str
    flops_accounting: FlopsAccounting = "6nd"
    support: Support = Support()
    draws: ScalingLaw | None = None
    draws_note: str = ""
    noise: float = 0.0
    noise_draws: NDArray[np.float64] | None = None
    interval_factor: float = 1.0
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        law = ", ".join(f"{name}={float(value):.5g}" for name, value in self.law.constants.items())
        draws = "no draws" if self.draws is None else f"{np.size(self.draws.E)} draws"
        return f"<Fit {self.name}: {law} ({self.convention} parameters, {draws}), from {self.source}>"

    def predict(
        self, parameters: ArrayLike, tokens: ArrayLike, *, level: float = DEFAULT_LEVEL
    ) -> Prediction:
        """Loss of a new run of N parameters on D tokens; its interval holds law draws and a run's own noise.

        Arguments broadcast; N is counted by `convention`.
        """
        loss = self.law.loss(parameters, tokens)
        if self.draws is None:
            return Prediction(loss=loss, low=None, high=None, level=level)
        n, d = np.broadcast_arrays(np.asarray(parameters, float), np.asarray(tokens, float))
        centres = np.log(self.draws.loss(n[..., None], d[..., None]))
        noise = np.broadcast_to(self.noise if self.noise_draws is None else self.noise_draws, centres.shape)
        outcomes = (centres[..., None] + noise[..., None] * _normal_strata()).reshape(*n.shape, -1)
        tails = _tails(outcomes, level)
        low, high = loss * np.exp(self.interval_factor * (tails - np.log(loss)))
        return Prediction(loss=loss, low=low, high=high, level=level)

    def optimum(self, train_flops: float, *, level: float = DEFAULT_LEVEL) -> Optimum:
        """The split of C = 6ND that minimises the loss, and how sure the law is of it."""
        parameters, tokens = self.law.compute_optimum(train_flops)
        ranges: list[Range | None] = [None, None, None]
        if self.draws is not None:
            split = self.draws.compute_optimum(train_flops)
            values = (split.parameters, split.tokens, self.draws.loss(*split))
            ranges = [central_range(value, level) for value in values]
        return Optimum(
            parameters=float(parameters),
            tokens=float(tokens),
            loss=float(self.law.loss(parameters, tokens)),
            parameters_interval=ranges[0],
            tokens_interval=ranges[1],
            loss_interval=ranges[2],
            level=level,
        )


def central_range(values: ArrayLike, level: float = DEFAULT_LEVEL) -> Range:
    """The middle `level` of a sample, equal tails cut."""
    low, high = _tails(np.ravel(np.asarray(values, float)), level)
    return Range(float(low), float(high))


def _tails(values: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    """The two quantiles that cut equal tails off the last axis, interpolated linearly.

    As np.quantile does, whose first call imports numpy.ma: 50 ms that a cold plan has no use for.
    """
    ordered = np.sort(values, axis=-1)
    places = np.array([(1 - level) / 2, (1 + level) / 2]) * (values.shape[-1] - 1)
    below = np.floor(places).astype(int)
    above = np.minimum(below + 1, values.shape[-1] - 1)
    tails = ordered[..., below] + (places - below) * (ordered[..., above] - ordered[..., below])
    return np.moveaxis(tails, -1, 0)


@cache
def _normal_strata() -> NDArray[np.float64]:
    from statistics import NormalDist

    steps = (np.arange(NOISE_STRATA) + 0.5) / NOISE_STRATA
    return np.array([NormalDist().inv_cdf(float(step)) for step in steps])
