"""What a plan says: frozen values, and the JSON of `plan --json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from llama_scale.architecture import ModelConfig
from llama_scale.costs import Assumption, Lifetime
from llama_scale.laws import Range
from llama_scale.planning.request import Request
from llama_scale.quantities import Quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedModel:
    """One model that could be trained; `parameters` as the law counts them, dollars None without a price."""

    parameters: float
    tokens: float
    loss_nats: float
    lifetime: Lifetime

    @property
    def tokens_per_parameter(self) -> float:
        """D / N."""
        return self.tokens / self.parameters

    def to_json(self) -> dict[str, Any]:
        """The fields of one model in `plan --json`."""
        cost = self.lifetime
        return {
            "parameters": self.parameters,
            "tokens": self.tokens,
            "tokens_per_parameter": self.tokens_per_parameter,
            "loss_nats": self.loss_nats,
            **asdict(cost),
            "total_flops": cost.total_flops,
            "total_gpu_hours": cost.total_gpu_hours,
            "total_usd": cost.total_usd,
        }


class Gap(NamedTuple):
    """How far the buildable model is from the continuous optimum.

    `cost` is the share by which its lifetime costs more than the least that its loss could cost; it is
    below 0 by rounding, or where FLOPs are exact and the shape has better proportions than the continuum.
    """

    loss_nats: float
    cost: float
    parameters: float


class CheapRange(NamedTuple):
    """From `low` to `high` parameters, the same loss costs at most (1 + excess) times the least."""

    excess: float
    low: float
    high: float


class Saving(NamedTuple):
    """What the recommended model saves over the compute-optimal one of the same loss."""

    flops: float
    usd: float | None
    share: float


class Limit(NamedTuple):
    """A condition of the plan, how much of it is used, and whether it is what holds the answer back."""

    name: str
    limit: Quantity | float
    used: float
    binding: bool
    is_default: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """Where the law's draws put the answer: the central `level` of each quantity over `draws` laws.

    `parameters`, `tokens` and costs are of each law's own optimum; `loss_nats` is where one run of the
    recommended model should land. `unreached` is the share of laws under which no model reaches the target.
    """

    level: float
    draws: int
    ranges: Mapping[str, Range]
    unreached: float = 0.0


class BestOnAverage(NamedTuple):
    """The model that is best in expectation over the draws, and its advantage over the recommended one.

    The advantage is in nats for a budget, and a share of the expected cost for a target; it is None where
    the recommended size cannot reach the target under a share `unreached` of the draws, on any data.
    """

    parameters: float
    tokens: float
    advantage: float | None
    unreached: float


class OtherLaw(NamedTuple):
    """What another published law would recommend for the same question."""

    law: str
    parameters: float
    tokens: float
    loss_nats: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """The model to train, what it costs, what else was considered, how sure we are, and why.

    `recommended` can be built (`shape`); `optimum` is the continuous one; `compute_optimal` is the model of
    least training compute with the same loss; `compute_optimal_on_budget` that of the same total cost.
    """

    request: Request
    recommended: PlannedModel
    shape: ModelConfig
    gap: Gap
    optimum: PlannedModel
    compute_optimal: PlannedModel
    compute_optimal_on_budget: PlannedModel | None
    saving: Saving
    flatness: tuple[CheapRange, ...]
    intervals: Intervals | None
    best_on_average: BestOnAverage | None
    limits: tuple[Limit, ...]
    extrapolation: Mapping[str, float]
    other_laws: tuple[OtherLaw, ...]
    warnings: tuple[str, ...]
    assumptions: tuple[Assumption, ...]

    @property
    def sentence(self) -> str:
        """The answer in one sentence."""
        from llama_scale.planning.words import sentence

        return sentence(self)

    def to_json(self) -> dict[str, Any]:
        """The object that `plan --json` prints, without `schema`."""
        from llama_scale.planning.document import document

        return document(self)

    def _repr_markdown_(self) -> str:
        from llama_scale.planning.words import markdown

        return markdown(self)

    def __str__(self) -> str:
        return self.sentence
