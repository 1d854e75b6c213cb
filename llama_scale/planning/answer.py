"""From a question to a Plan: the optimum, a shape that can be built, and what they are compared with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from llama_scale.architecture import ModelConfig
from llama_scale.costs.roofline import served_shape
from llama_scale.costs.serving import Fleet, accelerators_for
from llama_scale.costs.training import TrainingReport, training_report
from llama_scale.laws import published, published_names
from llama_scale.laws.downstream import ScorePrediction
from llama_scale.planning.assumptions import assumptions
from llama_scale.planning.batches import stacked
from llama_scale.planning.buildable import Settled, answered_loss, model_of, settle, shaped
from llama_scale.planning.cautions import far_beyond, warnings
from llama_scale.planning.families import Sizes
from llama_scale.planning.family import neighbours
from llama_scale.planning.limits import is_tight, limits_of
from llama_scale.planning.optimum import (
    Objective,
    Problem,
    Solution,
    best,
    cheap_ranges,
    lowest_cost,
    lowest_loss,
)
from llama_scale.planning.recipe import recipe
from llama_scale.planning.regret import regret
from llama_scale.planning.request import Request
from llama_scale.planning.sensitivity import sensitivities
from llama_scale.planning.sentence import amount
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


def answer(request: Request) -> Plan:
    """Solves a question that has been read.

    Raises InfeasibleError where no model does what is asked.
    """
    asked = request
    request, kv_choice, settled = settle(asked)
    if not isinstance(settled, Settled):
        raise settled(partial(answered_loss, asked))
    shape, recommended, problem, solution = settled
    objective = request.objective(request.law)
    optimum = model_of(request, problem, solution)
    same_loss = model_of(request, problem, lowest_cost(problem.without_serving(), recommended.loss_nats))
    on_budget = None
    if objective.fixed == "budget":
        spent = float(problem.cost(*solution))
        on_budget = model_of(request, problem, compute_optimal_of_cost(problem, spent))
    spread = intervals(request, problem, recommended)
    extrapolation = _extrapolation(request, recommended)
    at_loss = Objective("loss", optimum.loss_nats * (1 + 1e-9), request.limits)
    ranges = zip(FLATNESS, cheap_ranges(problem, at_loss, FLATNESS, optimum.parameters), strict=True)
    in_vain = tuple(_spent_in_vain(request, problem, recommended, optimum))
    demand = request.economics.demand
    how = recipe(shape, recommended.tokens)
    return Plan(
        request=request,
        recommended=recommended,
        shape=shape,
        gap=_gap(
            request,
            problem,
            recommended,
            optimum,
            in_vain=bool(in_vain) and request.unique_tokens is not None,
        ),
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
        warnings=(*in_vain, *warnings(request, shape, recommended, extrapolation, spread)),
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


def _spent_in_vain(
    request: Request, problem: Problem, recommended: PlannedModel, optimum: PlannedModel
) -> Iterator[str]:
    """Says so where data or size end before the budget or the time does, so that more of these buy little."""
    unique, largest = request.unique_tokens, request.limits.parameters
    if request.has_target:
        return
    if unique is not None and recommended.tokens > unique:
        held, instead = "the data hold", "find more data"
    elif not is_tight(optimum.parameters, largest):
        return
    elif largest == request.most_parameters:
        held, instead = "the largest size holds", "allow more with --max-parameters"
    else:
        held, instead = "the limits on serving hold", "loosen these"
    ends = "budget" if request.budget is not None else "deadline"
    nearly = math.ceil(1000 * (recommended.loss_nats + NEARLY)) / 1000
    ours = request.limits._replace(parameters=min(largest, recommended.parameters))  # what can be built
    least = float(problem.cost(*lowest_cost(problem, nearly, ours)))
    if least < WORTHWHILE * recommended.lifetime.total(request.unit):
        yield (
            f"{held} it back, not the {ends}: {amount(least, request.unit)} reach a loss within "
            f"{NEARLY:g} of it; ask for --target-loss {nearly:.3f}, or {instead}"
        )


def _offer(request: Request, shape: ModelConfig, recommended: PlannedModel) -> Offer | None:
    """The model off the shelf that the plan is set against, where one is named."""
    if request.given.get("against") is None:
        return None
    from llama_scale.planning.offer import offer

    return offer(request, shape, recommended.tokens)


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
    return shaped(problem, sizes)


def _gap(
    request: Request, problem: Problem, recommended: PlannedModel, optimum: PlannedModel, *, in_vain: bool
) -> Gap:
    """What rounding to a shape costs; no share of what is spent on repeats of data in vain."""
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
