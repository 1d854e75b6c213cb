"""From a question to a Plan: the optimum, a shape that can be built, and what they are compared with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from llama_scale.architecture import ModelConfig, nearest_shape, widened
from llama_scale.costs.serving import Fleet, ServedShape, accelerators_for, serve, served_shape
from llama_scale.costs.training import TrainingReport, training_report
from llama_scale.errors import InputError
from llama_scale.laws import Numbers, published, published_names
from llama_scale.laws.downstream import ScorePrediction
from llama_scale.planning.assumptions import assumptions
from llama_scale.planning.cautions import far_beyond, warnings
from llama_scale.planning.families import coordinate_of
from llama_scale.planning.family import neighbours
from llama_scale.planning.feasibility import (
    Refusal,
    missing_shape,
    starved,
    too_dear,
    unbuildable,
    unreachable,
)
from llama_scale.planning.limits import limits_of
from llama_scale.planning.optimum import (
    Objective,
    Problem,
    Sizes,
    Solution,
    best,
    cheap_ranges,
    lowest_cost,
    lowest_loss,
    stacked,
    tokens_for,
)
from llama_scale.planning.recipe import recipe
from llama_scale.planning.regret import regret
from llama_scale.planning.request import PlanOptions, Request, limited, read_request
from llama_scale.planning.sensitivity import sensitivities
from llama_scale.planning.sentence import amount
from llama_scale.planning.shapes import KvChoice, with_chosen_kv_heads, with_recomputation
from llama_scale.planning.uncertainty import MOST_DRAWS, best_on_average, intervals
from llama_scale.planning.values import (
    CheapRange,
    Gap,
    GenerationCost,
    OtherLaw,
    Plan,
    PlannedModel,
    Saving,
)

if TYPE_CHECKING:
    from llama_scale.planning.offer import Offer

FLATNESS = (0.01, 0.05)
NEARLY, WORTHWHILE = 0.002, 0.75  # nats that nobody would pay a quarter of the budget for
FAR_FROM_OPTIMUM = 0.04  # in log N: more than rounding to a shape moves it
NEARBY = tuple(1.02**step for step in range(-16, 17))
ELSEWHERE = tuple(1.02**step for step in range(-70, 71))  # from a quarter to four times the size
NEAR_THE_MOST = 0.95  # of the largest size: shapes are up to 4 % apart
ROUNDINGS = (1.0, 0.985, 1.015, 0.97, 1.03, 0.95, 0.92, 0.88, 0.83)  # sizes tried until one keeps the limits


def answer(request: Request) -> Plan:
    """Solves a question that has been read.

    Raises InfeasibleError where no model does what is asked.
    """
    asked = request
    request, kv_choice, settled = _chosen(asked)
    if not isinstance(settled, Settled):
        raise settled(partial(_has_answer, asked))
    shape, recommended, problem, solution = settled
    objective = request.objective(request.law)
    optimum = _model(request, problem, solution)
    same_loss = _model(request, problem, lowest_cost(problem.without_serving(), recommended.loss_nats))
    on_budget = None
    if objective.fixed == "budget":
        spent = float(problem.cost(*solution))
        on_budget = _model(request, problem, compute_optimal_of_cost(problem, spent))
    spread = intervals(request, problem, recommended)
    extrapolation = _extrapolation(request, recommended)
    at_loss = Objective("loss", optimum.loss_nats * (1 + 1e-9), request.limits)
    ranges = zip(FLATNESS, cheap_ranges(problem, at_loss, FLATNESS, optimum.parameters), strict=True)
    in_vain = tuple(_spent_in_vain(request, problem, recommended))
    demand = request.economics.demand
    how = recipe(shape, recommended.tokens)
    return Plan(
        request=request,
        recommended=recommended,
        shape=shape,
        gap=_gap(request, problem, recommended, optimum, in_vain=bool(in_vain)),
        optimum=optimum,
        compute_optimal=same_loss,
        compute_optimal_on_budget=on_budget,
        saving=_saving(request, recommended, same_loss),
        flatness=tuple(CheapRange(excess, *near) for excess, near in ranges),
        intervals=spread,
        best_on_average=best_on_average(request, problem, recommended),
        limits=limits_of(request, problem, shape, recommended, optimum),
        extrapolation=extrapolation,
        other_laws=_other_laws(request, problem),
        warnings=(*in_vain, *warnings(request, recommended, extrapolation, spread)),
        assumptions=assumptions(request),
        fleet=_fleet(request, shape),
        training=_training(request, shape, recommended, how.batch_tokens),
        generations=_generations(request, recommended),
        regret=regret(problem, demand.spread, at_loss, solution) if demand.spread else None,
        epochs=None if request.unique_tokens is None else recommended.tokens / request.unique_tokens,
        score=_score(request, recommended),
        far_beyond=far_beyond(extrapolation),
        family=neighbours(problem, objective, recommended.parameters, recommended.tokens),
        recipe=how,
        kv_choice=kv_choice,
        sensitivity=sensitivities(request, problem, recommended.parameters, recommended.tokens),
        offer=_offer(request, shape, recommended),
    )


def _spent_in_vain(request: Request, problem: Problem, recommended: PlannedModel) -> Iterator[str]:
    """Says so where the data end before the budget or the time does, so that repeats buy next to nothing."""
    unique = request.unique_tokens
    if unique is None or request.has_target or recommended.tokens <= unique:
        return
    ends = "budget" if request.budget is not None else "deadline"
    nearly = recommended.loss_nats + NEARLY
    least = float(problem.cost(*lowest_cost(problem, nearly, request.limits)))
    if least < WORTHWHILE * recommended.lifetime.total(request.unit):
        yield (
            f"the data hold it back, not the {ends}: {amount(least, request.unit)} reach a loss within "
            f"{NEARLY:g} of it; ask for --target-loss {nearly:.3f}, or find more data"
        )


def _offer(request: Request, shape: ModelConfig, recommended: PlannedModel) -> Offer | None:
    """The model off the shelf that the plan is set against, where one is named."""
    if request.given.get("against") is None:
        return None
    from llama_scale.planning.offer import offer

    return offer(request, shape, recommended.tokens)


def _model(request: Request, problem: Problem, solution: Solution) -> PlannedModel:
    return _planned(request, problem, solution.sizes, float(solution.tokens))


def _planned(request: Request, problem: Problem, sizes: Sizes, tokens: float) -> PlannedModel:
    economics = request.economics
    if sizes.shape is None and economics.deployment is not None:
        at = coordinate_of(problem.family, float(sizes.parameters))
        sizes = sizes._replace(shape=problem.family.sizes(at, shaped=True).shape)
    serves = economics.demand.serve_tokens > 0
    return PlannedModel(
        parameters=float(sizes.parameters),
        tokens=tokens,
        loss_nats=float(problem.law.loss(sizes.parameters, tokens)),
        lifetime=economics.lifetime(
            train_flops=float(sizes.train_flops_per_token) * tokens,
            serve_flops=float(sizes.serve_flops_per_token) * economics.demand.serve_tokens,
            shape=sizes.shape,
        ),
        throughput=economics.throughput(sizes.shape) if serves else None,
    )


class Settled(NamedTuple):
    """The best shape and its model, with the problem on the continuum through it and the optimum there."""

    shape: ModelConfig
    model: PlannedModel
    problem: Problem
    solution: Solution


def _chosen(request: Request) -> tuple[Request, KvChoice | None, Settled | Refusal]:
    """The request with what it leaves to be chosen, the choice of its KV heads, and what it comes to.

    Where heads are as few as the floor, larger models might share them and smaller ones have fewer: both
    are settled, and the better is taken.
    """
    completed, choice = with_chosen_kv_heads(with_recomputation(request))
    found = [(completed, choice, _settled(completed))]
    if choice is not None and completed.kv_heads == choice.shape.heads:
        alone = limited(replace(completed, kv_heads=None))
        found.append((alone, choice, _settled(alone)))
    objective = completed.objective(completed.law)
    worth = [
        _worth(completed, objective, settled.model) if isinstance(settled, Settled) else math.inf
        for *_, settled in found
    ]
    # a refusal is of the question as it was asked, not of heads that we chose
    return found[-1] if min(worth) == math.inf else found[worth.index(min(worth))]


def _has_answer(request: Request, changes: Mapping[str, Any]) -> bool:
    """Whether the same question with other words, as its asker would put it, has an answer."""
    words = cast(PlanOptions, {**request.given, **changes})
    with suppress(InputError):
        return isinstance(_chosen(read_request(words))[2], Settled)
    return False


def _settled(request: Request) -> Settled | Refusal:
    """What a question comes to, or why it has no answer."""
    problem, objective = request.problem(), request.objective(request.law)
    solution = best(problem, objective)
    if refusal := unreachable(request, problem, objective, solution):
        return refusal
    built = _buildable(request, problem, objective, solution)
    if not isinstance(built, Built):
        return built
    settled = _through(request, problem, objective, built)
    return too_dear(request, settled.model) or starved(request, settled.model.loss_nats) or settled


def _through(request: Request, problem: Problem, objective: Objective, built: Built) -> Settled:
    """The best shape about a first one, with the continuum through it.

    Serving may make two sizes nearly as good: where the proportions of the shape move the optimum far from
    it, the shape there is looked at too.
    """
    through = problem.through(built.shape)
    solution, chosen = best(through, objective), built
    for _ in range(2):  # the best near the first may have proportions that lead farther
        far = abs(math.log(float(solution.sizes.parameters) / chosen.model.parameters)) > FAR_FROM_OPTIMUM
        rivals: list[Built | Refusal | None] = []
        if far:
            rivals.append(_buildable(request, through, objective, solution))
        if problem.serving.needs_shapes or _is_held(request, float(solution.sizes.parameters)):
            about = chosen.model.parameters
            rivals.append(_best_shape(request, problem, objective, about, ELSEWHERE if far else NEARBY))
        able = [chosen, *(rival for rival in rivals if isinstance(rival, Built))]
        found = min(able, key=lambda one: _worth(request, objective, one.model))
        if found is chosen:
            break
        chosen = found
        through = problem.through(chosen.shape)
        solution = best(through, objective)
    return Settled(chosen.shape, chosen.model, through, solution)


def _worth(request: Request, objective: Objective, model: PlannedModel) -> float:
    """What is sought least of: loss on a budget, cost at a loss."""
    return model.loss_nats if objective.fixed == "budget" else model.lifetime.total(request.unit)


class Built(NamedTuple):
    """A shape that can be built, and the model that it makes."""

    shape: ModelConfig
    model: PlannedModel


def _buildable(
    request: Request, problem: Problem, objective: Objective, solution: Solution
) -> Built | Refusal:
    """The real shape nearest the optimum that keeps the limits, its tokens chosen anew; or why none does."""
    wanted = float(solution.sizes.parameters)
    for factor in ROUNDINGS:
        shape = _shape_of(request, wanted * factor)
        sizes = problem.family.size_of(shape)
        if refusal := missing_shape(request, float(sizes.parameters), wanted):
            return refusal
        tokens = float(_tokens_for(request, problem, objective, sizes))
        if math.isfinite(tokens) and request.allows(shape):
            return Built(shape, _planned(request, problem, sizes, tokens))
    found = _best_shape(request, problem, objective, wanted, ELSEWHERE)
    return found or unbuildable(request, wanted)


def _tokens_for(request: Request, problem: Problem, objective: Objective, sizes: Sizes) -> Numbers:
    """Training tokens of real shapes; nan too where one is beyond the limits on serving that were asked for.

    The size that these allow is that of the continuum: a shape a little below it may not quite keep them.
    """
    tokens = tokens_for(problem, objective, sizes)
    deployment = request.economics.deployment
    if deployment is None or sizes.shape is None or not request.must_be_servable:
        return tokens
    return np.where(np.isnan(serve(deployment, sizes.shape).batch), np.nan, tokens)


def _shape_of(request: Request, parameters: float) -> ModelConfig:
    """The LLaMA of about that size, with what the question says of shapes."""
    return nearest_shape(
        parameters,
        convention=request.fit.convention,
        vocabulary=request.vocabulary,
        context=request.context,
        kv_heads=request.kv_heads,
    )


def _shapes_of(request: Request, parameters: float) -> Iterator[ModelConfig]:
    """The LLaMA of about that size if it is allowed, and where size is what holds it back a wider one too."""
    shape = _shape_of(request, parameters)
    if request.allows(shape):
        yield shape
        if request.max_parameters is not None and _is_held(request, parameters):
            counts = shape.parameters
            more = request.most_parameters - counts.by(request.fit.convention)
            yield widened(shape, min(more, request.max_parameters - counts.total))


def _is_held(request: Request, parameters: float) -> bool:
    """Whether a size is about the largest that was asked for: a little less of it may cost a lot."""
    return parameters >= NEAR_THE_MOST * request.most_parameters


def _best_shape(
    request: Request, problem: Problem, objective: Objective, wanted: float, factors: tuple[float, ...]
) -> Built | None:
    """The best of the shapes of about `factors` times the size, with its tokens; None where none will do.

    Serving follows heads and layers as well as size, least smoothly where models are small and prompts
    long: there the shape nearest in size need not be the best, nor do what is asked at all.
    """
    found: dict[ModelConfig, Sizes] = {}
    for factor in factors:
        with suppress(InputError):  # too small for so many KV heads
            for shape in _shapes_of(request, wanted * factor):
                found[shape] = problem.family.size_of(shape)
    if not found:
        return None
    sizes = _together(list(found.values()))
    tokens = np.asarray(_tokens_for(request, problem, objective, sizes))
    on_budget = objective.fixed == "budget"
    worth = problem.law.loss(sizes.parameters, tokens) if on_budget else problem.cost(sizes, tokens)
    if np.all(np.isnan(worth)):
        return None
    index = int(np.nanargmin(worth))
    shape = list(found)[index]
    return Built(shape, _planned(request, problem, found[shape], float(tokens[index])))


def _together(sizes: list[Sizes]) -> Sizes:
    """Sizes one by one as one batch."""
    shapes = [each.shape for each in sizes if each.shape is not None]
    shape = None
    if shapes:
        shape = ServedShape(*(np.array(part, float) for part in zip(*shapes, strict=True)))
    return Sizes(
        parameters=np.array([each.parameters for each in sizes], float),
        train_flops_per_token=np.array([each.train_flops_per_token for each in sizes], float),
        serve_flops_per_token=np.array([each.serve_flops_per_token for each in sizes], float),
        shape=shape,
    )


def compute_optimal_of_cost(problem: Problem, budget: float) -> Solution:
    """The compute-optimal model whose training and serving together cost the budget.

    Secant steps on the logarithm of its training budget, of which the logarithm of the whole cost is a
    smooth function of slope between 0 and 1; bisection where they leave what can be served.
    """
    training_only = problem.without_serving()

    def excess(log_budget: float) -> tuple[float, Solution]:
        solution = lowest_loss(training_only, math.exp(log_budget))
        shaped = solution._replace(sizes=_shaped(problem, solution.sizes))
        return math.log(float(problem.cost(*shaped)) / budget), solution

    before = math.log(budget)
    over, solution = excess(before)
    low, high, x = before - 60, before, before - over  # the slope is at most 1: never past the root
    for _ in range(60):
        now, solution = excess(x)
        if abs(now) < 1e-12:
            break
        low, high = (x, high) if now < 0 else (low, x)
        step = x - now * (before - x) / (over - now) if over != now else low
        before, over = x, now
        x = step if low < step < high else (low + high) / 2
    return solution


def _shaped(problem: Problem, sizes: Sizes) -> Sizes:
    if not problem.serving.needs_shapes:
        return sizes
    at = coordinate_of(problem.family, float(sizes.parameters))
    return sizes._replace(shape=problem.family.sizes(at, shaped=True).shape)


def _gap(
    request: Request, problem: Problem, recommended: PlannedModel, optimum: PlannedModel, *, in_vain: bool
) -> Gap:
    """What rounding to a shape costs; no share of what is spent in vain, to which its loss is not owed."""
    reached = recommended.loss_nats * (1 + 1e-12)
    least = float(problem.cost(*lowest_cost(problem, reached, request.limits)))
    least = math.nan if in_vain else least
    return Gap(
        loss_nats=recommended.loss_nats - optimum.loss_nats,
        cost=recommended.lifetime.total(request.unit) / least - 1,
        parameters=recommended.parameters / optimum.parameters - 1,
    )


def _saving(request: Request, recommended: PlannedModel, compute_optimal: PlannedModel) -> Saving:
    ours, theirs = recommended.lifetime, compute_optimal.lifetime
    usd = None if ours.total_usd is None or theirs.total_usd is None else theirs.total_usd - ours.total_usd
    return Saving(
        flops=theirs.total_flops - ours.total_flops,
        usd=usd,
        share=1 - ours.total(request.unit) / theirs.total(request.unit),
    )


def _extrapolation(request: Request, recommended: PlannedModel) -> dict[str, float]:
    """How far one training of the model is beyond the runs behind the law."""
    return request.fit.support.extrapolation(
        parameters=recommended.parameters,
        tokens=recommended.tokens,
        train_flops=recommended.lifetime.train_flops / request.economics.demand.trainings,
    )


def _fleet(request: Request, shape: ModelConfig) -> Fleet | None:
    """Accelerators that answer the rate of requests asked about."""
    deployment = request.economics.deployment
    if request.request_rate is None or deployment is None:
        return None
    fleet = accelerators_for(deployment, served_shape(shape), request.request_rate)
    return fleet if math.isfinite(float(fleet.accelerators)) else None


def _training(request: Request, shape: ModelConfig, model: PlannedModel, batch_tokens: int) -> TrainingReport:
    """One training of the recommended model, in batches of the recipe."""
    training, demand = request.economics.training, request.economics.demand
    return training_report(
        shape,
        model.tokens,
        rental=training.rental,
        mfu=training.mfu,
        goodput=training.goodput,
        accelerators=request.accelerators,
        batch_tokens=batch_tokens,
        recompute=request.recompute,
        pue=request.pue,
        kg_co2_per_kwh=request.carbon,
        train_flops=model.lifetime.train_flops / demand.trainings,
    )


def _generations(request: Request, model: PlannedModel) -> tuple[GenerationCost, ...]:
    """What each retraining costs and serves; empty where nothing is retrained."""
    demand, cost = request.economics.demand, model.lifetime
    if demand.retrain_months is None:
        return ()
    return tuple(
        GenerationCost(
            first_month=part.first_month,
            months=part.months,
            serve_tokens=demand.serve_tokens * part.share,
            train_gpu_hours=cost.train_gpu_hours / demand.trainings,
            train_usd=_scaled(cost.train_usd, part.train_factor / demand.train_factor),
            serve_gpu_hours=_scaled(cost.serve_gpu_hours, part.share),
            serve_usd=_scaled(cost.serve_usd, part.share * part.serve_factor / demand.serve_factor),
        )
        for part in demand.generations
    )


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _score(request: Request, recommended: PlannedModel) -> ScorePrediction | None:
    downstream = request.fit.downstream
    if downstream is None:
        return None
    draws = request.draws(MOST_DRAWS)
    model = recommended.parameters, recommended.tokens
    losses = None if draws is None else np.asarray(draws.loss(*model))
    return downstream.predict(recommended.loss_nats, request.level, loss_draws=losses)


def _other_laws(request: Request, problem: Problem) -> tuple[OtherLaw, ...]:
    """The same question to each published law that counts alike.

    Not for a bare target loss: the same number means another quality under a law with another floor. A
    score belongs to its own fit.
    """
    if request.has_target and request.match is None:
        return ()
    named = [published(name) for name in published_names() if name != request.fit.name]
    fits = [fit for fit in named if fit.convention == request.fit.convention]
    if not fits:
        return ()
    theirs = problem.with_law(stacked([request.law_of(fit) for fit in fits]))
    solution = best(theirs, request.objective(theirs.law))
    columns = (
        np.broadcast_to(column, len(fits)).tolist()
        for column in (solution.sizes.parameters, solution.tokens, theirs.loss(solution))
    )
    answers = (OtherLaw(fit.name, *row) for fit, row in zip(fits, zip(*columns, strict=True), strict=True))
    return tuple(answer for answer in answers if math.isfinite(answer.tokens))
