"""What quantising the weights after training adds to the loss, and a law that counts it.

delta(N, D, P) = 0.017 D^0.5251 / (N^0.2261 P^5.4967) nats, of N parameters trained on D tokens whose
weights are rounded to P bits: Ouyang et al. 2024 (arXiv 2411.17691, figure 6), fitted on Pythia's
checkpoints under GPTQ. Kumar et al. 2024 (arXiv 2411.04330) find the same rise with data (D^0.51) and fall
with size (N^-0.34) on smaller models. Both say that over-trained models suffer more: at one size, more
data make the quantised model worse from some D on.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from llama_scale.errors import InputError
from llama_scale.frozen import frozen
from llama_scale.laws import Numbers, Range, ScalingLaw
from llama_scale.laws.repeated import RepeatedDataLaw

COEFFICIENT, BY_TOKENS, BY_PARAMETERS, BY_BITS = 0.017, 0.5251, 0.2261, 5.4967
SOURCE = "Ouyang et al. 2024, arXiv 2411.17691, figure 6: Pythia under GPTQ"
CAVEAT = (
    "fitted on Pythia (160M to 12B parameters, 1B to 206B tokens) under GPTQ at 2 to 4 bits; better methods, "
    "or training with quantisation, lose less; the paper's table 1, from another of its fits, has a third "
    "less at 405B"
)
SUPPORT = {"parameters": Range(160e6, 12e9), "tokens": Range(1e9, 206e9), "bits": Range(2, 4)}
UNQUANTISED_BITS = 16
HALVINGS = 40  # of a bracket in log D: to 1e-10, about a lowest loss that is flat
NEWTON_STEPS = 40  # about ten do
ROUNDING = 1e-9  # of a loss
WIDEST = 60.0  # in log D


@frozen
class Penalty:
    """Nats that rounding weights to `bits` adds; none from 16 bits on.

    >>> round(float(Penalty(bits=4).loss(7e9, 1e12)), 3)
    0.099
    """

    bits: float

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 64:
            raise InputError(
                f"no penalty is known for weights of {self.bits:g} bits", hint="serve in bf16, int8 or int4"
            )

    @property
    def scale(self) -> float:
        """Nats at N = D = 1."""
        return 0.0 if self.bits >= UNQUANTISED_BITS else COEFFICIENT * self.bits**-BY_BITS

    def loss(self, parameters: ArrayLike, tokens: ArrayLike) -> Numbers:
        """Nats that are added to the loss of N parameters trained on D tokens."""
        n, d = np.asarray(parameters, float), np.asarray(tokens, float)
        return self.scale * d**BY_TOKENS * n**-BY_PARAMETERS

    def extrapolation(self, parameters: float, tokens: float) -> dict[str, float]:
        """How far beyond the runs behind the penalty, by name, as `Range.beyond` counts it; 1 inside."""
        values = {"parameters": parameters, "tokens": tokens, "bits": self.bits}
        return {name: SUPPORT[name].beyond(value) for name, value in values.items()}


@frozen
class QuantisedLaw:
    """The loss of the model that is served: the law's, with the penalty of its quantisation on top.

    At one size it falls with data to a least value and rises from there on; `tokens_for_loss` answers with
    the fewest tokens.
    """

    trained: ScalingLaw | RepeatedDataLaw
    penalty: Penalty

    @property
    def law(self) -> ScalingLaw:
        """The law of data seen once and weights as trained."""
        return self.trained if isinstance(self.trained, ScalingLaw) else self.trained.law

    def loss(self, parameters: ArrayLike, tokens: ArrayLike) -> Numbers:
        """Loss of the quantised model."""
        return self.trained.loss(parameters, tokens) + self.penalty.loss(parameters, tokens)

    def tokens_for_loss(self, loss: ArrayLike, parameters: ArrayLike) -> Numbers:
        """The fewest tokens that bring the quantised N parameters to `loss`; nan where none do.

        The loss is convex in x = log D: from the tokens that would do without the penalty, which are too few,
        Newton's steps stay short of the root, and pass the lowest loss only where there is none.
        """
        target = np.asarray(loss, float)
        by_size, rising = self._by_size(parameters), self.penalty.loss(parameters, 1.0)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            x = np.log(np.asarray(self.trained.tokens_for_loss(target, parameters), float))
            for _ in range(NEWTON_STEPS):
                whole, falls = self._fall(by_size, x)
                added = rising * np.exp(BY_TOKENS * x)
                slope, excess = falls + BY_TOKENS * added, self.law.E + whole + added - target
                change = np.where(slope < 0, excess / slope, 0.0)
                x = x - change
                if not np.any(np.abs(change) > 1e-8):
                    break
            return np.where(self.loss(parameters, np.exp(x)) <= target * (1 + ROUNDING), np.exp(x), np.nan)

    def _by_size(self, parameters: ArrayLike) -> Numbers:
        """What too small a model costs at any D: A N^-alpha, of N' where data are repeated."""
        n, trained = np.asarray(parameters, float), self.trained
        effective = n if isinstance(trained, ScalingLaw) else trained.effective_parameters(n)
        return self.law.A * effective**-self.law.alpha

    def _fall(self, by_size: Numbers, x: Numbers) -> tuple[Numbers, Numbers]:
        """What the trained law says above its floor at x = log D, and its slope in x."""
        law, log_effective, growth = self.law, x, np.ones(())
        if not isinstance(self.trained, ScalingLaw):
            log_effective = np.log(self.trained.effective_tokens(np.exp(x)))
            growth = self.trained.growth(np.exp(x))
        falling = law.B * np.exp(-law.beta * log_effective)
        whole = (by_size + falling) ** law.k
        return whole, -law.k * law.beta * falling * whole / (by_size + falling) * growth

    def best_tokens(self, parameters: ArrayLike) -> Numbers:
        """The tokens beyond which more data make the quantised model worse.

        Of data seen once the root in x = log D of k beta B D^-beta S^(k-1) = b delta, S = A N^-alpha +
        B D^-beta, whose logarithm is nearly linear in x; under repeated data it is bisected.
        """
        n, law = np.asarray(parameters, float), self.law
        if self.penalty.scale == 0.0:
            return np.full(np.broadcast(n, np.asarray(self.law.E)).shape, np.exp(WIDEST))
        by_size, rising = self._by_size(n), np.log(BY_TOKENS * self.penalty.loss(n, 1.0))
        start = np.log(law.k * law.beta * law.B) - rising
        x = start / (law.beta + BY_TOKENS)
        for _ in range(NEWTON_STEPS):
            falling = law.B * np.exp(-law.beta * x)
            value = start - (law.beta + BY_TOKENS) * x + (law.k - 1) * np.log(by_size + falling)
            change = value / (
                -(law.beta + BY_TOKENS) + (1 - law.k) * law.beta * falling / (by_size + falling)
            )
            x = x - change
            if not np.any(np.abs(change) > 1e-8):
                break
        x = np.minimum(x, WIDEST)
        repeated = self.trained
        return np.exp(x) if isinstance(repeated, ScalingLaw) else self._bisected(n, x, repeated.unique_tokens)

    def _bisected(self, n: Numbers, fresh: Numbers, unique_tokens: Numbers) -> Numbers:
        """The same under repeated data, which are worth less than as many `fresh` ones beyond the unique."""
        high = np.asarray(fresh, float)
        low = np.minimum(high, np.log(unique_tokens))
        by_size, rising = self._by_size(n), BY_TOKENS * self.penalty.loss(n, 1.0)
        for _ in range(HALVINGS):
            if not np.any(high - low > 1e-10):
                break
            middle = (low + high) / 2
            rises = self._fall(by_size, middle)[1] + rising * np.exp(BY_TOKENS * middle) > 0
            low, high = np.where(rises, low, middle), np.where(rises, middle, high)
        return np.exp(low)

    def at(self, index: int | slice) -> Self:
        """The draw, or batch of draws, at `index`."""
        return type(self)(trained=self.trained.at(index), penalty=self.penalty)
