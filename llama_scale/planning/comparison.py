"""Models side by side: what a law expects of them, what they cost, and from which demand on each is cheaper.

What a model costs is a line in the tokens T that it serves: training + (cost of one served token) x T. Two
such lines cross at T = (training of a - training of b) / (token of b - token of a), or nowhere above 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np

from llama_scale.costs import Assumption, CostUnit, Lifetime
from llama_scale.costs.serving_limits import why_not
from llama_scale.errors import InputError
from llama_scale.frozen import frozen
from llama_scale.laws import Numbers, Range
from llama_scale.planning.cautions import FARTHEST, caveats
from llama_scale.planning.families import LARGEST_MODEL, Sizes, coordinate_of
from llama_scale.planning.optimum import Problem, Solution, lowest_cost
from llama_scale.planning.quantisation import CAVEAT
from llama_scale.planning.references import ReferenceModel, find_model
from llama_scale.planning.request import Request
from llama_scale.planning.shapes import QUALITY_FLOOR
from llama_scale.planning.uncertainty import predicted
from llama_scale.quantities import format_number

DEFAULT_DEMAND = 1e12  # tokens; to have a total where nobody names a demand
MOST_MODELS = 64
DEMANDS = np.logspace(5, 22, 341)  # where the break-even with a model of one's own is looked for first

Verdict = Literal["always", "never", "from", "up to", "equal", "neither"]


class Crossing(NamedTuple):
    """When one model is cheaper than another: always, never, from or up to a demand in served tokens.

    `neither` where none of the two can be served.
    """

    verdict: Verdict
    serve_tokens: float | None = None


class Costs(NamedTuple):
    """What a model costs in one unit: to train, and for each token that it serves."""

    train: float
    token: float

    def total(self, serve_tokens: float) -> float:
        """Training and serving together."""
        return self.train + self.token * serve_tokens


@frozen
class ComparedModel:
    """One model under the law: `parameters` as the law counts them.

    `overtraining` is D over the compute-optimal D of its size, `excess_compute` its training FLOPs over the
    least that reach its loss. `rival` is that compute-optimal model of the same loss, and `against_rival`
    says, by unit, when this model is the cheaper of the two.
    """

    name: str
    source: str
    parameters: float
    tokens: float
    loss_nats: float
    loss_range: Range | None
    costs: Mapping[CostUnit, Costs]
    lifetime: Lifetime
    overtraining: float
    excess_compute: float
    rival: Rival
    against_rival: Mapping[CostUnit, Crossing]
    extrapolation: Mapping[str, float]
    bought: bool = False
    assumed_shape: bool = False

    @property
    def tokens_per_parameter(self) -> float:
        """D / N."""
        return self.tokens / self.parameters

    def total(self, unit: CostUnit) -> float:
        """Training and serving; inf where it cannot be served."""
        total = self.lifetime.total(unit)
        return math.inf if math.isnan(total) else total


@frozen
class Rival:
    """The compute-optimal model of a given loss: least training FLOPs.

    `kv_heads` of the usual size hold its keys and values, as many as the model has that it stands against
    unless others are asked for; None is one for each head.
    """

    parameters: float
    tokens: float
    costs: Mapping[CostUnit, Costs]
    kv_heads: int | None


class Pair(NamedTuple):
    """When `first` is cheaper than `second`, by unit, and how much lower its loss is (below 0: higher)."""

    first: str
    second: str
    crossings: Mapping[CostUnit, Crossing]
    loss_advantage: float


class BuyOrTrain(NamedTuple):
    """A model off the shelf against training one of the same predicted loss, sized anew for each demand.

    Buying is cheaper below `break_even` served tokens (None: at every demand that we looked at).
    """

    bought: str
    parameters: float
    tokens: float
    total: float
    bought_total: float
    break_even: float | None


@frozen(eq=False)
class Comparison:
    """Models side by side at one demand, every pair's break-even, and what was taken for granted."""

    request: Request
    models: tuple[ComparedModel, ...]
    pairs: tuple[Pair, ...]
    buy_or_train: tuple[BuyOrTrain, ...]
    assumptions: tuple[Assumption, ...]
    warnings: tuple[str, ...]
    words: tuple[str, ...]
    default_demand: bool = False

    @property
    def unit(self) -> CostUnit:
        """What totals are counted in."""
        return self.request.unit

    @property
    def frontier(self) -> tuple[ComparedModel, ...]:
        """The models that no other here beats in both predicted loss and total cost."""
        totals = [model.total(self.unit) for model in self.models]
        found = tuple(
            model
            for model, total in zip(self.models, totals, strict=True)
            if total < math.inf
            and not any(
                other.loss_nats <= model.loss_nats
                and cost <= total
                and (other.loss_nats, cost) != (model.loss_nats, total)
                for other, cost in zip(self.models, totals, strict=True)
            )
        )
        return found or self.models

    @property
    def sentence(self) -> str:
        """The answer in one sentence."""
        from llama_scale.planning.comparison_words import sentence

        return sentence(self)

    def to_json(self) -> dict[str, Any]:
        """The object that `compare --json` prints, without `schema`."""
        from llama_scale.planning.comparison_document import document

        return document(self)

    def _repr_markdown_(self) -> str:
        from llama_scale.planning.comparison_words import markdown

        return markdown(self)

    def __repr__(self) -> str:
        return f"<Comparison: {self.sentence}>"

    def __str__(self) -> str:
        return self.sentence


