"""Curves around a plan: what other sizes cost or reach, the best size at other demands, costs over time.

Every curve comes with the band of the law's draws, where the law has any: at each place the central
`level` of what the laws say. `report` and `plots` draw them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llama_scale.costs import CostUnit, Demand
from llama_scale.errors import InputError
from llama_scale.frozen import frozen
from llama_scale.laws import Numbers, Range
from llama_scale.laws.spread import tails
from llama_scale.planning.answer import compute_optimal_of_cost
from llama_scale.planning.batches import Law, floors
from llama_scale.planning.families import Array, Sizes, coordinate_of
from llama_scale.planning.optimum import Objective, Problem, Solution, best, tokens_for
from llama_scale.planning.values import Plan, PlannedModel

SIZES, DEMANDS = 241, 61
EVERY = 3  # of the demands has a band of its own; between them it follows the line
MOST_DRAWS = 200  # of a band: its ends are drawn, not printed
SPREAD = 30.0  # times smaller and larger than the chosen size
DEMAND_SPREAD = 1000.0


class Band(NamedTuple):
    """Both ends at each place of a curve; nan where a tail of the laws reaches nothing."""

    low: Array
    high: Array


class Place(NamedTuple):
    """One model on a curve: its size, and the curve's value there."""

    parameters: float
    tokens: float
    value: float


@frozen(eq=False)
class CostBySize:
    """What every size costs over its life if it is to be as good as the chosen one.

    Arrays (n,) by rising size, costs in `unit`; nan where no training is enough, or nothing serves it.
    Sizes beyond the plan's limits have their costs too; `allowed` are those that keep them. `band` is of the
    total: under each law, the size is to be as good as the chosen model is under that law. `ranges` are the
    sizes within an excess of the least cost.
    """

    unit: CostUnit
    loss_nats: float
    parameters: Array
    tokens: Array
    train: Array
    serve: Array
    allowed: NDArray[np.bool_]
    band: Band | None
    level: float
    chosen: Place
    compute_optimal: Place
    ranges: tuple[tuple[float, Range], ...]

    @property
    def total(self) -> Array:
        """Training and serving."""
        return self.train + self.serve


@frozen(eq=False)
class LossBySize:
    """The loss of every size for the total cost of the chosen one, arrays (n,); nan where it cannot be had.

    `compute_optimal` is the model of the compute-optimal ratio that costs as much in all.
    """

    unit: CostUnit
    cost: float
    parameters: Array
    tokens: Array
    loss_nats: Array
    band: Band | None
    level: float
    chosen: Place
    compute_optimal: Place


@frozen(eq=False)
class BestByDemand:
    """The best size, and its tokens, for each demand (n,); `unserved` is the best for training alone."""

    serve_tokens: Array
    parameters: Array
    tokens: Array
    parameters_band: Band | None
    ratio_band: Band | None
    level: float
    planned: float
    chosen: Place
    unserved: Place

    @property
    def tokens_per_parameter(self) -> Array:
        """D / N."""
        return self.tokens / self.parameters


@frozen(eq=False)
class CostOverTime:
    """What has been spent so far on the chosen model, and on the compute-optimal one of its loss.

    `at` (n,) is months where the demand has any (`clock`), else tokens served. Costs are in `unit`; a rival
    that cannot be served has none. `break_even` is where the chosen one has become the cheaper. `band` is of
    the rival: under each law, its size is trained to be as good as the chosen model is under that law.
    """

    unit: CostUnit
    clock: str
    at: Array
    chosen: Array
    compute_optimal: Array
    band: Band | None
    level: float
    break_even: float | None
    break_even_interval: Range | None
    rival: Place


def problem_of(plan: Plan) -> Problem:
    """The optimisation that a plan came from, on the continuum through its shape."""
    return plan.request.problem().through(plan.shape)


def cost_by_size(plan: Plan) -> CostBySize:
    """Lifetime cost against size at the loss of the plan's model."""
    problem, chosen = problem_of(plan), plan.recommended
    sizes = _sizes(plan, problem)
    objective = Objective("loss", chosen.loss_nats * (1 + 1e-12))
    tokens = np.asarray(tokens_for(problem, objective, sizes))
    within = tokens_for(problem, objective._replace(limits=plan.request.limits), sizes)
    band = None
    if (draws := plan.request.draws(MOST_DRAWS)) is not None:
        drawn, each = problem.with_law(draws), _as_column(sizes)
        equal = Objective("loss", draws.loss(chosen.parameters, chosen.tokens) * (1 + 1e-12))
        band = _band(drawn.cost(each, tokens_for(drawn, equal, each)), plan.request.level)
    unit = plan.request.unit
    return CostBySize(
        unit=unit,
        loss_nats=chosen.loss_nats,
        parameters=np.asarray(sizes.parameters),
        tokens=tokens,
        train=np.asarray(problem.train_rate * sizes.train_flops_per_token * tokens),
        serve=np.broadcast_to(np.asarray(problem.serving_cost(sizes)), tokens.shape),
        allowed=np.isfinite(within),
        band=band,
        level=plan.request.level,
        chosen=_place(chosen, chosen.lifetime.total(unit)),
        compute_optimal=_place(plan.compute_optimal, plan.compute_optimal.lifetime.total(unit)),
        ranges=tuple((near.excess, Range(near.low, near.high)) for near in plan.flatness),
    )


