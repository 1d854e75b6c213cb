"""From loss to the score of a task: a sigmoid, with how sure it is (Bhagia et al. 2024, arXiv 2412.04403).

Their eq. 3 is score = a / (1 + exp(-k (L - L0))) + b; here b is the floor, a + b the ceiling, -k the
steepness and L0 the midpoint, so that all four are positive where scores rise as loss falls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llama_scale.frozen import frozen
from llama_scale.laws.forms import Numbers
from llama_scale.laws.spread import DEFAULT_LEVEL, normal_strata, tails


class ScorePrediction(NamedTuple):
    """A predicted score, and where the score of one new model should land; None where that is unknown."""

    score: Numbers
    low: Numbers | None
    high: Numbers | None


@frozen
class Sigmoid:
    """score = floor + (ceiling - floor) / (1 + exp(steepness (loss - midpoint))); numbers, or draws."""

    floor: Numbers
    ceiling: Numbers
    steepness: Numbers
    midpoint: Numbers

    @np.errstate(over="ignore")
    def score(self, loss: ArrayLike) -> Numbers:
        """The share of the way from floor to ceiling that a loss (nats per token) has gone."""
        fall = np.exp(self.steepness * (np.asarray(loss, float) - self.midpoint))
        return self.floor + (self.ceiling - self.floor) / (1 + fall)

    @np.errstate(divide="ignore", invalid="ignore")
    def loss_for(self, score: ArrayLike) -> Numbers:
        """The loss that earns `score`; nan at or beyond floor and ceiling, which no loss reaches."""
        share = (np.asarray(score, float) - self.floor) / (self.ceiling - self.floor)
        share = np.where((share > 0) & (share < 1), share, np.nan)
        return self.midpoint - np.log(share / (1 - share)) / self.steepness

    def at(self, index: int | slice | NDArray[np.intp]) -> Self:
        """The draw, or batch of draws, at `index`."""
        return type(self)(**{f.name: np.asarray(getattr(self, f.name))[index] for f in fields(self)})


@frozen(eq=False)
class Downstream:
    """How a task's score follows from loss: a sigmoid, draws of it, and the scatter of models about it.

    Scores are fractions. `losses` is the range of the losses that it was fitted on: nothing is known of
    the score beyond it but the sigmoid's own shape. `noise` is the standard deviation of one model's
    score; `interval_factor` widens intervals where checks showed them too narrow. `evidence` is what
    else `fit --json` says of the score.
    """

    task: str
    sigmoid: Sigmoid
    losses: tuple[float, float]
    models: int
    noise: float
    draws: Sigmoid | None = None
    interval_factor: float = 1.0
    source: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def score(self, loss: ArrayLike) -> Numbers:
        """The predicted score of a model of this loss, in nats per token."""
        return self.sigmoid.score(loss)

    def loss_for(self, score: ArrayLike) -> Numbers:
        """The loss that should earn `score`; nan where no loss does."""
        return self.sigmoid.loss_for(score)

    @property
    def reachable(self) -> tuple[float, float]:
        """The floor and the ceiling, between which scores have a loss."""
        return float(self.sigmoid.floor), float(self.sigmoid.ceiling)

    def predict(
        self, loss: ArrayLike, level: float = DEFAULT_LEVEL, *, loss_draws: ArrayLike | None = None
    ) -> ScorePrediction:
        """The score of one new model with chance `level`: the sigmoid's doubt and a model's own scatter.

        `loss` broadcasts. `loss_draws` (..., S) are losses as uncertain as the law that predicts them;
        each goes with a draw of the sigmoid.
        """
        losses = np.asarray(loss, float)
        score = self.score(losses)
        if self.draws is None:
            return ScorePrediction(score, None, None)
        count = np.size(self.draws.floor)
        if loss_draws is None:
            values = self.draws.score(losses[..., None])
        else:
            given = np.asarray(loss_draws, float)
            values = self.draws.at(np.arange(given.shape[-1]) % count).score(given)
        outcomes = np.asarray(values)[..., None] + self.noise * normal_strata()
        low, high = tails(outcomes.reshape(*outcomes.shape[:-2], -1), level)
        factor = self.interval_factor
        low, high = (np.clip(score + factor * (end - score), 0.0, 1.0) for end in (low, high))
        return ScorePrediction(score, low, high)
