"""Refusals of what cannot be done: which condition, by how much, and the nearest question with an answer.

Each is made only where it is said (`Refusal`): its hint is looked for, and tried, only then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import numpy as np

from llama_scale.errors import InfeasibleError
from llama_scale.planning.batches import floor_of
from llama_scale.planning.families import LARGEST_MODEL, SMALLEST_MODEL
from llama_scale.planning.optimum import NO_LIMITS, Objective, Problem, Solution
from llama_scale.planning.reading import option
from llama_scale.planning.request import SERVING_LIMITS, Request, without_serving
from llama_scale.planning.values import PlannedModel
from llama_scale.planning.ways import (
    ROOM,
    STEPS,
    Answers,
    Stretch,
    conditions,
    first_answered,
    has_answer,
    is_model,
    is_starved,
    is_too_dear,
    loosened,
    losses_asked,
    nearest_budget,
    nearest_loss,
    stretched,
    stretches,
)
from llama_scale.quantities import Quantity, format_count, format_number, format_quantity

FARTHEST_SHAPE = 0.25  # a shape that misses the optimum's parameters by more is no answer to the question
ABOVE_THE_FLOOR = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)  # nats, offered where a target is no model's

Refusal = Callable[[Answers], InfeasibleError]


def unreachable(
    request: Request, problem: Problem, objective: Objective, solution: Solution
) -> Refusal | None:
    """The refusal where the optimum does not exist or is no model that anyone would train."""
    if is_model(solution):
        return None
    if request.most_parameters < SMALLEST_MODEL:
        return partial(_all_embeddings, request)
    return starved(request, float(problem.loss(solution))) or partial(
        _unreachable, request, problem, objective, float(solution.sizes.parameters)
    )


def _unreachable(
    request: Request, problem: Problem, objective: Objective, parameters: float, answers: Answers
) -> InfeasibleError:
    on_budget = objective.fixed == "budget"
    if on_budget and request.limits == NO_LIMITS:
        return _badly_sized_budget(request, problem, parameters, answers)
    loss, floor = float(np.asarray(objective.value)), floor_of(problem.law)
    if not on_budget and loss <= floor:
        return _below_the_floor(request, loss, floor, answers)
    found = stretches(request, answers) if math.isnan(parameters) else []
    if any(stretch.way for stretch in found) or (found and not on_budget):
        return _refused(request, objective, found, answers)
    if on_budget:
        return _badly_sized_budget(request, problem, parameters, answers)
    served = request.economics.deployment is not None
    if served and math.isnan(parameters) and has_answer(without_serving(request)):
        return _too_large_to_serve(request, loss, answers)
    return _badly_sized_target(request, loss, floor, parameters, answers)


def missing_shape(request: Request, smallest: float, wanted: float) -> Refusal | None:
    """The refusal where no LLaMA with this vocabulary is near the size that is wanted."""
    if smallest <= wanted * (1 + FARTHEST_SHAPE):
        return None
    is_too_tight = wanted >= request.limits.parameters * 0.99
    return partial(_too_tight if is_too_tight else _missing_shape, request, smallest, wanted)


def _missing_shape(request: Request, smallest: float, wanted: float, answers: Answers) -> InfeasibleError:
    ways: list[str] = []
    if answers({"vocabulary": 256}):
        ways.append("your tokenizer's size, such as --vocabulary 256 for bytes")
    if request.has_target:
        way = _other_loss(request, answers, lower=True)
        ways += [f"a lower loss, such as {way}"] if way else []
    elif way := nearest_budget(request, request.problem(), smallest, answers, more=True):
        ways.append(f"at least {way.text}")
    ways += [way.text for way in loosened(request, answers, ["unique_tokens"], least=smallest / wanted)]
    return InfeasibleError(
        f"the best model has {format_count(wanted)} parameters, but the nearest LLaMA with a vocabulary "
        f"of {request.vocabulary:,} has {format_count(smallest)}",
        hint=_give(ways) or "loosen more than one condition, or give a smaller --vocabulary",
    )


def _too_tight(request: Request, smallest: float, wanted: float, answers: Answers) -> InfeasibleError:
    """Limits on size or latency that leave no model which could be built."""
    given = [name for name in ("max_parameters", *SERVING_LIMITS) if name in request.given]
    options = " and ".join(option(name) for name in given)
    ways = loosened(request, answers, given, least=smallest / wanted)
    return InfeasibleError(
        f"{options} leave at most {format_count(request.limits.parameters)} parameters, but the smallest "
        f"LLaMA with a vocabulary of {request.vocabulary:,} has {format_count(smallest)}",
        hint=_give(way.text for way in ways) or f"give more with {options}, or a smaller --vocabulary",
    )


def unbuildable(request: Request, wanted: float, answers: Answers) -> InfeasibleError:
    """The error where the continuum keeps the conditions, but no shape near its optimum does.

    Each condition is loosened step by step, to say how little is missing.
    """
    ways = loosened(request, answers, [one.word for one in conditions(request)])
    if request.has_target and (higher := nearest_loss(request, answers)):
        ways.append(higher)
    return InfeasibleError(
        f"a model of {format_count(wanted)} parameters would just do, but no shape that can be built does",
        hint=_give(way.text for way in ways) or "loosen more than one condition",
    )


def _all_embeddings(request: Request, answers: Answers) -> InfeasibleError:
    """A largest size of which the tables of the vocabulary leave nothing that the law counts."""
    family, most = request.family, request.max_parameters or math.inf
    least = float(family.geometry.recounted(SMALLEST_MODEL, family.convention, "total"))
    ways = loosened(request, answers, ["max_parameters"], least=least / most)
    return InfeasibleError(
        f"--max-parameters {format_count(most)} leave {format_number(request.most_parameters)} beside the "
        f"tables of a vocabulary of {request.vocabulary:,}, too few for a law to hold",
        hint=_give(way.text for way in ways) or "give more with --max-parameters, or a smaller --vocabulary",
    )


def too_dear(request: Request, recommended: PlannedModel) -> Refusal | None:
    """The refusal where the target costs more than the budget that was given with it."""
    used = recommended.lifetime.total(request.unit)
    return partial(_too_dear, request, recommended, used) if is_too_dear(request, used) else None


def _too_dear(request: Request, recommended: PlannedModel, used: float, answers: Answers) -> InfeasibleError:
    budget = request.budget
    assert budget is not None, "only a budget is too small"
    asked = next(one for one in conditions(request) if one.word == "budget")
    enough = first_answered((asked.at(used * ROOM * step) for step in STEPS), answers)
    ways = [f"{enough.text} or more"] if enough else []
    ways += [f"{way.text}, which it buys"] if (way := nearest_loss(request, answers)) else []
    needed = format_quantity(Quantity(value=used * ROOM, kind=budget.kind))
    return InfeasibleError(
        f"{_goal(request, recommended.loss_nats)} costs {needed} to train and serve, "
        f"{format_number(used / budget.value)} times the budget of {format_quantity(budget)}",
        hint=_give(ways, ", or ") or "ask for a higher loss, or serve fewer tokens",
    )


def starved(request: Request, loss: float) -> Refusal | None:
    """The refusal where the data are so few that the best model is worse than guessing."""
    return partial(_starved, request, loss) if is_starved(request, loss) else None


def _starved(request: Request, loss: float, answers: Answers) -> InfeasibleError:
    data = tuple(one for one in conditions(request) if one.word == "unique_tokens")
    found = stretched(request, data, answers)
    way = found.way.text if found and found.way else "more --unique-tokens"
    unique, words = format_count(request.unique_tokens or 0.0), request.vocabulary
    return InfeasibleError(
        f"{unique} unique tokens are too few for the law: the best loss, {loss:.3f}, is worse than guessing "
        f"among {words:,} ({math.log(words):.2f})",
        hint=f"give more data, such as {way}, or your tokenizer's --vocabulary",
    )


def _refused(
    request: Request, objective: Objective, found: list[Stretch], answers: Answers
) -> InfeasibleError:
    """Names the condition that is nearest to allowing an answer, and the others that would."""
    nearest, wish = found[0], "be trained and served"
    if objective.fixed == "loss":
        wish = f"reach {_goal(request, float(np.asarray(objective.value)))}"
    first = nearest.conditions[0]
    moved = [
        (one.form(one.value), one.form(needed))
        for one, needed in zip(nearest.conditions, nearest.needed, strict=True)
    ]
    least = "" if nearest.way else "at least "  # what can be built may need more, or never do
    what = f"{first.name}, {moved[0][0]}, would have to be {least}{moved[0][1]},"
    if len(moved) > 1:
        named = (
            f"{one.name} ({now} to {least}{needed})"
            for one, (now, needed) in zip(nearest.conditions, moved, strict=True)
        )
        what = f"moving one is not enough, all would have to move: {', '.join(named)}, up to"
    ways = [stretch.way.text for stretch in found if stretch.way]
    if objective.fixed == "loss" and (way := nearest_loss(request, answers)):
        ways.append(way.text)
    return InfeasibleError(
        f"no model can {wish} under these conditions: {what} {format_number(nearest.factor)} times as much",
        hint=_give(ways) or "ask for less, or loosen more than one condition",
    )


def _below_the_floor(request: Request, loss: float, floor: float, answers: Answers) -> InfeasibleError:
    downstream, scored = request.fit.downstream, ""
    if request.target_score is not None and downstream is not None:
        scored = f", which would score {float(downstream.score(floor)):.3f}"
    return InfeasibleError(
        f"no model reaches {_goal(request, loss)}: the law's floor is {floor:.4f}, {floor - loss:.4f} more"
        f"{scored}",
        hint=f"ask for less, {_such_as(request, answers)}or give another --law",
    )


def _too_large_to_serve(request: Request, loss: float, answers: Answers) -> InfeasibleError:
    """A target whose every model is more than the accelerators that serve it can hold."""
    deployment = request.economics.deployment
    assert deployment is not None, "only where a roofline says what can be served"
    chips = f"{deployment.groups[-1]} {deployment.rental.accelerator.name}"
    ways = "another --serve-accelerator, or fewer bits with --serve-precision"
    if way := nearest_loss(request, answers):
        ways += f", or {way.text}"
    return InfeasibleError(
        f"{_goal(request, loss)} takes a larger model than {chips} can serve", hint=f"give {ways}"
    )


def _badly_sized_target(
    request: Request, loss: float, floor: float, parameters: float, answers: Answers
) -> InfeasibleError:
    such_as = _such_as(request, answers, lower=parameters < SMALLEST_MODEL)
    if parameters < SMALLEST_MODEL:
        return InfeasibleError(
            f"{_goal(request, loss)} takes {format_number(parameters)} parameters, too few for a law to hold",
            hint=f"ask for a lower loss, {such_as}or give another --law",
        )
    return InfeasibleError(
        f"{_goal(request, loss)}, only {loss - floor:.2g} above the law's floor E = {floor:.4f}, takes "
        + ("more than any model" if math.isnan(parameters) else f"{format_number(parameters)} parameters"),
        hint=f"ask for a little less, {such_as}or give another --law",
    )


def _such_as(request: Request, answers: Answers, *, lower: bool = False) -> str:
    way = _other_loss(request, answers, lower=lower)
    return f"such as {way}, " if way else ""


def _other_loss(request: Request, answers: Answers, *, lower: bool = False) -> str | None:
    """A loss that has an answer: the least of a few above the floor, the highest if a lower one is wanted.

    Where none has one, the first of them with what else would have to move.
    """
    floor = floor_of(request.law)
    losses = [floor + more for more in (reversed(ABOVE_THE_FLOOR) if lower else ABOVE_THE_FLOOR)]
    ways = [*losses_asked(request, losses, 2)]
    if found := first_answered(ways, answers) or nearest_loss(request, answers):
        return found.text
    for loss, way in zip(losses, ways, strict=False):
        asked = replace(request, target_loss=loss, target_score=None, match=None)
        for stretch in stretches(asked, lambda changes, way=way: answers({**way.words, **changes})):
            if stretch.way:
                return f"{way.text} {stretch.way.text}"
    return None


def _goal(request: Request, loss: float) -> str:
    """What was asked for, in the asker's own terms, and the loss that it takes."""
    if request.target_score is not None and request.fit.downstream is not None:
        task = request.fit.downstream.task
        return f"a score of {request.target_score:g} on {task} (a loss of {loss:.4f})"
    if request.match is not None:
        return f"the quality of {request.match.name} (a loss of {loss:.4f})"
    return f"a loss of {loss:.4f}"


