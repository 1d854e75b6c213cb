"""The law of repeated data: what a token is worth when it is seen again, and a parameter beyond what the
data can teach (Muennighoff et al. 2023, arXiv 2305.16264, section 3.1 and appendix A).

Constants may be numbers or arrays that broadcast, as in `forms`: then a law is a batch of draws.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llama_scale.frozen import frozen
from llama_scale.laws.forms import Allocation, Gradient, Numbers, ScalingLaw

REPEATED = "repeated"  # the form of a fit whose law has a worth of repeated data

BISECTIONS = 60  # of a bracket in log N: 1e-17 of it is left


@frozen
class Repetition:
    """How fast repetition loses its worth.

    `tokens_decay` is R_D*, after so many repetitions a repeated token is worth 1/e of a new one;
    `parameters_decay` is R_N*, the same for parameters in excess of those that the unique tokens call for.
    """

    tokens_decay: Numbers
    parameters_decay: Numbers

    def at(self, index: int | slice | NDArray[np.intp]) -> Self:
        """The draw, or batch of draws, at `index`; what is a single number stays."""
        return type(self)(
            tokens_decay=_at(self.tokens_decay, index), parameters_decay=_at(self.parameters_decay, index)
        )


# Muennighoff et al. 2023, github huggingface/datablations, utils/parametric_fit.ipynb: R_D* and R_N* of the
# 182 runs on C4, with the five constants of the law muennighoff-2023 held fixed.
MUENNIGHOFF_REPETITION = Repetition(tokens_decay=15.387756, parameters_decay=5.309743)


@frozen
class RepeatedDataLaw:
    """L(N, D) = law.loss(N', D') where only `unique_tokens` U are there to be trained on.

    D' = D up to U, and U + U R_D* (1 - exp(-(D/U - 1) / R_D*)) beyond it. N' is the same of N, with U_N,
    the size for which U tokens are compute-optimal, in the place of U, and R_N*. So an endless U gives
    the law itself, and D' never exceeds U (1 + R_D*).
    """

    law: ScalingLaw
    unique_tokens: Numbers
    repetition: Repetition = MUENNIGHOFF_REPETITION

    def loss(self, parameters: ArrayLike, tokens: ArrayLike) -> Numbers:
        """Predicted loss of N parameters trained on D tokens, repeats counted."""
        return self.law.loss(self.effective_parameters(parameters), self.effective_tokens(tokens))

    def epochs(self, tokens: ArrayLike) -> Numbers:
        """How often each unique token is seen; less than 1 where not all of them are."""
        return np.asarray(tokens, float) / self.unique_tokens

    def effective_tokens(self, tokens: ArrayLike) -> Numbers:
        """D': the number of unique tokens that would teach as much."""
        return _worth(np.asarray(tokens, float), self.unique_tokens, self.repetition.tokens_decay)

    def growth(self, tokens: ArrayLike) -> Numbers:
        """d log D' / d log D: by how many per cent D' grows with a per cent more tokens."""
        d = np.asarray(tokens, float)
        return _marginal(d, self.unique_tokens, self.repetition.tokens_decay) * d / self.effective_tokens(d)

    def effective_parameters(self, parameters: ArrayLike) -> Numbers:
        """N': the number of parameters that would do as well, were data no limit."""
        return _worth(
            np.asarray(parameters, float), self.matched_parameters, self.repetition.parameters_decay
        )

    @property
    @np.errstate(over="ignore", divide="ignore", invalid="ignore")  # draws may be degenerate
    def matched_parameters(self) -> Numbers:
        """U_N: the size whose compute-optimal training takes `unique_tokens`, each once."""
        law = self.law
        balance = np.log(law.alpha) + np.log(law.A) - np.log(law.beta) - np.log(law.B)
        return np.exp((balance + law.beta * np.log(self.unique_tokens)) / law.alpha)

    @property
    def most_effective_tokens(self) -> Numbers:
        """U (1 + R_D*): what D' tends to, however often the data are repeated."""
        return self.unique_tokens * (1 + self.repetition.tokens_decay)

    def tokens_for_loss(self, loss: ArrayLike, parameters: ArrayLike) -> Numbers:
        """Tokens, repeats counted, that bring N parameters to `loss`; nan where none do."""
        effective = self.law.tokens_for_loss(loss, self.effective_parameters(parameters))
        return _needed(effective, self.unique_tokens, self.repetition.tokens_decay)

    def parameters_for_loss(self, loss: ArrayLike, tokens: ArrayLike) -> Numbers:
        """Parameters that reach `loss` on D tokens, repeats counted; nan where none do."""
        effective = self.law.parameters_for_loss(loss, self.effective_tokens(tokens))
        return _needed(effective, self.matched_parameters, self.repetition.parameters_decay)

    def gradient(self, parameters: ArrayLike, tokens: ArrayLike) -> Gradient:
        """dL/dN and dL/dD, in nats per parameter and per token, repeats counted."""
        n, d = np.asarray(parameters, float), np.asarray(tokens, float)
        inner = self.law.gradient(self.effective_parameters(n), self.effective_tokens(d))
        return Gradient(
            inner.parameters * _marginal(n, self.matched_parameters, self.repetition.parameters_decay),
            inner.tokens * _marginal(d, self.unique_tokens, self.repetition.tokens_decay),
        )

    @np.errstate(over="ignore", divide="ignore", invalid="ignore")
    def compute_optimum(self, train_flops: ArrayLike) -> Allocation:
        """The split of C = 6ND of lowest loss.

        It is the law's own where that needs no more than the unique tokens. Elsewhere it lies between
        U_N on more tokens and U tokens on more parameters, and the gain of a per cent more parameters
        over that of a per cent more tokens falls with N: bisection finds where they are equal.
        """
        nd = np.asarray(train_flops, float) / 6
        plain = self.law.compute_optimum(train_flops)
        low = np.log(self.matched_parameters) + np.zeros_like(plain.parameters)
        high = np.log(nd / self.unique_tokens) + np.zeros_like(low)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            size = np.exp(middle)
            slope = self.gradient(size, nd / size)
            is_below = slope.parameters * size < slope.tokens * nd / size  # both are negative
            low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
        repeats = plain.tokens > self.unique_tokens
        size = np.where(repeats, np.exp((low + high) / 2), plain.parameters)
        return Allocation(size, nd / size)

    def contour(self, loss: float, *, span: float = 10.0, count: int = 101) -> Allocation:
        """The iso-loss curve of one law: `count` pairs of N and D, repeats counted, that all reach `loss`.

        N runs as in `ScalingLaw.contour`; D is nan where no repetition of the unique tokens suffices.
        """
        sizes = self.law.contour(loss, span=span, count=count).parameters
        return Allocation(sizes, self.tokens_for_loss(loss, sizes))

    def at(self, index: int | slice | NDArray[np.intp]) -> Self:
        """The draw, or batch of draws, at `index`; what is a single number stays."""
        law = self.law if np.ndim(self.law.E) == 0 else self.law.at(index)
        return type(self)(
            law=law, unique_tokens=_at(self.unique_tokens, index), repetition=self.repetition.at(index)
        )


