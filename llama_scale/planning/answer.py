"""From a question to a Plan: the optimum, a shape that can be built, and what they are compared with."""

from __future__ import annotations

import math

import numpy as np

from llama_scale.architecture import ModelConfig, nearest_shape
from llama_scale.laws import published, published_names
from llama_scale.planning.assumptions import assumptions, warnings
from llama_scale.planning.feasibility import refuse_dear_target, refuse_missing_shape, refuse_unreachable
from llama_scale.planning.optimum import (
    Objective,
    Problem,
    Sizes,
    Solution,
    best,
    cheap_range,
    lowest_cost,
    lowest_loss,
    tokens_for,
)
from llama_scale.planning.request import Request
from llama_scale.planning.uncertainty import best_on_average, intervals
from llama_scale.planning.values import CheapRange, Gap, Limit, OtherLaw, Plan, PlannedModel, Saving

FLATNESS = (0.01, 0.05)


def answer(request: Request) -> Plan:
    """Solves a question that has been read.

    Raises InfeasibleError where no model does what is asked.
    """
    problem, objective = request.problem(), request.objective(request.fit.law)
    solution = best(problem, objective)
    refuse_unreachable(request, problem, objective, solution)
    shape, recommended = _buildable(request, problem, objective, solution)
    if objective.fixed == "loss":
        refuse_dear_target(request, recommended)
    optimum = _model(request, solution)
    same_loss = _model(request, lowest_cost(problem.without_serving(), recommended.loss_nats))
    on_budget = objective.fixed == "budget"
    same_cost = _compute_optimal_of_cost(problem, float(objective.value)) if on_budget else None
    spread = intervals(request, problem, recommended)
    extrapolation = request.fit.support.extrapolation(
        parameters=recommended.parameters,
        tokens=recommended.tokens,
        train_flops=recommended.lifetime.train_flops,
    )
    return Plan(
        request=request,
        recommended=recommended,
        shape=shape,
        gap=_gap(request, problem, recommended, optimum),
        optimum=optimum,
        compute_optimal=same_loss,
        compute_optimal_on_budget=None if same_cost is None else _model(request, same_cost),
        saving=_saving(request, recommended, same_loss),
        flatness=tuple(CheapRange(e, *cheap_range(problem, optimum.loss_nats, e)) for e in FLATNESS),
        intervals=spread,
        best_on_average=best_on_average(request, problem, recommended),
        limits=_limits(request, recommended, objective),
        extrapolation=extrapolation,
        other_laws=_other_laws(request, problem),
        warnings=warnings(request, extrapolation, spread),
        assumptions=assumptions(request),
    )


def _model(request: Request, solution: Solution) -> PlannedModel:
    return _planned(request, solution.sizes, float(solution.tokens))


def _planned(request: Request, sizes: Sizes, tokens: float) -> PlannedModel:
    return PlannedModel(
        parameters=float(sizes.parameters),
        tokens=tokens,
        loss_nats=float(request.fit.law.loss(sizes.parameters, tokens)),
        lifetime=request.economics.lifetime(
            train_flops=float(sizes.train_flops_per_token) * tokens,
            serve_flops=float(sizes.serve_flops_per_token) * request.economics.demand.serve_tokens,
        ),
    )


def _buildable(
    request: Request, problem: Problem, objective: Objective, solution: Solution
) -> tuple[ModelConfig, PlannedModel]:
    """The real shape nearest the optimum, its tokens chosen anew to meet the budget or the target."""
    wanted = float(solution.sizes.parameters)
    shape = nearest_shape(
        wanted, convention=request.fit.convention, vocabulary=request.vocabulary, context=request.context
    )
    sizes = problem.family.size_of(shape)
    refuse_missing_shape(request, float(sizes.parameters), wanted)
    return shape, _planned(request, sizes, float(tokens_for(problem, objective, sizes)))


def _compute_optimal_of_cost(problem: Problem, budget: float) -> Solution:
    """The compute-optimal model whose training and serving together cost the budget.

    Secant steps on the logarithm of its training budget, of which the logarithm of the whole cost is a
    smooth function of slope between 0 and 1.
    """
    training_only = problem.without_serving()

    def excess(log_budget: float) -> tuple[float, Solution]:
        solution = lowest_loss(training_only, math.exp(log_budget))
        return math.log(float(problem.cost(*solution)) / budget), solution

    before = math.log(budget)
    over, solution = excess(before)
    x, slope = before - over, 1.0
    for _ in range(50):
        now, solution = excess(x)
        if abs(now) < 1e-12 or x == before:
            break
        slope = (over - now) / (before - x)
        before, over, x = x, now, x - now / slope
    return solution


def _gap(request: Request, problem: Problem, recommended: PlannedModel, optimum: PlannedModel) -> Gap:
    least = float(problem.cost(*lowest_cost(problem, recommended.loss_nats)))
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


def _limits(request: Request, recommended: PlannedModel, objective: Objective) -> tuple[Limit, ...]:
    """The target and the budget: the target binds where there is one, the budget otherwise."""
    limits = []
    if objective.fixed == "loss":
        name = f"quality of {request.match.name}" if request.match else "target loss"
        limits.append(Limit(name, float(objective.value), recommended.loss_nats, True, False))
    if request.budget is not None:
        used = recommended.lifetime.total(request.unit)
        binding, is_default = objective.fixed == "budget", "budget" not in request.given
        limits.append(Limit("total budget", request.budget, used, binding, is_default))
    return tuple(limits)


def _other_laws(request: Request, problem: Problem) -> tuple[OtherLaw, ...]:
    """The same question to each published law that counts alike.

    Not for a bare target loss: the same number means another quality under a law with another floor.
    """
    if request.target_loss is not None:
        return ()
    fits = [published(name) for name in published_names() if name != request.fit.name]
    answers = []
    for fit in fits:
        if fit.convention == request.fit.convention:
            theirs = problem.with_law(fit.law)
            solution = best(theirs, request.objective(fit.law))
            numbers = solution.sizes.parameters, solution.tokens, theirs.loss(solution)
            answers.append(OtherLaw(fit.name, *(float(np.asarray(n)) for n in numbers)))
    return tuple(answers)