def _badly_sized_budget(
    request: Request, problem: Problem, parameters: float, answers: Answers
) -> InfeasibleError:
    """A budget whose best model is too small or too large to speak of, with the nearest that is not."""
    budget, demand = request.budget, request.economics.demand.serve_tokens
    assert budget is not None, "a question without a target has a budget"
    too_small = not parameters >= SMALLEST_MODEL
    edge = SMALLEST_MODEL if too_small else LARGEST_MODEL
    nearest = nearest_budget(request, problem, edge, answers, more=too_small)
    why = "too few for a law to hold" if too_small else "more than any law reaches"
    served = f" that serves {format_count(demand)} tokens" if demand else ""
    found = "no parameters left" if math.isnan(parameters) else f"{format_number(parameters)} parameters"
    ways = [f"give at {'least' if too_small else 'most'} {nearest.text}"] if nearest else []
    if too_small and demand and has_answer(without_serving(request)):
        ways.append("serve fewer tokens")
    elif not ways and request.limits == NO_LIMITS:
        ways.append("give another --law: its own best model is no such one")
    return InfeasibleError(
        f"on {format_quantity(budget)} the best model{served} has {found}, {why}",
        hint=", or ".join(ways) or "loosen what else is asked for: no budget alone will do",
    )


def _give(ways: Iterable[str], between: str = " or ") -> str:
    """`give` and the ways, or nothing where there are none."""
    named = between.join(ways)
    return f"give {named}" if named else ""
