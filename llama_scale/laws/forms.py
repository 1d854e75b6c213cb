"""The forms of scaling laws: loss as a function of parameters N and tokens D, and its optimum in closed form.

A law's constants may be numbers, or arrays of one shape: then it is a batch of draws, and every
method broadcasts over them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, NamedTuple, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = float | NDArray[np.float64]
FormName = Literal["chinchilla", "skaling"]
FORMS: tuple[FormName, ...] = get_args(FormName)


class Allocation(NamedTuple):
    """How a training budget is split: N parameters, D tokens."""

    parameters: Numbers
    tokens: Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingLaw:
    """L(N, D) = E + (A N^-alpha + B D^-beta)^k, in nats per token.

    With k = 1 it is the Chinchilla form (Hoffmann et al. 2022, eq. 2). Another k, the Skaling form, lets
    what more data bring depend on the size: with k < 1, less where the size is what limits.
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

    @property
    def exponent_a(self) -> Numbers:
        """The exponent a in N_opt = G (C/6)^a; tokens grow as C^(1 - a)."""
        return self.beta / (self.alpha + self.beta)

    @property
    def constants(self) -> dict[str, Numbers]:
        """The constants by name, in the order in which they are printed; k where it is not 1."""
        names = [f.name for f in fields(self) if f.name != "k" or self.form == "skaling"]
        return {name: getattr(self, name) for name in names}

    @property
    def form(self) -> FormName:
        """Which form the constants make it: "chinchilla" where k is exactly 1, throughout."""
        return "chinchilla" if np.all(np.equal(self.k, 1.0)) else "skaling"

    def at(self, index: int | slice | NDArray[np.intp]) -> Self:
        """The draw, or batch of draws, at `index`."""
        return type(self)(**{name: np.asarray(value)[index] for name, value in self.constants.items()})
