"""Refusals of what cannot be done: which condition, by how much, and the nearest question with an answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from llama_scale.costs.serving import Deployment
from llama_scale.errors import InfeasibleError
from llama_scale.planning.families import LOG_SIZES
from llama_scale.planning.optimum import (
    LARGEST_MODEL,
    NO_LIMITS,
    SMALLEST_MODEL,
    Objective,
    Problem,
    Solution,
    best,
    floor_of,
    lowest_loss,
    tokens_for,
)
from llama_scale.planning.reading import option
from llama_scale.planning.request import Request, limited
from llama_scale.planning.values import PlannedModel
from llama_scale.quantities import (
    Quantity,
    format_count,
    format_number,
    format_quantity,
    format_seconds,
)

ROUNDING = 1e-3  # what a shape that can be built may cost over a budget that the optimum meets exactly
FARTHEST_SHAPE = 0.25  # a shape that misses the optimum's parameters by more is no answer to the question
MOST_STRETCH = 1e9  # how much further a condition is moved in search of an answer


def refuse_unreachable(request: Request, problem: Problem, objective: Objective, solution: Solution) -> None:
    """Raises InfeasibleError where the optimum does not exist or is no model that anyone would train."""
    parameters = float(solution.sizes.parameters)
    if _is_model(solution):
        return
    on_budget = objective.fixed == "budget"
    if on_budget and request.limits == NO_LIMITS:
        raise _badly_sized_budget(request, problem, parameters)
    loss, floor = float(np.asarray(objective.value)), floor_of(problem.law)
    if not on_budget and loss <= floor:
        raise _below_the_floor(loss, floor)
    if math.isnan(parameters) and (stretches := list(_stretches(request))):
        raise _refused(request, objective, sorted(stretches, key=lambda found: found.factor))
    if on_budget:
        raise _badly_sized_budget(request, problem, parameters)
    raise _badly_sized_target(loss, floor, parameters)


def refuse_missing_shape(request: Request, smallest: float, wanted: float) -> None:
    """Raises InfeasibleError where no LLaMA with this vocabulary is near the size that is wanted."""
    if smallest > wanted * (1 + FARTHEST_SHAPE):
        if wanted >= request.limits.parameters * 0.99:
            raise _too_tight(request, smallest)
        raise InfeasibleError(
            f"the best model has {format_count(wanted)} parameters, but the nearest LLaMA with a vocabulary "
            f"of {request.vocabulary:,} has {format_count(smallest)}",
            hint="give your tokenizer's size, such as --vocabulary 256 for bytes, or "
            + ("a lower loss" if request.has_target else "a larger --budget"),
        )


def _too_tight(request: Request, smallest: float) -> InfeasibleError:
    """Limits on size or latency that leave no model which could be built."""
    limits = ("max_parameters", "time_per_output_token", "time_to_first_token")
    given = [option(name) for name in limits if name in request.given]
    return InfeasibleError(
        f"{' and '.join(given)} leave at most {format_count(request.limits.parameters)} parameters, but the "
        f"smallest LLaMA with a vocabulary of {request.vocabulary:,} has {format_count(smallest)}",
        hint=f"give more with {' or '.join(given)}, or a smaller --vocabulary",
    )


def refuse_dear_target(request: Request, recommended: PlannedModel) -> None:
    """Raises InfeasibleError where the target costs more than the budget that was given with it."""
    budget, used = request.budget, recommended.lifetime.total(request.unit)
    if budget is None or used <= budget.value * (1 + ROUNDING):
        return
    problem = request.problem()
    affordable = float(problem.loss(lowest_loss(problem, budget.value, request.limits)))
    needed = format_quantity(Quantity(value=used * 1.01, kind=budget.kind))
    raise InfeasibleError(
        f"a loss of {recommended.loss_nats:.4f} costs {needed} to train and serve, {used / budget.value:.3g} "
        f"times the budget of {format_quantity(budget)}",
        hint=f"give --budget '{needed}' or more, or --target-loss {_round_up(affordable, 3)}, which it buys",
    )


class Stretch(NamedTuple):
    """A condition that, moved alone by the least `factor`, makes the question one with an answer."""

    name: str
    option: str
    now: str
    needed: str
    factor: float


class _Condition(NamedTuple):
    """A condition as it stands, and the request with it moved by a factor."""

    name: str
    option: str
    value: float
    form: Callable[[float], str]
    moved: Callable[[float], Request]


def _stretches(request: Request) -> Iterator[Stretch]:
    """Each condition that an answer could be had by moving, moved no further than needed."""
    for condition in _conditions(request):
        factor = _least_factor(condition.moved)
        if factor is not None:
            now, needed = condition.form(condition.value), condition.form(condition.value * factor * 1.01)
            yield Stretch(condition.name, condition.option, now, needed, factor)


def _conditions(request: Request) -> Iterator[_Condition]:
    if (deadline := request.deadline) is not None:

        def later(factor: float) -> Request:
            return limited(replace(request, deadline=deadline._replace(seconds=deadline.seconds * factor)))

        name = f"the deadline with {deadline.accelerators:,} accelerators"
        yield _Condition(name, "--deadline", deadline.seconds, _duration, later)

        def wider(factor: float) -> Request:
            count = math.ceil(deadline.accelerators * factor)
            return limited(replace(request, deadline=deadline._replace(accelerators=count)))

        yield _Condition(
            "the number of accelerators", "--accelerators", deadline.accelerators, _whole, wider
        )
    if (largest := request.max_parameters) is not None:
        yield _Condition(
            "the largest size",
            "--max-parameters",
            largest,
            format_count,
            lambda factor: limited(replace(request, max_parameters=largest * factor)),
        )
    if (unique := request.unique_tokens) is not None:
        yield _Condition(
            "the unique data",
            "--unique-tokens",
            unique,
            format_count,
            lambda factor: replace(request, unique_tokens=unique * factor),
        )
    if (deployment := request.economics.deployment) is not None:
        yield from _serving_conditions(request, deployment)
    if (budget := request.budget) is not None and not request.has_target:
        yield _Condition(
            "the total budget",
            "--budget",
            budget.value,
            lambda value: format_quantity(Quantity(value=value, kind=budget.kind)),
            lambda factor: replace(request, budget=replace(budget, value=budget.value * factor)),
        )


def _serving_conditions(request: Request, deployment: Deployment) -> Iterator[_Condition]:
    def with_deployment(**changes: float) -> Request:
        economics = replace(request.economics, deployment=replace(deployment, **changes))
        return limited(replace(request, economics=economics))

    for field, name in (
        ("time_per_output_token_seconds", "the time per output token"),
        ("time_to_first_token_seconds", "the time to the first token"),
    ):
        if (seconds := getattr(deployment, field)) is not None:
            yield _Condition(
                name,
                "--" + field.removesuffix("_seconds").replace("_", "-"),
                seconds,
                _duration,
                lambda factor, field=field, seconds=seconds: with_deployment(**{field: seconds * factor}),
            )


def _least_factor(moved: Callable[[float], Request]) -> float | None:
    """The least factor from 1 up for which the moved question has an answer; None where none has."""
    low, high = 1.0, 2.0
    while not _has_answer(moved(high)):
        low, high = high, high * high
        if high > MOST_STRETCH:
            return None
    for _ in range(24):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if _has_answer(moved(middle)) else (middle, high)
    return high


def _has_answer(request: Request) -> bool:
    return _is_model(best(request.problem(), request.objective(request.law)))


def _is_model(solution: Solution) -> bool:
    parameters, tokens = float(solution.sizes.parameters), float(solution.tokens)
    return SMALLEST_MODEL <= parameters <= LARGEST_MODEL and 0 < tokens < math.inf


def _refused(request: Request, objective: Objective, stretches: list[Stretch]) -> InfeasibleError:
    """Names the condition that is nearest to allowing an answer, and the others that would."""
    first = stretches[0]
    wish = (
        "serve any model" if objective.fixed == "budget" else f"reach a loss of {float(objective.value):.4f}"
    )
    ways = [f"{way.option} '{way.needed}'" for way in stretches]
    if objective.fixed == "loss" and (reached := _lowest_reachable(request)) is not None:
        ways.append(f"--target-loss {_round_up(reached + 5e-4, 3)}")
    return InfeasibleError(
        f"no model can {wish} under these conditions: {first.name}, {first.now}, would have to be "
        f"{first.needed}, {format_number(first.factor)} times as much",
        hint=f"give {' or '.join(ways)}",
    )


def _lowest_reachable(request: Request) -> float | None:
    """The lowest loss that any size reaches under the limits, whatever it costs."""
    problem = request.problem()
    sizes = problem.sizes(np.linspace(*LOG_SIZES, 2000))
    free = Objective("budget", 1e60, request.limits)
    losses = np.asarray(problem.law.loss(sizes.parameters, tokens_for(problem, free, sizes)))
    known = losses[np.isfinite(losses)]
    return float(known.min()) if known.size else None


def _below_the_floor(loss: float, floor: float) -> InfeasibleError:
    return InfeasibleError(
        f"no model reaches a loss of {loss:g}: the law's floor is {floor:.4f}, {floor - loss:.4f} more",
        hint=f"ask for more than E, such as --target-loss {_round_up(floor + 0.05, 2)}, or another --law",
    )


def _badly_sized_target(loss: float, floor: float, parameters: float) -> InfeasibleError:
    if parameters < SMALLEST_MODEL:
        return InfeasibleError(
            f"a loss of {loss:g} takes {format_number(parameters)} parameters, too few for a law to hold",
            hint=f"ask for a lower loss, such as --target-loss {_round_up(floor + 0.5, 2)}",
        )
    return InfeasibleError(
        f"a loss of {loss:g}, only {loss - floor:.2g} above the law's floor E = {floor:.4f}, takes "
        + ("more than any model" if math.isnan(parameters) else f"{format_number(parameters)} parameters"),
        hint=f"ask for a little more, such as --target-loss {_round_up(floor + 0.05, 2)}",
    )


def _badly_sized_budget(request: Request, problem: Problem, parameters: float) -> InfeasibleError:
    """A budget whose best model is too small or too large to speak of, with the nearest that is not."""
    budget, demand = request.budget, request.economics.demand.serve_tokens
    assert budget is not None, "a question without a target has a budget"
    too_small = not parameters >= SMALLEST_MODEL
    edge = SMALLEST_MODEL if too_small else LARGEST_MODEL
    inside, outside = math.log(budget.value) + (80 if too_small else -80), math.log(budget.value)
    for _ in range(60):
        middle = (inside + outside) / 2
        reached = float(lowest_loss(problem, math.exp(middle), request.limits).sizes.parameters)
        inside, outside = (middle, outside) if (reached >= edge) == too_small else (inside, middle)
    margin = 1.01 if too_small else 0.99
    nearest = format_quantity(Quantity(value=math.exp(inside) * margin, kind=budget.kind))
    why = "too few for a law to hold" if too_small else "more than any law reaches"
    served = f" that serves {format_count(demand)} tokens" if demand else ""
    found = "no parameters left" if math.isnan(parameters) else f"{format_number(parameters)} parameters"
    return InfeasibleError(
        f"on {format_quantity(budget)} the best model{served} has {found}, {why}",
        hint=f"give {'at least' if too_small else 'at most'} --budget '{nearest}'"
        + (", or serve fewer tokens" if too_small and demand else ""),
    )


def _duration(seconds: float) -> str:
    """A duration that reads back: days and hours, or milliseconds."""
    return format_seconds(seconds).replace(" ", "") if seconds >= 1 else f"{format_number(1e3 * seconds)}ms"


def _whole(value: float) -> str:
    return f"{math.ceil(value)}"


def _round_up(value: float, decimals: int) -> float:
    return math.ceil(value * 10**decimals) / 10**decimals
