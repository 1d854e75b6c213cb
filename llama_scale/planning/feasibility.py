"""Refusals of what cannot be done: which condition, by how much, and the nearest question with an answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial, reduce
from typing import NamedTuple, NoReturn

import numpy as np

from llama_scale.costs.serving import LARGEST_GROUP
from llama_scale.errors import InfeasibleError
from llama_scale.planning.families import LOG_SIZES, coordinate_of
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
from llama_scale.planning.request import (
    LONGEST_TRAINING,
    MOST_ACCELERATORS,
    MOST_UNIQUE,
    Request,
    limited,
)
from llama_scale.planning.supply import SLOWEST_FIRST_TOKEN, SLOWEST_TOKEN
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
ROOM_FOR_SHAPES = 1.1  # over the least size that could do: shapes that can be built are up to 3 % apart
LOOSER = (1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 4.0)  # tried where only shapes are in the way
HIGHER = (0.001, 0.003, 0.01, 0.03, 0.1)  # nats, likewise
MOST_STRETCH = 1e9  # how much further a condition is moved in search of an answer


def refuse_unreachable(request: Request, problem: Problem, objective: Objective, solution: Solution) -> None:
    """Raises InfeasibleError where the optimum does not exist or is no model that anyone would train."""
    parameters = float(solution.sizes.parameters)
    if _is_model(solution):
        return
    if request.most_parameters < SMALLEST_MODEL:
        raise _all_embeddings(request)
    refuse_too_few_data(request, float(problem.loss(solution)))
    on_budget = objective.fixed == "budget"
    if on_budget and request.limits == NO_LIMITS:
        raise _badly_sized_budget(request, problem, parameters)
    loss, floor = float(np.asarray(objective.value)), floor_of(problem.law)
    if not on_budget and loss <= floor:
        raise _below_the_floor(request, loss, floor)
    if math.isnan(parameters) and (stretches := _stretches(request)):
        raise _refused(request, objective, stretches)
    if on_budget:
        raise _badly_sized_budget(request, problem, parameters)
    unserved = problem.serving.needs_shapes and best(problem.without_serving(), objective)
    if math.isnan(parameters) and unserved and _is_model(unserved):
        raise _too_large_to_serve(request, loss)
    raise _badly_sized_target(request, loss, floor, parameters)


def refuse_missing_shape(request: Request, smallest: float, wanted: float) -> None:
    """Raises InfeasibleError where no LLaMA with this vocabulary is near the size that is wanted."""
    if smallest > wanted * (1 + FARTHEST_SHAPE):
        if wanted >= request.limits.parameters * 0.99:
            raise _too_tight(request, smallest)
        way = "a lower loss"
        if not request.has_target:
            enough = _nearest_budget(request, request.problem(), smallest, more=True)
            way = f"at least --budget '{enough}'"
        raise InfeasibleError(
            f"the best model has {format_count(wanted)} parameters, but the nearest LLaMA with a vocabulary "
            f"of {request.vocabulary:,} has {format_count(smallest)}",
            hint=f"give your tokenizer's size, such as --vocabulary 256 for bytes, or {way}",
        )


def refuse_unbuildable(request: Request, wanted: float, is_buildable: Callable[[Request], bool]) -> NoReturn:
    """Raises InfeasibleError: the continuum keeps the conditions, but no shape near its optimum does.

    Each condition is loosened step by step until `is_buildable`, to say how little is missing.
    """
    ways = []
    for condition in _conditions(request):
        for factor in LOOSER:
            if is_buildable(condition.moved(request, factor)):
                moved = condition.rounded(condition.value * factor)
                ways.append(f"{condition.option} '{condition.form(moved)}'")
                break
    if (budget := request.budget) is not None and not request.has_target:
        for factor in LOOSER:
            more = Quantity(value=budget.value * factor, kind=budget.kind)
            if is_buildable(replace(request, budget=more)):
                ways.append(f"--budget '{format_quantity(more)}'")
                break
    if request.has_target:
        loss = float(np.asarray(request.objective(request.law).value))
        for more in HIGHER:
            if is_buildable(replace(request, target_loss=loss + more, target_score=None, match=None)):
                ways.append(_asking(request, loss + more))
                break
    raise InfeasibleError(
        f"a model of {format_count(wanted)} parameters would just do, but no shape that can be built does",
        hint=f"give {' or '.join(ways)}" if ways else "loosen a condition, or give a larger --budget",
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


def _all_embeddings(request: Request) -> InfeasibleError:
    """A largest size of which the tables of the vocabulary leave nothing that the law counts."""
    family = request.family
    least = float(family.geometry.recounted(SMALLEST_MODEL, family.convention, "total"))
    return InfeasibleError(
        f"--max-parameters {format_count(request.max_parameters or 0.0)} leave "
        f"{format_number(request.most_parameters)} beside the tables of a vocabulary of "
        f"{request.vocabulary:,}, too few for a law to hold",
        hint=f"give --max-parameters '{format_count(least * ROOM_FOR_SHAPES)}', or a smaller --vocabulary",
    )


def refuse_dear_target(request: Request, recommended: PlannedModel) -> None:
    """Raises InfeasibleError where the target costs more than the budget that was given with it."""
    budget, used = request.budget, recommended.lifetime.total(request.unit)
    if budget is None or used <= budget.value * (1 + ROUNDING):
        return
    problem = request.problem()
    affordable = float(problem.loss(lowest_loss(problem, budget.value, request.limits)))
    needed = format_quantity(Quantity(value=used * 1.01, kind=budget.kind))
    # It may not even pay for the serving: then the loss is nan; and one worse than guessing is no offer.
    buys_any = affordable < math.log(request.vocabulary)
    instead = f", or {_asking(request, affordable)}, which it buys" if buys_any else ""
    raise InfeasibleError(
        f"{_goal(request, recommended.loss_nats)} costs {needed} to train and serve, "
        f"{format_number(used / budget.value)} times the budget of {format_quantity(budget)}",
        hint=f"give --budget '{needed}' or more{instead}",
    )


def refuse_too_few_data(request: Request, loss: float) -> None:
    """Raises InfeasibleError where the data are so few that the best model is worse than guessing."""
    unique, guessing = request.unique_tokens, math.log(request.vocabulary)
    if unique is None or not loss >= guessing:
        return
    raise InfeasibleError(
        f"{format_count(unique)} unique tokens are too few for the law: the best loss, "
        f"{loss:.3f}, is worse than guessing among {request.vocabulary:,} ({guessing:.2f})",
        hint="give more data, such as --unique-tokens 10B, or --vocabulary if yours is another",
    )


class Stretch(NamedTuple):
    """A condition that, moved alone by `factor`, gives the question an answer with a little room.

    It is not `askable` where its option would not take what is needed.
    """

    name: str
    option: str
    now: str
    needed: str
    factor: float
    askable: bool
    together: bool = False


class _Condition(NamedTuple):
    """A condition as it stands, and how a request changes when it is moved by a factor.

    `rounded` takes a value up to one that can be asked for, of which the largest is `most`.
    """

    name: str
    option: str
    value: float
    form: Callable[[float], str]
    moved: Callable[[Request, float], Request]
    most: float
    rounded: Callable[[float], float] = float


def _stretches(request: Request) -> list[Stretch]:
    """Each condition that an answer could be had by moving, moved no further than needed; nearest first.

    Where moving one is not enough, all of them moved by the same factor.
    """
    conditions = list(_conditions(request))
    found = []
    for condition in conditions:
        factor = _least_factor(lambda by, condition=condition: condition.moved(request, by))
        if factor is not None:
            found.append(_stretch(condition, factor))
    conditions = [condition for condition in conditions if condition.moved is not _wider]  # time does as well
    if not found and len(conditions) > 1:
        factor = _least_factor(
            lambda by: reduce(lambda moved, each: each.moved(moved, by), conditions, request)
        )
        if factor is not None:
            found = [_stretch(condition, factor)._replace(together=True) for condition in conditions]
    return sorted(found, key=lambda stretch: stretch.factor)


def _stretch(condition: _Condition, factor: float) -> Stretch:
    margin = ROOM_FOR_SHAPES if condition.moved is _larger else 1.01
    needed = condition.rounded(condition.value * factor * margin)
    now, then = condition.form(condition.value), condition.form(needed)
    factor = needed / condition.value
    return Stretch(condition.name, condition.option, now, then, factor, needed <= condition.most)


def _conditions(request: Request) -> Iterator[_Condition]:
    if (deadline := request.deadline) is not None:
        name, chips, count = f"the {deadline.name}", "the number of accelerators", deadline.accelerators
        yield _Condition(name, "--deadline", deadline.seconds, _duration, _later, LONGEST_TRAINING)
        yield _Condition(chips, "--accelerators", count, _whole, _wider, MOST_ACCELERATORS, math.ceil)
    if (largest := request.max_parameters) is not None:
        yield _Condition(
            "the largest size", "--max-parameters", largest, format_count, _larger, LARGEST_MODEL
        )
    if (unique := request.unique_tokens) is not None:
        yield _Condition("the unique data", "--unique-tokens", unique, format_count, _with_data, MOST_UNIQUE)
    deployment = request.economics.deployment
    if deployment is not None and request.unit != "flops":
        chips = f"the number of {deployment.rental.accelerator.name} that hold a copy"
        most = deployment.groups[-1]
        yield _Condition(
            chips, "--serve-accelerators", most, _whole, _in_larger_groups, LARGEST_GROUP, _group
        )
    for field, name, slowest in (
        ("time_per_output_token_seconds", "the time per output token", SLOWEST_TOKEN),
        ("time_to_first_token_seconds", "the time to the first token", SLOWEST_FIRST_TOKEN),
    ):
        if deployment is not None and (seconds := getattr(deployment, field)) is not None:
            named = option(field.removesuffix("_seconds"))
            yield _Condition(name, named, seconds, _duration, partial(_slower, field=field), slowest)


def _later(request: Request, factor: float) -> Request:
    deadline = request.deadline
    assert deadline is not None, "only a deadline is moved"
    return limited(replace(request, deadline=deadline._replace(seconds=deadline.seconds * factor)))


def _wider(request: Request, factor: float) -> Request:
    deadline = request.deadline
    assert deadline is not None, "only a deadline is moved"
    count = math.ceil(deadline.accelerators * factor)
    return limited(replace(request, deadline=deadline._replace(accelerators=count)))


def _in_larger_groups(request: Request, factor: float) -> Request:
    deployment = request.economics.deployment
    assert deployment is not None, "only where something is served"
    most = min(LARGEST_GROUP, _group(deployment.groups[-1] * factor))
    deployment = replace(deployment, most_accelerators=most)
    return limited(replace(request, economics=replace(request.economics, deployment=deployment)))


def _larger(request: Request, factor: float) -> Request:
    return limited(replace(request, max_parameters=(request.max_parameters or 0.0) * factor))


def _with_data(request: Request, factor: float) -> Request:
    return replace(request, unique_tokens=(request.unique_tokens or 0.0) * factor)


def _slower(request: Request, factor: float, *, field: str) -> Request:
    deployment = request.economics.deployment
    assert deployment is not None, "only limits on latency are moved"
    deployment = replace(deployment, **{field: getattr(deployment, field) * factor})
    return limited(replace(request, economics=replace(request.economics, deployment=deployment)))


def _least_factor(moved: Callable[[float], Request]) -> float | None:
    """The least factor from 1 up for which the moved question has an answer; None where none has."""
    low, high = 1.0, 2.0
    while not _has_answer(moved(high)):
        if high >= MOST_STRETCH:
            return None
        low, high = high, min(high * high, MOST_STRETCH)
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
    first, together = stretches[0], stretches[0].together
    wish = "be trained and served"
    if objective.fixed == "loss":
        wish = f"reach {_goal(request, float(np.asarray(objective.value)))}"
    what = f"{first.name}, {first.now}, would have to be {first.needed}"
    if together:
        named = (f"{stretch.name} ({stretch.now})" for stretch in stretches)
        what = f"moving one is not enough, all would have to move: {', '.join(named)}"
    ways = [f"{way.option} '{way.needed}'" for way in stretches if way.askable]
    if together:
        ways = [" ".join(ways)] if len(ways) == len(stretches) else []
    if objective.fixed == "loss" and (reached := _lowest_reachable(request)) is not None:
        ways.append(_asking(request, reached + 1e-3))
    return InfeasibleError(
        f"no model can {wish} under these conditions: {what}, {format_number(first.factor)} times as much",
        hint=f"give {' or '.join(ways)}" if ways else "ask for less: no option goes so far",
    )


def _lowest_reachable(request: Request) -> float | None:
    """The lowest loss that any size reaches under the limits, whatever it costs; None where none does.

    A shape that can be built may be 3 % smaller than the largest that is allowed: so is this.
    """
    problem, limits = request.problem(), request.limits
    if limits.parameters < SMALLEST_MODEL:
        return None
    largest = min(limits.parameters * 0.96, LARGEST_MODEL)
    sizes = problem.sizes(np.linspace(LOG_SIZES[0], float(coordinate_of(problem.family, largest)), 2000))
    free = Objective("budget", 1e60, limits)
    losses = np.asarray(problem.law.loss(sizes.parameters, tokens_for(problem, free, sizes)))
    known = losses[np.isfinite(losses)]
    return float(known.min()) if known.size else None


def _below_the_floor(request: Request, loss: float, floor: float) -> InfeasibleError:
    downstream, scored = request.fit.downstream, ""
    if request.target_score is not None and downstream is not None:
        scored = f", which would score {float(downstream.score(floor)):.3f}"
    return InfeasibleError(
        f"no model reaches {_goal(request, loss)}: the law's floor is {floor:.4f}, {floor - loss:.4f} more"
        f"{scored}",
        hint=f"ask for less, such as {_asking(request, floor + 0.05, 2)}, or give another --law",
    )


def _too_large_to_serve(request: Request, loss: float) -> InfeasibleError:
    """A target whose every model is more than the accelerators that serve it can hold."""
    deployment = request.economics.deployment
    assert deployment is not None, "only where a roofline says what can be served"
    chips = f"{deployment.groups[-1]} {deployment.rental.accelerator.name}"
    ways = "another --serve-accelerator, or fewer bits with --serve-precision"
    if (reached := _lowest_reachable(request)) is not None:
        ways += f", or {_asking(request, reached + 1e-3)}"
    return InfeasibleError(
        f"{_goal(request, loss)} takes a larger model than {chips} can serve", hint=f"give {ways}"
    )


def _badly_sized_target(request: Request, loss: float, floor: float, parameters: float) -> InfeasibleError:
    if parameters < SMALLEST_MODEL:
        return InfeasibleError(
            f"{_goal(request, loss)} takes {format_number(parameters)} parameters, too few for a law to hold",
            hint=f"ask for a lower loss, such as {_asking(request, floor + 0.5, 2)}",
        )
    return InfeasibleError(
        f"{_goal(request, loss)}, only {loss - floor:.2g} above the law's floor E = {floor:.4f}, takes "
        + ("more than any model" if math.isnan(parameters) else f"{format_number(parameters)} parameters"),
        hint=f"ask for a little less, such as {_asking(request, floor + 0.05, 2)}",
    )


def _goal(request: Request, loss: float) -> str:
    """What was asked for, in the asker's own terms, and the loss that it takes."""
    if request.target_score is not None and request.fit.downstream is not None:
        task = request.fit.downstream.task
        return f"a score of {request.target_score:g} on {task} (a loss of {loss:.4f})"
    if request.match is not None:
        return f"the quality of {request.match.name} (a loss of {loss:.4f})"
    return f"a loss of {loss:.4f}"