def compare_models(request: Request, models: tuple[str, ...], bought: tuple[str, ...] = ()) -> Comparison:
    """The models by name or TOML file, the `bought` ones at no cost of training.

    Raises InputError for unknown names, files that cannot be read, or no model at all.
    """
    from llama_scale.planning.assumptions import assumptions

    named, problems = _models_called(models, bought), problems_by_unit(request)
    compared = tuple(_compared(request, problems, model, is_bought) for model, is_bought in named)
    anew = request
    if bought and request.economics.deployment is not None and request.kv_heads is None:
        anew = replace(request, kv_heads=QUALITY_FLOOR)  # of the models to train, as a plan has them
    own, left_out = anew.problem(), ("total budget", "shape")
    return Comparison(
        request=request,
        models=compared,
        pairs=tuple(_pair(first, second) for first, second in combinations(compared, 2)),
        buy_or_train=tuple(_buy_or_train(own, model, request.unit) for model in compared if model.bought),
        assumptions=tuple(item for item in assumptions(anew) if item.name not in left_out),
        warnings=_warnings(request, compared, [model for model, _ in named]),
        words=(*models, *(f"--buy={text}" for text in bought)),
    )


def _models_called(models: Sequence[str], bought: Sequence[str]) -> list[tuple[ReferenceModel, bool]]:
    """Each once, with whether it is bought; raises InputError for none, too many, or two of one name."""
    named = list(dict.fromkeys((find_model(text), text in bought) for text in (*models, *bought)))
    if not named:
        raise InputError(
            "which models?",
            hint="name some: llama-scale compare llama-65b chinchilla-70b gpt-3-175b palm-540b",
        )
    if len(named) > MOST_MODELS:
        raise InputError(f"{len(named)} models are too many", hint=f"name at most {MOST_MODELS}")
    counts = Counter(model.name for model, _ in named)
    if twice := sorted(name for name, count in counts.items() if count > 1):
        raise InputError(
            f"two models are called {' and '.join(twice)}", hint="give each file its own name = ..."
        )
    return named