def loss_by_size(plan: Plan) -> LossBySize:
    """Loss against size for what the plan's model costs in all."""
    problem, unit, chosen = problem_of(plan), plan.request.unit, plan.recommended
    cost = chosen.lifetime.total(unit)
    sizes = _sizes(plan, problem)
    tokens = np.asarray(tokens_for(problem, Objective("budget", cost, plan.request.limits), sizes))
    band = None
    if (draws := plan.request.draws(MOST_DRAWS)) is not None:
        column = np.asarray(sizes.parameters)[:, None]
        band = _band(draws.loss(column, tokens[:, None]), plan.request.level)
    rival = compute_optimal_of_cost(problem, cost)
    size, seen = float(rival.sizes.parameters), float(rival.tokens)
    return LossBySize(
        unit=unit,
        cost=cost,
        parameters=np.asarray(sizes.parameters),
        tokens=tokens,
        loss_nats=np.asarray(problem.law.loss(sizes.parameters, tokens)),
        band=band,
        level=plan.request.level,
        chosen=_place(chosen, chosen.loss_nats),
        compute_optimal=Place(size, seen, float(problem.law.loss(size, seen))),
    )


def best_by_demand(plan: Plan) -> BestByDemand:
    """The best size against served tokens, all else as planned.

    Demands run a thousand times each way from the planned one, or about the training tokens where the plan
    serves nothing; those that the budget cannot serve are nan.
    """
    request, problem = plan.request, problem_of(plan)
    planned = request.economics.demand.serve_tokens
    demands = _about(plan) * np.geomspace(1 / DEMAND_SPREAD, DEMAND_SPREAD, DEMANDS)
    solution = best(replace(problem, serve_tokens=demands), request.objective(problem.law))
    unserved = best(problem.without_serving(), request.objective(problem.law))
    bands: tuple[Band | None, Band | None] = (None, None)
    if (draws := request.draws(MOST_DRAWS)) is not None:
        bands = _bands_by_demand(plan, replace(problem, serve_tokens=demands), solution, draws)
    return BestByDemand(
        serve_tokens=demands,
        parameters=np.asarray(solution.sizes.parameters),
        tokens=np.asarray(solution.tokens),
        parameters_band=bands[0],
        ratio_band=bands[1],
        level=request.level,
        planned=planned,
        chosen=_place(plan.recommended, planned),
        unserved=Place(float(unserved.sizes.parameters), float(unserved.tokens), 0.0),
    )


def cost_over_time(plan: Plan) -> CostOverTime:
    """Spending so far on the plan's model and on its compute-optimal rival of the same loss.

    Raises InputError for a plan that serves nothing.
    """
    request, demand = plan.request, plan.request.economics.demand
    if not demand.serve_tokens:
        raise InputError(
            "nothing is served, so that no break-even comes",
            hint="give a demand, such as --serve-tokens 1e12",
        )
    unit, problem = request.unit, problem_of(plan)
    schedule = schedule_of(demand, unit)
    ours, theirs = _parts(plan.recommended, unit), _parts(plan.compute_optimal, unit)
    chosen, rival = _spent(schedule, *ours), _spent(schedule, *theirs)
    band = interval = None
    if (draws := request.draws(MOST_DRAWS)) is not None:
        sizes = problem.sizes(coordinate_of(problem.family, plan.compute_optimal.parameters))
        equal = draws.loss(plan.recommended.parameters, plan.recommended.tokens)
        tokens = draws.tokens_for_loss(equal, sizes.parameters)
        train = np.asarray(problem.train_rate * sizes.train_flops_per_token * tokens)
        spent = _spent(schedule, train, theirs[1])
        band = _band(np.where(np.isfinite(spent), spent, np.inf), request.level)
        crossings = np.array([_break_even(schedule, chosen, each) or math.inf for each in spent.T])
        interval = _interval(crossings, request.level)
    return CostOverTime(
        unit=unit,
        clock="tokens served" if demand.months is None else "months",
        at=schedule.at,
        chosen=chosen,
        compute_optimal=rival,
        band=band,
        level=request.level,
        break_even=_break_even(schedule, chosen, rival),
        break_even_interval=interval,
        rival=_place(plan.compute_optimal, plan.compute_optimal.lifetime.total(unit)),
    )


class Schedule(NamedTuple):
    """At each place of the clock (n,): the shares of all training and all serving that are paid by then."""

    at: Array
    trained: Array
    served: Array


