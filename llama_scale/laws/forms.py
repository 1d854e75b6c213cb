"""The forms of scaling laws: loss as a function of parameters N and tokens D, and its optimum in closed form.

A law's constants may be numbers, or arrays of one shape: then it is a batch of draws, and every
method broadcasts over them.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Literal, NamedTuple, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llama_scale.frozen import frozen

Numbers = float | NDArray[np.float64]
FormName = Literal["chinchilla", "skaling", "tied", "kaplan"]
FORMS: tuple[FormName, ...] = get_args(FormName)
NARROWEST_FIRST: tuple[FormName, ...] = ("tied", "chinchilla", "kaplan", "skaling")


class Allocation(NamedTuple):
    """How a training budget is split: N parameters, D tokens."""

    parameters: Numbers
    tokens: Numbers


class Gradient(NamedTuple):
    """What one more parameter, and one more token, bring: derivatives of the loss, not positive."""

    parameters: Numbers
    tokens: Numbers


@frozen
class ScalingLaw:
    """L(N, D) = E + (A N^-alpha + B D^-beta)^k, in nats per token.

    Four forms are this one with constants fixed. chinchilla: k = 1 (Hoffmann et al. 2022, eq. 2).
    tied: k = 1 and alpha = beta, so that N and D grow alike. kaplan: [(Nc/N)^(aN/aD) + Dc/D]^aD
    (Kaplan et al. 2020, eq. 1.5), that is E = 0, beta = 1, k = aD, alpha = aN/aD, A = Nc^alpha, B = Dc.
    skaling: k free; with k < 1, more data bring less where the size is what limits.

    data/laws.toml holds published instances of the first three. Of skaling with k free none is known: papers
    that print constants fix k at 1 or E at 0, so its instances are fits of one's own runs, and our refits
    of public ones (`other_forms` of besiroglu-2024).
    """

    E: Numbers
    A: Numbers
    B: Numbers
    alpha: Numbers
    beta: Numbers
    k: Numbers = 1.0

    @np.errstate(over="ignore", divide="ignore", invalid="ignore")  # draws may be degenerate
    def loss(self, parameters: ArrayLike, tokens: ArrayLike) -> Numbers:
        """Predicted loss of N parameters trained on D tokens."""
        n, d = np.asarray(parameters, float), np.asarray(tokens, float)
        return self.E + (self.A * n**-self.alpha + self.B * d**-self.beta) ** self.k

    def excess(self, loss: ArrayLike) -> Numbers:
        """What A N^-alpha + B D^-beta must come to for `loss`: (loss - E)^(1/k); nan where no model does."""
        room = np.asarray(loss, float) - self.E
        return np.where(room > 0, room, np.nan) ** (1 / np.asarray(self.k))

    def tokens_for_loss(self, loss: ArrayLike, parameters: ArrayLike) -> Numbers:
        """Tokens that bring N parameters to `loss`; nan where no number of tokens does."""
        room = self.excess(loss) - self.A * np.asarray(parameters, float) ** -self.alpha
        return (np.where(room > 0, room, np.nan) / self.B) ** (-1 / self.beta)

    def parameters_for_loss(self, loss: ArrayLike, tokens: ArrayLike) -> Numbers:
        """Parameters that reach `loss` on D tokens; nan where no number of parameters does."""
        room = self.excess(loss) - self.B * np.asarray(tokens, float) ** -self.beta
        return (np.where(room > 0, room, np.nan) / self.A) ** (-1 / self.alpha)

    @np.errstate(over="ignore", divide="ignore", invalid="ignore")
    def compute_optimum(self, train_flops: ArrayLike) -> Allocation:
        """The split of C = 6ND of lowest loss (Hoffmann et al. 2022, eq. 4), which k doesn't move."""
        nd = np.asarray(train_flops, float) / 6
        log_balance = (np.log(self.alpha) + np.log(self.A) - np.log(self.beta) - np.log(self.B)) / (
            self.alpha + self.beta
        )
        parameters = np.exp(log_balance) * nd**self.exponent_a
        return Allocation(parameters, nd / parameters)

    @np.errstate(over="ignore", divide="ignore", invalid="ignore")
    def optimal_tokens(self, parameters: ArrayLike) -> Numbers:
        """Tokens of the split for which N parameters are the best: alpha A N^-alpha = beta B D^-beta."""
        gain = self.alpha * self.A * np.asarray(parameters, float) ** -self.alpha
        return (gain / (self.beta * self.B)) ** (-1 / self.beta)

    def cheapest(self, loss: ArrayLike) -> Allocation:
        """The split of least 6ND that reaches `loss`; nan where no model does.

        With m = (loss - E)^(1/k) the terms balance at A N^-alpha = m beta / (alpha + beta) and
        B D^-beta = m alpha / (alpha + beta).
        """
        total, share = self.excess(loss), self.exponent_a
        parameters = (self.A / (total * share)) ** (1 / self.alpha)
        return Allocation(parameters, (self.B / (total * (1 - share))) ** (1 / self.beta))

    def contour(self, loss: float, *, span: float = 10.0, count: int = 101) -> Allocation:
        """The iso-loss curve of one law: `count` pairs of N and D that all reach `loss`.

        N runs, evenly in its log, from the cheapest split's over `span` to `span` times it; D is nan
        where no number of tokens brings so small a model to that loss.
        """
        middle = float(np.asarray(self.cheapest(loss).parameters))
        parameters = middle * np.geomspace(1 / span, span, count)
        return Allocation(parameters, self.tokens_for_loss(loss, parameters))

    @np.errstate(over="ignore", divide="ignore", invalid="ignore")
    def gradient(self, parameters: ArrayLike, tokens: ArrayLike) -> Gradient:
        """How loss falls with size and with data: dL/dN and dL/dD, in nats per parameter and per token."""
        n, d = np.asarray(parameters, float), np.asarray(tokens, float)
        by_size, by_data = self.A * n**-self.alpha, self.B * d**-self.beta
        outer = self.k * (by_size + by_data) ** (self.k - 1)
        return Gradient(-outer * self.alpha * by_size / n, -outer * self.beta * by_data / d)

    @property
    def exponent_a(self) -> Numbers:
        """The exponent a in N_opt = G (C/6)^a; tokens grow as C^(1 - a)."""
        return self.beta / (self.alpha + self.beta)

    @property
    def constants(self) -> dict[str, Numbers]:
        """The constants by name, in the order in which they are printed; k where it is not 1."""
        names = [f.name for f in fields(self) if f.name != "k" or self.has_outer_power]
        return {name: getattr(self, name) for name in names}

    @property
    def has_outer_power(self) -> bool:
        """Whether k differs from 1 anywhere."""
        return not np.all(np.equal(self.k, 1.0))

    @property
    def form(self) -> FormName:
        """The narrowest form that the constants have, throughout."""
        return next(name for name in NARROWEST_FIRST if self.is_of(name))

    def is_of(self, form: FormName) -> bool:
        """Whether every law of the batch has this form: all are Skaling, and tied ones are Chinchilla."""
        if form == "skaling":
            return True
        if form == "kaplan":
            return bool(np.all(np.equal(self.E, 0.0)) and np.all(np.equal(self.beta, 1.0)))
        return not self.has_outer_power and (form == "chinchilla" or bool(np.all(self.alpha == self.beta)))

    def at(self, index: int | slice | NDArray[np.intp]) -> Self:
        """The draw, or batch of draws, at `index`."""
        return type(self)(**{name: np.asarray(value)[index] for name, value in self.constants.items()})