def crossing(ours: Costs, theirs: Costs) -> Crossing:
    """When `ours` is cheaper than `theirs`, over demands from 0 up.

    >>> crossing(Costs(train=3.0, token=1.0), Costs(train=1.0, token=2.0))
    Crossing(verdict='from', serve_tokens=2.0)
    """
    if math.isnan(ours.token) and math.isnan(theirs.token):
        return Crossing("neither")
    if math.isnan(ours.token) or math.isnan(theirs.token):  # what cannot be served is never the cheaper one
        return Crossing("always" if math.isnan(theirs.token) else "never")
    dearer_to_train, cheaper_to_serve = ours.train - theirs.train, theirs.token - ours.token
    if cheaper_to_serve == 0:
        return Crossing("equal" if dearer_to_train == 0 else "always" if dearer_to_train < 0 else "never")
    meeting = dearer_to_train / cheaper_to_serve
    if cheaper_to_serve > 0:
        return Crossing("from", meeting) if meeting > 0 else Crossing("always")
    return Crossing("up to", meeting) if meeting > 0 else Crossing("never")


def sizes_of(request: Request, model: ReferenceModel) -> Sizes:
    """A published model as the request counts: 6N and 2N of its nominal N, or its own products."""
    parameters, shape = model.count(request.fit.convention), model.served_shape
    if request.flops == "6nd":
        return Sizes(parameters, 6 * parameters, 2 * parameters, shape)
    trained, served = (model.forward_flops_per_token(n) for n in (model.context, request.attended_tokens))
    return Sizes(parameters, 3 * trained, served, shape)


def costs_of(
    problems: Mapping[CostUnit, Problem], sizes: Sizes, tokens: float, *, bought: bool = False
) -> dict[CostUnit, Costs]:
    """Training and one served token in every unit that has a price; a bought model is trained already."""
    train_flops = 0.0 if bought else float(sizes.train_flops_per_token) * tokens
    return {
        unit: Costs(problem.train_rate * train_flops, float(problem.serving.cost_per_token(sizes)))
        for unit, problem in problems.items()
    }


def problems_by_unit(request: Request) -> dict[CostUnit, Problem]:
    """The request's problem in every unit that has a price."""
    return {unit: replace(request, unit=unit).problem() for unit in request.economics.units}


def _compared(
    request: Request, problems: Mapping[CostUnit, Problem], model: ReferenceModel, bought: bool
) -> ComparedModel:
    fit, sizes = request.fit, sizes_of(request, model)
    parameters, tokens = float(sizes.parameters), model.tokens
    costs = costs_of(problems, sizes, tokens, bought=bought)
    prediction = predicted(request, parameters, tokens)
    known = prediction.low is not None and prediction.high is not None
    kv_heads = model.shared_kv_heads if request.kv_heads is None else request.kv_heads
    rival = _compute_optimal(replace(request, kv_heads=kv_heads), problems, float(prediction.loss))
    least = rival.costs["flops"].train
    train_flops = float(sizes.train_flops_per_token) * tokens
    return ComparedModel(
        name=model.name,
        source=model.source,
        parameters=parameters,
        tokens=tokens,
        loss_nats=float(prediction.loss),
        loss_range=Range(float(prediction.low), float(prediction.high)) if known else None,  # pyright: ignore
        costs=costs,
        lifetime=request.economics.lifetime(
            train_flops=0.0 if bought else train_flops,
            serve_flops=float(sizes.serve_flops_per_token) * request.economics.demand.serve_tokens,
            shape=sizes.shape,
        ),
        overtraining=tokens / float(fit.law.optimal_tokens(parameters)),
        excess_compute=train_flops / least,
        rival=rival,
        against_rival={unit: crossing(costs[unit], rival.costs[unit]) for unit in costs},
        extrapolation=fit.support.extrapolation(
            parameters=parameters, tokens=tokens, train_flops=train_flops
        ),
        bought=bought,
        assumed_shape=model.assumed_shape,
    )


def _compute_optimal(request: Request, problems: Mapping[CostUnit, Problem], loss: float) -> Rival:
    """The model of least training FLOPs with this loss, its heads as the request has them."""
    sizes, tokens = lowest_cost(problems["flops"].without_serving(), loss)
    if any(problem.serving.needs_shapes for problem in problems.values()):
        family = request.family
        sizes = family.sizes(coordinate_of(family, float(sizes.parameters)), shaped=True)
    return Rival(
        parameters=float(sizes.parameters),
        tokens=float(tokens),
        costs=costs_of(problems, sizes, float(tokens)),
        kv_heads=request.kv_heads,
    )


