"""What a plan says: frozen values, and the JSON of `plan --json`."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from llama_scale.architecture import ModelConfig
from llama_scale.costs import Assumption, Lifetime
from llama_scale.frozen import frozen
from llama_scale.laws import Range
from llama_scale.planning.request import Request
from llama_scale.planning.sentence import sentence
from llama_scale.quantities import Quantity

if TYPE_CHECKING:
    from llama_scale.costs.serving import Fleet, Throughput
    from llama_scale.costs.training import TrainingReport
    from llama_scale.laws import Fit
    from llama_scale.laws.downstream import ScorePrediction
    from llama_scale.planning.family import Neighbour
    from llama_scale.planning.offer import Offer
    from llama_scale.planning.recipe import Recipe
    from llama_scale.planning.sensitivity import Sensitivity
    from llama_scale.planning.shapes import KvChoice


@frozen
class PlannedModel:
    """One model that could be trained; `parameters` as the law counts them, dollars None without a price.

    `throughput` is how it is served by the roofline, None at constant MFUs or where it serves nothing.
    """

    parameters: float
    tokens: float
    loss_nats: float
    lifetime: Lifetime
    throughput: Throughput | None = None

    train_flops = property(attrgetter("lifetime.train_flops"))
    serve_flops = property(attrgetter("lifetime.serve_flops"))
    total_flops = property(attrgetter("lifetime.total_flops"))
    train_gpu_hours = property(attrgetter("lifetime.train_gpu_hours"))
    serve_gpu_hours = property(attrgetter("lifetime.serve_gpu_hours"))
    total_gpu_hours = property(attrgetter("lifetime.total_gpu_hours"))
    train_usd = property(attrgetter("lifetime.train_usd"))
    serve_usd = property(attrgetter("lifetime.serve_usd"))
    total_usd = property(attrgetter("lifetime.total_usd"))

    @property
    def tokens_per_parameter(self) -> float:
        """D / N."""
        return self.tokens / self.parameters

    def to_json(self) -> dict[str, Any]:
        """The fields of one model in `plan --json`."""
        return {
            "parameters": self.parameters,
            "tokens": self.tokens,
            "tokens_per_parameter": self.tokens_per_parameter,
            "loss_nats": self.loss_nats,
            **self.lifetime.to_json(),
        }


class Gap(NamedTuple):
    """How far the buildable model is from the continuous optimum.

    `cost` is the share by which its lifetime costs more than the least that its loss could cost on the
    continuum through it, below 0 by rounding alone; nan where most of what is spent buys no loss (few data),
    or where no other size reaches the loss within the limits.
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
    share: float  # nan where the compute-optimal model cannot be served at all


class Limit(NamedTuple):
    """A condition of the plan, how much of it is used, and whether it is what holds the answer back."""

    name: str
    limit: Quantity | float
    used: float
    binding: bool
    is_default: bool


@frozen
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


class GenerationCost(NamedTuple):
    """One of the models that follow each other: the months it serves, tokens, costs in today's dollars."""

    first_month: int
    months: int
    serve_tokens: float
    train_gpu_hours: float
    train_usd: float | None
    serve_gpu_hours: float | None
    serve_usd: float | None


class RegretRow(NamedTuple):
    """The plan made for one demand: its size, and what it costs over the best at each of the demands."""

    demand: str
    parameters: float
    tokens: float
    regrets: tuple[float, ...]


class Regret(NamedTuple):
    """Plans of equal quality for a low, median, mean and high demand, each judged at all four.

    `regrets` are shares by which a plan's lifetime cost exceeds that of the plan made for the demand that
    comes. Costs are linear in the demand, so that the plan for the mean has the least expected cost.
    """

    demands: tuple[tuple[str, float], ...]
    loss_nats: float
    rows: tuple[RegretRow, ...]


class OtherLaw(NamedTuple):
    """What another published law would recommend for the same question."""

    law: str
    parameters: float
    tokens: float
    loss_nats: float


@frozen(eq=False)
class Plan:
    """The model to train, what it costs, what else was considered, how sure we are, and why.

    `recommended` can be built (`shape`); `optimum` is the continuous one; `compute_optimal` is the model of
    least training compute with the same loss; `compute_optimal_on_budget` that of the same total cost.
    `fleet` is the accelerators that a rate of requests takes, `training` one training of it, `epochs` how
    often the unique tokens are seen, `far_beyond` the factor of an extrapolation that no law bears, `score`
    what the fit says that its loss scores; `family` the LLaMA sizes beside it, `recipe` how to train it,
    `kv_choice` why it has so many KV heads (None where they were not chosen by what serving costs),
    `sensitivity` which inputs move the bill, `offer` a model to buy instead.
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
    fleet: Fleet | None
    training: TrainingReport
    generations: tuple[GenerationCost, ...]
    regret: Regret | None
    epochs: float | None
    score: ScorePrediction | None
    far_beyond: float | None
    family: tuple[Neighbour, ...]
    recipe: Recipe
    kv_choice: KvChoice | None
    sensitivity: tuple[Sensitivity, ...]
    offer: Offer | None

    @property
    def law(self) -> Fit:
        """The law that it rests on, with its draws."""
        return self.request.fit

    @property
    def why_no_intervals(self) -> str:
        """Why `intervals` is None, where it is: the law has no draws, or none of them reaches the target."""
        if self.request.draws(1) is None:
            return self.request.fit.draws_note or "the law has no draws"
        return "no model reaches the target under any draw of the law"

    @property
    def sentence(self) -> str:
        """The answer in one sentence."""
        return sentence(self)

    def to_json(self) -> dict[str, Any]:
        """The object that `plan --json` prints, without `schema`."""
        from llama_scale.planning.document import document

        return document(self)

    def _repr_markdown_(self) -> str:
        from llama_scale.planning.markdown import markdown

        return markdown(self)

    def __repr__(self) -> str:
        return f"<Plan: {self.sentence}>"

    def __str__(self) -> str:
        return self.sentence