def schedule_of(demand: Demand, unit: CostUnit) -> Schedule:
    """A training is paid when it starts; serving as it comes, evenly within a month."""
    if demand.months is None:
        at = np.linspace(0.0, demand.serve_tokens, 201)
        return Schedule(at, np.ones_like(at), at / demand.serve_tokens)
    shares = np.array(demand.monthly_shares)
    worth = np.ones(demand.months)
    if unit == "usd":
        worth = (1 + demand.discount) ** (-(np.arange(demand.months) + 0.5) / 12)
    served = np.concatenate([[0.0], np.cumsum(shares * worth)])
    at = np.arange(demand.months + 1.0)
    starts = [float(part.first_month - 1) for part in demand.generations]
    weights = [part.train_factor if unit == "usd" else 1.0 for part in demand.generations]
    # A clock that stops just before each training draws it as a step.
    clock = np.unique(np.concatenate([at, [start - 1e-9 for start in starts if start > 0]]))
    trained = np.array(
        [sum(w for s, w in zip(starts, weights, strict=True) if s <= moment) for moment in clock]
    ) / sum(weights)
    return Schedule(clock, trained, np.interp(clock, at, served / served[-1]))


def _spent(schedule: Schedule, train: Numbers, serve: Numbers) -> Array:
    """Spending so far (n,), or (n, S) of many models, from the totals of a life."""
    if np.ndim(train) == 0:
        return np.asarray(schedule.trained * train + schedule.served * serve)
    return np.asarray(schedule.trained[:, None] * train + schedule.served[:, None] * serve)


def _break_even(schedule: Schedule, ours: Array, theirs: Array) -> float | None:
    """Where `ours` is last overtaken by `theirs` for good; None where it never is, or always was."""
    ahead = theirs - ours
    behind = np.flatnonzero(~(ahead > 0))
    if not behind.size or behind[-1] + 1 == ahead.size:
        return None
    last = int(behind[-1])
    gap = ahead[last + 1] - ahead[last]
    share = -ahead[last] / gap if gap > 0 else 0.0
    return float(schedule.at[last] + share * (schedule.at[last + 1] - schedule.at[last]))


def _interval(values: Array, level: float) -> Range | None:
    """The central `level`, its high end inf where a tail is; None where the low end is too."""
    with np.errstate(invalid="ignore"):
        low, high = (math.inf if math.isnan(end) else float(end) for end in tails(values, level))
    return None if math.isinf(low) else Range(low, high)


def _parts(model: PlannedModel, unit: CostUnit) -> tuple[float, float]:
    """Training and serving of a whole life; nan where it is not known."""
    parts = (getattr(model.lifetime, f"{part}_{unit}") for part in ("train", "serve"))
    train, serve = (math.nan if part is None else float(part) for part in parts)
    return train, serve


def _bands_by_demand(plan: Plan, problem: Problem, solution: Solution, draws: Law) -> tuple[Band, Band]:
    """Of a solution's sizes and ratios (n,), which they follow between the demands that are asked."""
    demands = np.asarray(problem.serve_tokens)
    few = demands[::EVERY]
    drawn = best(replace(problem, law=draws, serve_tokens=few[:, None]), plan.request.objective(draws))
    shape = (few.size, np.size(floors(draws)))
    sizes, tokens = (np.broadcast_to(part, shape) for part in (drawn.sizes.parameters, drawn.tokens))
    values = np.where(np.isnan(tokens), np.nan, sizes), tokens / sizes
    lines = solution.sizes.parameters, solution.tokens / solution.sizes.parameters
    of_sizes, of_ratios = (
        Band(*(_beside(np.asarray(line), end, np.log(demands)) for end in _band(value, plan.request.level)))
        for line, value in zip(lines, values, strict=True)
    )
    return of_sizes, of_ratios


def _beside(line: Array, few: Array, x: Array) -> Array:
    """The end of a band that is known at every third place of a line: between them it keeps to the line."""
    return line * np.exp(np.interp(x, x[::EVERY], np.log(few / line[::EVERY])))


def _band(values: Numbers, level: float) -> Band:
    """The central `level` over the last axis; nan where an end lies among laws that reach nothing."""
    known = np.where(np.isfinite(values), values, np.inf)
    with np.errstate(invalid="ignore"):
        low, high = tails(known, level)
    return Band(*(np.where(np.isfinite(end), end, np.nan) for end in (low, high)))


def _sizes(plan: Plan, problem: Problem) -> Sizes:
    """The continuum about the chosen and the compute-optimal model; the chosen one is among its sizes."""
    ours, theirs = plan.recommended.parameters, plan.compute_optimal.parameters
    high = max(ours * SPREAD, theirs * 2) if math.isfinite(theirs) else ours * SPREAD
    below = np.geomspace(ours / SPREAD, ours, SIZES // 2, endpoint=False)
    grid = np.concatenate([below, np.geomspace(ours, high, SIZES - below.size)])
    return problem.sizes(coordinate_of(problem.family, grid))


def _as_column(sizes: Sizes) -> Sizes:
    """Sizes (n,) as (n, 1), to meet draws (S,)."""
    columns = [np.asarray(part)[:, None] for part in sizes[:3]]
    shape = sizes.shape and type(sizes.shape)(*(np.asarray(part)[:, None] for part in sizes.shape))
    return Sizes(*columns, shape=shape)


def _about(plan: Plan) -> float:
    return plan.request.economics.demand.serve_tokens or plan.recommended.tokens


def _place(model: PlannedModel, value: float) -> Place:
    return Place(model.parameters, model.tokens, value)
