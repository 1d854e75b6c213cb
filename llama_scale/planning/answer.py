"""From a question to a Plan: the optimum, a shape that can be built, and what they are compared with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from llama_scale.architecture import ModelConfig, nearest_shape, widened
from llama_scale.costs.serving import Fleet, ServedShape, accelerators_for, served_shape
from llama_scale.costs.training import TrainingReport, training_report
from llama_scale.errors import InputError
from llama_scale.laws import published, published_names
from llama_scale.laws.downstream import ScorePrediction
from llama_scale.planning.assumptions import assumptions
from llama_scale.planning.cautions import far_beyond, warnings
from llama_scale.planning.families import coordinate_of
from llama_scale.planning.family import neighbours
from llama_scale.planning.feasibility import (
    refuse_dear_target,
    refuse_missing_shape,
    refuse_too_few_data,
    refuse_unbuildable,
    refuse_unreachable,
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
from llama_scale.planning.request import Request
from llama_scale.planning.sensitivity import sensitivities
from llama_scale.planning.sentence import amount
from llama_scale.planning.shapes import with_chosen_kv_heads, with_recomputation
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
NEARBY = tuple(1.04**step for step in range(-8, 9))  # shapes are about 3 % apart
ELSEWHERE = tuple(1.04**step for step in range(-35, 36))  # from a quarter to four times the size
NEAR_THE_MOST = 0.95  # of the largest size: shapes are up to 4 % apart
ROUNDINGS = (1.0, 0.985, 1.015, 0.97, 1.03, 0.95, 0.92, 0.88, 0.83)  # sizes tried until one keeps the limits


def answer(request: Request) -> Plan:
    """Solves a question that has been read.

    Raises InfeasibleError where no model does what is asked.
    """
    request, kv_choice = with_chosen_kv_heads(with_recomputation(request))
    problem, objective = request.problem(), request.objective(request.law)
    shape, recommended, problem, solution = _settled(request, problem, objective)
    if objective.fixed == "loss":
        refuse_dear_target(request, recommended)
    refuse_too_few_data(request, recommended.loss_nats)
    optimum = _model(request, problem, solution)
    same_loss = _model(request, problem, lowest_cost(problem.without_serving(), recommended.loss_nats))
    on_budget = None
    if objective.fixed == "budget":
        spent = float(problem.cost(*solution))
        on_budget = _model(request, problem, compute_optimal_of_cost(problem, spent))
    spread = intervals(request, problem, recommended)
    extrapolation = _extrapolation(request, recommended)
    at_loss = Objective("loss", optimum.loss_nats * (1 + 1e-9), request.limits)
    ranges = zip(FLATNESS, cheap_ranges(problem, at_loss, FLATNESS), strict=True)
    demand = request.economics.demand
    how = recipe(shape, recommended.tokens)
    return Plan(
        request=request,
        recommended=recommended,
        shape=shape,
        gap=_gap(request, problem, recommended, optimum),
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
        warnings=(
            *_spent_in_vain(request, problem, recommended),
            *warnings(request, recommended, extrapolation, spread),
        ),
        assumptions=assumptions(request),
        fleet=_fleet(request, shape),
        training=_training(request, shape, recommended, how.batch_tokens),
        generations=_generations(request, recommended),
        regret=regret(problem, demand.spread, optimum.loss_nats, request.limits) if demand.spread else None,
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
    """Says so where the data end before the budget does, so that repeats buy next to nothing."""
    if request.unique_tokens is None or request.budget is None or request.has_target:
        return
    nearly = recommended.loss_nats + NEARLY
    least = float(problem.cost(*lowest_cost(problem, nearly, request.limits)))
    if least < WORTHWHILE * recommended.lifetime.total(request.unit):
        yield (
            f"the data hold it back, not the budget: {amount(least, request.unit)} reach a loss within "
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


def _settled(
    request: Request, problem: Problem, objective: Objective
) -> tuple[ModelConfig, PlannedModel, Problem, Solution]:
    """The best shape, with the problem on the continuum through it and the optimum there.

    Serving may make two sizes nearly as good: where the proportions of the shape move the optimum far from
    it, the shape there is looked at too.
    """
    solution = best(problem, objective)
    refuse_unreachable(request, problem, objective, solution)
    shape, model = _buildable(request, problem, objective, solution)
    through = problem.through(shape)
    solution = best(through, objective)
    far = abs(math.log(float(solution.sizes.parameters) / model.parameters)) > FAR_FROM_OPTIMUM
    rivals = [_buildable(request, through, objective, solution)] if far else []
    if problem.serving.needs_shapes or _is_held(request, float(solution.sizes.parameters)):
        near = _best_shape(request, problem, objective, model.parameters, ELSEWHERE if far else NEARBY)
        rivals += [near] if near else []
    for other, rival in rivals:
        if _worth(request, objective, rival) < _worth(request, objective, model):
            shape, model = other, rival
    if rivals:
        through = problem.through(shape)
        solution = best(through, objective)
    return shape, model, through, solution


def _worth(request: Request, objective: Objective, model: PlannedModel) -> float:
    """What is sought least of: loss on a budget, cost at a loss."""
    return model.loss_nats if objective.fixed == "budget" else model.lifetime.total(request.unit)


def _buildable(
    request: Request, problem: Problem, objective: Objective, solution: Solution
) -> tuple[ModelConfig, PlannedModel]:
    """The real shape nearest the optimum that keeps the limits, its tokens chosen anew."""
    wanted = float(solution.sizes.parameters)
    for factor in ROUNDINGS:
        shape = _shape_of(request, wanted * factor)
        sizes = problem.family.size_of(shape)
        refuse_missing_shape(request, float(sizes.parameters), wanted)
        tokens = float(tokens_for(problem, objective, sizes))
        if math.isfinite(tokens) and request.allows(shape):
            return shape, _planned(request, problem, sizes, tokens)
    if found := _best_shape(request, problem, objective, wanted, ELSEWHERE):
        return found
    refuse_unbuildable(request, wanted, _is_buildable)


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
) -> tuple[ModelConfig, PlannedModel] | None:
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
    tokens = np.asarray(tokens_for(problem, objective, sizes))
    on_budget = objective.fixed == "budget"
    worth = problem.law.loss(sizes.parameters, tokens) if on_budget else problem.cost(sizes, tokens)
    if np.all(np.isnan(worth)):
        return None
    index = int(np.nanargmin(worth))
    shape = list(found)[index]
    return shape, _planned(request, problem, found[shape], float(tokens[index]))


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


def _is_buildable(request: Request) -> bool:
    """Whether some shape does what is asked."""
    problem, objective = request.problem(), request.objective(request.law)
    solution = best(problem, objective)
    wanted = float(solution.sizes.parameters)
    return math.isfinite(wanted) and _best_shape(request, problem, objective, wanted, ELSEWHERE) is not None


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


def _gap(request: Request, problem: Problem, recommended: PlannedModel, optimum: PlannedModel) -> Gap:
    reached = recommended.loss_nats * (1 + 1e-12)
    least = float(problem.cost(*lowest_cost(problem, reached, request.limits)))
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
    rate = request.request_rate * request.economics.demand.samples  # each is a request to the engine
    fleet = accelerators_for(deployment, served_shape(shape), rate)
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
