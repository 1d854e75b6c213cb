"""What a plan is asked: words of the command or of Python, read once into a frozen Request."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from llama_scale.architecture import LLAMA_VOCABULARY, RECOMPUTE_MODES, ModelConfig, Recompute, nearest_shape
from llama_scale.costs import CostUnit, Default, Economics
from llama_scale.costs.roofline import Traffic
from llama_scale.costs.training import DEFAULT_CARBON, DEFAULT_PUE
from llama_scale.errors import InputError, UnidentifiedError
from llama_scale.frozen import frozen
from llama_scale.laws import (
    ACCOUNTINGS,
    DEFAULT_LAW,
    DEFAULT_LEVEL,
    Fit,
    FlopsAccounting,
    ScalingLaw,
    published,
    resolve_law,
)
from llama_scale.planning.batches import Law, count_of
from llama_scale.planning.families import (
    LARGEST_MODEL,
    SMALLEST_MODEL,
    ExactFamily,
    Family,
    Geometry,
    SixNDFamily,
)
from llama_scale.planning.optimum import NO_LIMITS, Limits, Objective, Problem
from llama_scale.planning.options import PlanOptions, refuse_other_types, refuse_unknown
from llama_scale.planning.quantisation import UNQUANTISED_BITS, Penalty, QuantisedLaw
from llama_scale.planning.reading import Words
from llama_scale.planning.serving import FlopServing, RooflineServing, largest_servable
from llama_scale.planning.supply import read_supply
from llama_scale.quantities import Quantity, counted, format_count, format_quantity, parse_budget, parse_count

if TYPE_CHECKING:
    from llama_scale.planning.references import ReferenceModel

DEFAULT_BUDGET = Quantity(value=1e24, kind="flops")
COST_UNITS: dict[str, CostUnit] = {"flops": "flops", "usd": "usd", "gpu-hours": "gpu_hours"}
PRICED_WORDS = (
    *("accelerator", "serve_accelerator", "price", "serve_price", "mfu", "serve_mfu", "goodput"),
    *("utilisation", "discount", "serve_precision", "serving_benchmarks"),
)
MOST_ACCELERATORS = 10_000_000
LONGEST_TRAINING = 100 * 365 * 86_400.0  # seconds
TARGETS = ("target_loss", "target_score", "match")
BUDGET_LIMITS: dict[CostUnit, tuple[float, float]] = {
    "flops": (1e10, 1e32),
    "usd": (1e-2, 1e14),
    "gpu_hours": (1e-4, 1e14),
}
SERVING_LIMITS = ("serve_accelerators", "time_per_output_token", "time_to_first_token")
MAY_REST = ("E", "k")  # constants that a fit may leave on their bound, and says so
MOST_WORDS = 2_000_000  # in a vocabulary: the largest published, XLM-V's, has half
SMALLEST_NAMED, MOST_UNIQUE = 1e4, 1e18  # parameters that anyone would plan for; tokens there are to find


@frozen(kw_only=False)
class Deadline:
    """So many accelerators, for so long."""

    accelerators: int
    seconds: float

    @property
    def name(self) -> str:
        """What it is called where it binds, or is in the way."""
        return f"deadline with {counted(self.accelerators, 'accelerator')}"


@frozen
class Request:
    """A question with every default filled in; `given` names the words that the asker chose.

    `max_parameters` counts all of them. `limits` is what the deadline, the largest size and the limits on
    latency come to, and `servable` the most parameters that serving within its limits allows (inf where
    nobody asked), both as the law counts.
    """

    fit: Fit
    law_text: str
    flops: FlopsAccounting
    economics: Economics
    mfu_default: Default
    goodput_default: Default
    unit: CostUnit
    budget: Quantity | None
    target_loss: float | None
    target_score: float | None
    match: ReferenceModel | None
    deadline: Deadline | None
    accelerators: int | None
    max_parameters: float | None
    unique_tokens: float | None
    penalty: Penalty | None
    request_rate: float | None
    vocabulary: int
    context: int
    kv_heads: int | None
    recompute: Recompute | None
    pue: float
    carbon: float
    level: float
    given: Mapping[str, Any]
    limits: Limits = NO_LIMITS
    servable: float = math.inf

    @property
    def family(self) -> Family:
        """The continuum of models, counted as asked."""
        convention = self.fit.convention
        geometry = Geometry(vocabulary=self.vocabulary, kv_heads=self.kv_heads)
        if self.flops == "6nd":
            return SixNDFamily(convention=convention, geometry=geometry)
        return ExactFamily(
            convention=convention,
            context=self.context,
            attended_tokens=self.attended_tokens,
            geometry=geometry,
        )

    @property
    def attended_tokens(self) -> float:
        """Tokens that a served token attends to on average."""
        demand = self.economics.demand
        return float(Traffic(demand.input_tokens, demand.output_tokens, demand.samples).attended_tokens)

    @property
    def most_parameters(self) -> float:
        """The largest size, which is asked for in all parameters, as the law counts; inf for any size."""
        if self.max_parameters is None:
            return math.inf
        family = self.family
        return float(family.geometry.recounted(self.max_parameters, "total", family.convention))

    def allows(self, shape: ModelConfig) -> bool:
        """Whether a shape is no larger than was asked for."""
        return self.max_parameters is None or shape.parameters.total <= self.max_parameters * (1 + 1e-12)

    def shape_of(self, parameters: float) -> ModelConfig:
        """The LLaMA of about that size, with what the question says of shapes.

        Raises InputError where its heads are too few to share.
        """
        return nearest_shape(
            parameters,
            convention=self.fit.convention,
            vocabulary=self.vocabulary,
            context=self.context,
            kv_heads=self.kv_heads,
        )

    @property
    def has_target(self) -> bool:
        """Whether a quality is to be reached."""
        return not (self.target_loss is None and self.target_score is None and self.match is None)

    @property
    def must_be_servable(self) -> bool:
        """Whether limits on serving were asked for: these hold whatever is counted, FLOPs too."""
        return self.economics.deployment is not None and bool(self.given.keys() & {*SERVING_LIMITS})

    @property
    def held_by_serving(self) -> float | None:
        """The largest size that limits on serving allow at the usual proportions, where these hold it back.

        Real shapes about it may be wider, which answer faster, so that larger ones may keep the limits.
        """
        held = SMALLEST_MODEL <= self.servable < min(self.most_parameters, LARGEST_MODEL)
        return self.servable if held else None

    @property
    def law(self) -> Law:
        """The fit's law as this question uses it."""
        return self.law_of(self.fit)

    def law_of(self, fit: Fit) -> Law:
        """The law of a fit: of repeated data where data are few, of quantised weights where these count."""
        law = fit.law if self.unique_tokens is None else fit.repeated(self.unique_tokens)
        return law if self.penalty is None else QuantisedLaw(trained=law, penalty=self.penalty)

    def draws(self, most: int) -> Law | None:
        """The fit's draws, used alike and thinned evenly to `most`; None for a law without draws."""
        fit = self.fit
        drawn = fit.draws if self.unique_tokens is None else fit.repeated_draws(self.unique_tokens)
        if drawn is None:
            return None
        step = -(-count_of(drawn) // most)
        drawn = drawn.at(slice(None, None, step)) if step > 1 else drawn
        return drawn if self.penalty is None else QuantisedLaw(trained=drawn, penalty=self.penalty)

    def in_unit(self, unit: CostUnit) -> Request:
        """The same question, counted in another unit; a budget keeps its own."""
        return replace(self, unit=unit)

    def problem(self) -> Problem:
        """The optimisation that the question comes to, its costs in the objective's unit."""
        economics, family = self.economics, self.family
        rates = economics.rates(self.unit)
        serving = FlopServing(rate=rates.serve)
        if economics.deployment is not None and self.unit != "flops":
            serving = RooflineServing(
                deployment=economics.deployment, family=family, rate=economics.serve_rate(self.unit)
            )
        return Problem(
            law=self.law,
            family=family,
            train_rate=rates.train,
            serving=serving,
            serve_tokens=economics.demand.serve_tokens,
        )

    def objective(self, law: Law) -> Objective:
        """What is fixed, under `law`; a model to match stands for the loss that the law predicts for it.

        That model is taken to have seen fresh data, whatever is left for ours.
        """
        if self.match is not None:
            fresh = law if isinstance(law, ScalingLaw) else law.law
            loss = fresh.loss(self.match.count(self.fit.convention), self.match.tokens)
            return Objective("loss", loss, self.limits)
        if self.target_loss is not None:
            return Objective("loss", self.target_loss, self.limits)
        if self.target_score is not None and self.fit.downstream is not None:
            return Objective("loss", float(self.fit.downstream.loss_for(self.target_score)), self.limits)
        return Objective("budget", math.inf if self.budget is None else self.budget.value, self.limits)


def read_request(options: PlanOptions, *, default_budget: Quantity | None = DEFAULT_BUDGET) -> Request:
    """Reads and checks the words; raises InputError on the first that cannot be meant."""
    given = {name: value for name, value in options.items() if value is not None}
    refuse_unknown(given)
    refuse_other_types(given)
    words = Words(given)
    words.refuse_together(*TARGETS, why="two targets")
    fit, law_text = _law(given.get("law"))
    deadline, accelerators = _deadline(words)
    needs_none = deadline is not None or any(name in given for name in TARGETS)
    budget = _budget(given.get("budget"), None if needs_none else default_budget)
    unit = _unit(words, budget)
    flops = cast(FlopsAccounting, words.choice("flops", ACCOUNTINGS, fit.flops_accounting))
    supply = read_supply(words, unit, flops)
    request = Request(
        fit=fit,
        law_text=law_text,
        flops=flops,
        economics=supply.economics,
        mfu_default=supply.mfu,
        goodput_default=supply.goodput,
        unit=unit,
        budget=budget,
        target_loss=words.loss("target_loss"),
        target_score=_score(words, fit),
        match=_match(words, fit),
        deadline=deadline,
        accelerators=accelerators,
        max_parameters=words.optional_number("max_parameters", low=SMALLEST_NAMED, high=LARGEST_MODEL),
        unique_tokens=words.optional_number("unique_tokens", low=1e3, high=MOST_UNIQUE),
        penalty=_penalty(words, supply.weight_bits),
        request_rate=words.optional_number("request_rate", low=1e-6, high=1e9),
        vocabulary=words.whole("vocabulary", low=2, high=MOST_WORDS) or LLAMA_VOCABULARY,
        context=supply.context,
        kv_heads=words.whole("kv_heads", low=1, high=1024),
        recompute=_recompute(words),
        pue=words.number("pue", DEFAULT_PUE.value, low=1, high=10),
        carbon=words.number("carbon", DEFAULT_CARBON.value, low=0, high=10),
        level=words.fraction("level", DEFAULT_LEVEL, high=0.9999),
        given=given,
    )
    return limited(request)


def _recompute(words: Words) -> Recompute | None:
    if "recompute" not in words.given:
        return None
    return cast(Recompute, words.choice("recompute", RECOMPUTE_MODES, "full"))


def limited(request: Request, family: Family | None = None) -> Request:
    """The request with what its deadline, largest size and limits on serving come to worked out.

    Serving allows sizes of a `family`: by default of the usual proportions, where wider ones may be faster.
    """
    deployment = request.economics.deployment
    servable = math.inf
    if deployment is not None and request.must_be_servable:
        servable = largest_servable(deployment, family or request.family)
    largest = min(servable, request.most_parameters)
    flops = math.inf if request.deadline is None else train_flops_by(request.deadline, request.economics)
    return replace(request, limits=Limits(train_flops=flops, parameters=largest), servable=servable)


def without_serving(request: Request) -> Request:
    """The same question for a model that serves nothing, so that no limit on serving holds."""
    demand = replace(request.economics.demand, serve_tokens=0.0, spread=None)
    return limited(replace(request, economics=replace(request.economics, demand=demand, deployment=None)))


def train_flops_by(deadline: Deadline, economics: Economics) -> float:
    """The FLOPs of one training that its accelerators do in its time."""
    hours = deadline.accelerators * deadline.seconds / 3600
    return hours / economics.training.gpu_hours_per_flop


def _deadline(words: Words) -> tuple[Deadline | None, int | None]:
    accelerators = words.whole("accelerators", low=1, high=MOST_ACCELERATORS)
    seconds = words.seconds("deadline", low=60, high=LONGEST_TRAINING, example="30d")
    if seconds is None:
        return None, accelerators
    if accelerators is None:
        raise InputError(
            "a deadline needs the number of accelerators that train until then",
            hint="add it, such as --accelerators 1024",
        )
    return Deadline(accelerators, seconds), accelerators


def _penalty(words: Words, weight_bits: float) -> Penalty | None:
    """What quantising after training costs in loss, where that is asked for."""
    if not words.given.get("quantisation_penalty"):
        return None
    if weight_bits >= UNQUANTISED_BITS:
        raise InputError(
            "weights served in 16 bits are not quantised, so that there is no penalty",
            hint="name a format, such as --serve-precision int4, or leave --quantisation-penalty out",
        )
    return Penalty(bits=math.floor(weight_bits))  # scales aside


def _score(words: Words, fit: Fit) -> float | None:
    """A score that the fit has a loss for."""
    if "target_score" not in words.given:
        return None
    if fit.downstream is None:
        raise InputError(
            f"the law {fit.name} does not say what a loss scores",
            hint="fit a table with a column of scores (llama-scale fit --help), or give --target-loss",
        )
    score = words.fraction("target_score", 0.5)
    if not np.isfinite(fit.downstream.loss_for(score)):
        low, high = fit.downstream.reachable
        raise InputError(
            f"no loss scores {score:g} on {fit.downstream.task}: its curve runs from {low:.3f} to {high:.3f}",
            hint=f"ask for a score in between, such as --target-score {(low + 2 * high) / 3:.2f}",
        )
    return score


def _match(words: Words, fit: Fit) -> ReferenceModel | None:
    """The model to match: a published one, a user's own by its TOML, or of a size the law's optimum."""
    if "match" not in words.given:
        return None
    from llama_scale.planning.references import ModelFile, find_model

    named = str(words.given["match"])
    try:
        parse_count(named)
    except InputError:
        return find_model(named)
    size = words.number("match", 0.0, low=SMALLEST_NAMED, high=LARGEST_MODEL)
    name = f"a compute-optimal {format_count(size)}"
    model = ModelFile(tokens=1e9, parameters=size, name=name, source=f"the law {fit.name}").model(name)
    return replace(model, tokens=float(fit.law.optimal_tokens(model.count(fit.convention))))


def _law(named: Any) -> tuple[Fit, str]:
    if named is None:
        return published(), DEFAULT_LAW
    fit, text = (named, named.name) if isinstance(named, Fit) else (resolve_law(str(named)), str(named))
    refuse_unidentified(fit)
    return fit, text


def refuse_unidentified(fit: Fit) -> None:
    """Raises UnidentifiedError for a fit that was refused, of which somebody kept the estimate."""
    if unknown := [name for name in fit.at_bound if name not in MAY_REST]:
        raise UnidentifiedError(
            f"the fit {fit.name} was refused: it lies on a bound of {', '.join(unknown)}, which its runs do "
            "not fix",
            hint="fit more runs, or name a published law: --law besiroglu-2024",
        )


def _budget(named: Any, default: Quantity | None) -> Quantity | None:
    if named is None:
        return default
    budget = named if isinstance(named, Quantity) else parse_budget(named)
    if budget.kind not in BUDGET_LIMITS:
        raise InputError(
            f"a budget cannot be {format_quantity(budget)}",
            hint="give FLOPs, dollars or GPU-hours, such as --budget 1e24 or --budget '$2M'",
        )
    low, high = BUDGET_LIMITS[cast(CostUnit, budget.kind)]
    if not low <= budget.value <= high:
        smallest, largest = (format_quantity(Quantity(value=v, kind=budget.kind)) for v in (low, high))
        raise InputError(
            f"a budget of {format_quantity(budget)} is out of all proportion",
            hint=f"give one from {smallest} to {largest}, such as --budget 1e24 or --budget '$2M'",
        )
    return budget


def _unit(words: Words, budget: Quantity | None) -> CostUnit:
    """What is counted: the budget's kind, else what was asked for, else dollars where hardware was named."""
    usual = "usd" if any(name in words.given for name in PRICED_WORDS) else "flops"
    asked = COST_UNITS[words.choice("cost_in", tuple(COST_UNITS), usual)]
    if budget is None:
        return asked
    if "cost_in" in words.given and asked != budget.kind:
        raise InputError(
            f"a budget of {format_quantity(budget)} cannot be spent in {words.given['cost_in']}",
            hint="leave --cost-in out: the budget says what is counted",
        )
    return cast(CostUnit, budget.kind)