def _pair(first: ComparedModel, second: ComparedModel) -> Pair:
    crossings: dict[CostUnit, Crossing] = {
        unit: crossing(cost, second.costs[unit]) for unit, cost in first.costs.items()
    }
    return Pair(first.name, second.name, crossings, second.loss_nats - first.loss_nats)


def _buy_or_train(problem: Problem, model: ComparedModel, unit: CostUnit) -> BuyOrTrain:
    """The cheapest own model of the bought one's loss at this demand, and the demand at which they are even.

    What training anew saves is convex in the demand and below 0 at none, so it crosses 0 at most once.
    """
    token = model.costs[unit].token

    def own(serve_tokens: Numbers) -> tuple[Solution, Numbers]:
        asked = replace(problem, serve_tokens=serve_tokens)
        solution = lowest_cost(asked, model.loss_nats)
        return solution, asked.cost(*solution)

    demands, break_even = DEMANDS, None
    for _ in range(3):  # each look narrows the bracket 340 times
        saved = token * demands - own(demands)[1]
        ahead = np.flatnonzero(saved > 0)
        if not ahead.size or ahead[0] == 0:
            break
        low, high = demands[ahead[0] - 1], demands[ahead[0]]
        break_even = math.sqrt(low * high)
        demands = np.logspace(math.log10(low), math.log10(high), DEMANDS.size)
    served = float(problem.serve_tokens)
    solution, total = own(served)
    return BuyOrTrain(
        bought=model.name,
        parameters=float(solution.sizes.parameters),
        tokens=float(solution.tokens),
        total=float(total),
        bought_total=token * served,
        break_even=break_even,
    )


def _warnings(
    request: Request, models: Sequence[ComparedModel], references: Sequence[ReferenceModel]
) -> tuple[str, ...]:
    warnings = [*_beyond(models), *_unserved(request, models, references)]
    if request.penalty is not None:
        warnings.append(f"losses are of weights rounded to {request.penalty.bits:g} bits: {CAVEAT}")
    if guessed := [model.name for model in models if model.assumed_shape]:
        warnings.append(f"no shape was given for {', '.join(guessed)}: a LLaMA's of that size is assumed")
    if any(model.rival.parameters > LARGEST_MODEL for model in models):
        warnings.append(
            "an equal-loss optimum is larger than any model: the loss is too near the law's floor"
        )
    return (*warnings, *caveats(request))


def _beyond(models: Sequence[ComparedModel]) -> Iterator[str]:
    """How far the models lie beyond the runs behind the law."""
    farthest = {
        model.name: max((abs(math.log(factor)) for factor in model.extrapolation.values()), default=0.0)
        for model in models
    }
    beyond = [name for name, distance in farthest.items() if distance > 0]
    if not beyond:
        return
    worst = max(farthest, key=lambda name: farthest[name])
    who = f"{len(beyond)} of {len(models)} lie beyond the runs behind the law, {worst} by"
    who = f"{worst} lies beyond the runs behind the law by" if len(models) == 1 else who
    times = math.exp(farthest[worst])
    doubt = "extrapolated" if times <= FARTHEST else "examples: no law was shown to hold so far out"
    yield f"{who} {format_number(times)} times: such losses are {doubt}"


def _unserved(
    request: Request, models: Sequence[ComparedModel], references: Sequence[ReferenceModel]
) -> Iterator[str]:
    """What stands in the way of each model that cannot be served within the limits."""
    deployment = request.economics.deployment
    if deployment is None:
        return
    for model, reference in zip(models, references, strict=True):
        served = not math.isinf(model.total("gpu_hours"))
        if not served and (error := why_not(deployment, reference.served_shape, model.name)):
            yield f"{error.message}; {error.hint}"