def _asking(request: Request, loss: float, decimals: int = 3) -> str:
    """The option that asks for no more than this loss allows: for its score, where a score was asked for."""
    downstream = request.fit.downstream
    if request.target_score is not None and downstream is not None:
        return f"--target-score {math.floor(float(downstream.score(loss)) * 1000) / 1000:.3f}"
    rather = f" instead of --match {request.match.name}" if request.match is not None else ""
    return f"--target-loss {_round_up(loss, decimals)}{rather}"


def _badly_sized_budget(request: Request, problem: Problem, parameters: float) -> InfeasibleError:
    """A budget whose best model is too small or too large to speak of, with the nearest that is not."""
    budget, demand = request.budget, request.economics.demand.serve_tokens
    assert budget is not None, "a question without a target has a budget"
    too_small = not parameters >= SMALLEST_MODEL
    edge = SMALLEST_MODEL if too_small else LARGEST_MODEL
    nearest = _nearest_budget(request, problem, edge, more=too_small)
    why = "too few for a law to hold" if too_small else "more than any law reaches"
    served = f" that serves {format_count(demand)} tokens" if demand else ""
    found = "no parameters left" if math.isnan(parameters) else f"{format_number(parameters)} parameters"
    return InfeasibleError(
        f"on {format_quantity(budget)} the best model{served} has {found}, {why}",
        hint=f"give {'at least' if too_small else 'at most'} --budget '{nearest}'"
        + (", or serve fewer tokens" if too_small and demand else ""),
    )


def _nearest_budget(request: Request, problem: Problem, edge: float, *, more: bool) -> str:
    """The least budget whose best model has `edge` parameters if `more` is needed, else the most."""
    budget = request.budget
    assert budget is not None, "a question without a target has a budget"
    inside, outside = math.log(budget.value) + (80 if more else -80), math.log(budget.value)
    for _ in range(60):
        middle = (inside + outside) / 2
        reached = float(lowest_loss(problem, math.exp(middle), request.limits).sizes.parameters)
        inside, outside = (middle, outside) if (reached >= edge) == more else (inside, middle)
    margin = 1.01 if more else 0.99
    return format_quantity(Quantity(value=math.exp(inside) * margin, kind=budget.kind))


def _duration(seconds: float) -> str:
    """A duration that reads back: days and hours, or milliseconds."""
    return format_seconds(seconds).replace(" ", "") if seconds >= 1 else f"{format_number(1e3 * seconds)}ms"


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _group(value: float) -> int:
    """Copies are spread over powers of two."""
    return 1 << math.ceil(math.log2(value))


def _round_up(value: float, decimals: int) -> float:
    return math.ceil(value * 10**decimals) / 10**decimals
