"""The forms of scaling laws: loss as a function of parameters N and tokens D, and its optimum in closed form.

A law's constants may be numbers, or arrays of one shape: then it is a batch of draws, and every
method broadcasts over them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = float | NDArray[np.float64]


class Allocation(NamedTuple):
    """How a training budget is split: N parameters, D tokens."""

    parameters: Numbers
    tokens: Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class ChinchillaLaw:
    """L(N, D) = E + A N^-alpha + B D^-beta (Hoffmann et al. 2022, eq. 2), in nats per token."""

    form: ClassVar[str] = "chinchilla"

    E: Numbers
    A: Numbers
    B: Numbers
    alpha: Numbers
    beta: Numbers

    def loss(self, parameters: ArrayLike, tokens: ArrayLike) -> Numbers:
        """Predicted loss of N parameters trained on D tokens."""
        n, d = np.asarray(parameters, float), np.asarray(tokens, float)
        return self.E + self.A * n**-self.alpha + self.B * d**-self.beta

    def tokens_for_loss(self, loss: ArrayLike, parameters: ArrayLike) -> Numbers:
        """Tokens that bring N parameters to `loss`; nan where no number of tokens does."""
        room = np.asarray(loss, float) - self.E - self.A * np.asarray(parameters, float) ** -self.alpha
        return (np.where(room > 0, room, np.nan) / self.B) ** (-1 / self.beta)

    def parameters_for_loss(self, loss: ArrayLike, tokens: ArrayLike) -> Numbers:
        """Parameters that reach `loss` on D tokens; nan where no number of parameters does."""
        room = np.asarray(loss, float) - self.E - self.B * np.asarray(tokens, float) ** -self.beta
        return (np.where(room > 0, room, np.nan) / self.A) ** (-1 / self.alpha)

    def compute_optimum(self, train_flops: ArrayLike) -> Allocation:
        """The split of C = 6ND that minimises the loss (Hoffmann et al. 2022, eq. 4)."""
        nd = np.asarray(train_flops, float) / 6
        balance = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        parameters = balance * nd**self.exponent_a
        return Allocation(parameters, nd / parameters)

    @property
    def exponent_a(self) -> Numbers:
        """The exponent a in N_opt = G (C/6)^a; tokens grow as C^(1 - a)."""
        return self.beta / (self.alpha + self.beta)

    @property
    def constants(self) -> dict[str, Numbers]:
        """The constants by name, in the order in which they are printed."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def at(self, index: int | slice | NDArray[np.intp]) -> Self:
        """The draw, or batch of draws, at `index`."""
        return type(self)(**{name: np.asarray(value)[index] for name, value in self.constants.items()})
