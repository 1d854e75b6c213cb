"""What a model will serve over its life: requests, their growth, their spread, and how often it is retrained.

Tokens count what is read and what is written. A request reads its prompt once, however many samples are
drawn from it (their caches share the prefix), and writes every sample, reasoning included. Growth spreads
the life's tokens over its months; discounting makes later dollars smaller, never tokens or hours.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from llama_scale.frozen import frozen

DEFAULT_INPUT_TOKENS, DEFAULT_OUTPUT_TOKENS = 1000.0, 250.0  # as Sardana & Frankle ask (arXiv 2401.00448)
TAIL_DEVIATIONS = 1.6448536269514722  # standard deviations from the median to either end of the central 90 %


class Spread(NamedTuple):
    """A demand that is not known: log-normal, its central 90 % from `low` to `high` tokens."""

    low: float
    high: float

    @property
    def median(self) -> float:
        """As likely exceeded as not."""
        return math.sqrt(self.low * self.high)

    @property
    def log_deviation(self) -> float:
        """Standard deviation of the logarithm."""
        return math.log(self.high / self.low) / (2 * TAIL_DEVIATIONS)

    @property
    def mean(self) -> float:
        """Expected tokens, exp(mu + sigma^2 / 2): above the median, for large demands weigh more."""
        return self.median * math.exp(self.log_deviation**2 / 2)


class Generation(NamedTuple):
    """One training and the months that its model serves: shares are of the life's tokens.

    The factors are today's worth of a dollar of its training, and of one of its serving.
    """

    first_month: int
    months: int
    share: float
    train_factor: float
    serve_factor: float


@frozen
class Demand:
    """What is served over a life, and how it comes.

    `serve_tokens` is the expected total, read and written, of all samples. `input_tokens` and
    `output_tokens` are those of one request and one of its `samples`. `months` is the length of the life,
    None where time plays no part; `growth` is of a month, `discount` of a year; a new model is trained
    every `retrain_months`.
    """

    serve_tokens: float
    input_tokens: float = DEFAULT_INPUT_TOKENS
    output_tokens: float = DEFAULT_OUTPUT_TOKENS
    samples: int = 1
    months: int | None = None
    growth: float = 0.0
    discount: float = 0.0
    retrain_months: int | None = None
    spread: Spread | None = None

    @property
    def written_tokens(self) -> float:
        """Tokens that one request writes, all samples together."""
        return self.samples * self.output_tokens

    @property
    def tokens_per_request(self) -> float:
        """Tokens that one request reads and writes."""
        return self.input_tokens + self.written_tokens

    @property
    def requests(self) -> float:
        """Requests over the life."""
        return self.serve_tokens / self.tokens_per_request

    @property
    def input_share(self) -> float:
        """The share of the tokens that is read."""
        return self.input_tokens / self.tokens_per_request

    @property
    def trainings(self) -> int:
        """How often a model is trained over the life."""
        return len(self.generations)

    @property
    def train_factor(self) -> float:
        """Today's worth of a dollar spent on each training, summed over the trainings."""
        return math.fsum(generation.train_factor for generation in self.generations)

    @property
    def serve_factor(self) -> float:
        """Today's worth of a dollar of serving, on average over the life's tokens."""
        return math.fsum(part.share * part.serve_factor for part in self.generations)

    @property
    def monthly_shares(self) -> tuple[float, ...]:
        """The share of the life's tokens that each month serves."""
        weights = [(1 + self.growth) ** month for month in range(self.months or 1)]
        whole = math.fsum(weights)
        return tuple(weight / whole for weight in weights)

    @property
    def generations(self) -> tuple[Generation, ...]:
        """The models that follow each other; one where nothing is retrained."""
        shares, life = self.monthly_shares, self.months or 1
        each = self.retrain_months or life
        starts = range(0, life, each)
        return tuple(self._generation(shares, start, min(each, life - start)) for start in starts)

    def _generation(self, shares: tuple[float, ...], start: int, months: int) -> Generation:
        part = range(start, start + months)
        share = math.fsum(shares[month] for month in part)
        worth = math.fsum(shares[month] * self._worth(month + 0.5) for month in part)
        return Generation(start + 1, months, share, self._worth(start), worth / share)

    def _worth(self, month: float) -> float:
        """Today's worth of a dollar that is paid so many months from now."""
        return 1.0 if self.months is None else (1 + self.discount) ** (-month / 12)


def total_of_months(first_month: float, growth: float, months: int) -> float:
    """What a life serves that starts at so much a month and grows."""
    return first_month * math.fsum((1 + growth) ** month for month in range(months))