@np.errstate(over="ignore", divide="ignore", invalid="ignore")
def _worth(amount: NDArray[np.float64], unique: Numbers, decay: Numbers) -> Numbers:
    """`amount` up to `unique`; each repetition beyond it is worth exp(-1 / decay) of the one before."""
    repeats = amount / unique - 1
    return np.where(repeats > 0, unique - unique * decay * np.expm1(-repeats / decay), amount)


@np.errstate(over="ignore", divide="ignore", invalid="ignore")
def _marginal(amount: NDArray[np.float64], unique: Numbers, decay: Numbers) -> Numbers:
    """The derivative of `_worth` by the amount."""
    return np.exp(-np.maximum(amount / unique - 1, 0) / decay)


@np.errstate(over="ignore", divide="ignore", invalid="ignore")
def _needed(worth: Numbers, unique: Numbers, decay: Numbers) -> Numbers:
    """The amount of a given worth, the inverse of `_worth`; nan beyond unique (1 + decay)."""
    beyond = (worth / unique - 1) / decay
    repeats = -decay * np.log1p(-np.where(beyond < 1, beyond, np.nan))
    return np.where(worth > unique, unique + unique * repeats, worth)


def _at(value: Numbers, index: int | slice | NDArray[np.intp]) -> Numbers:
    return value if np.ndim(value) == 0 else np.asarray(value)[index]
