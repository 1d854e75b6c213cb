"""Ways out of a question without an answer: which words to change, and how little will do.

What is nearest is found on the continuum of sizes. A way is offered only once the question has been asked
again with its words, as its asker would, a step further each time that it still has no answer: shapes that
can be built, texts that round and options that end somewhere are all kept so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any, NamedTuple

from llama_scale.costs.serving import LARGEST_GROUP
from llama_scale.planning.families import LARGEST_MODEL, SMALLEST_MODEL
from llama_scale.planning.optimum import Problem, Solution, best, lowest_loss
from llama_scale.planning.reading import option
from llama_scale.planning.request import BUDGET_LIMITS, TARGETS, Request, limited
from llama_scale.quantities import Quantity, format_count, format_number, format_quantity, format_seconds

ROUNDING = 1e-3  # what a shape that can be built may cost over a budget that the optimum meets exactly
ROOM, ROOM_FOR_SHAPES = 1.01, 1.1  # over the least that could do, and over the least size
STEPS = (1.0, 1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 4.0)  # tried where only what can be built is in the way
LESS = (0.6, 0.75, 0.85, 0.93)  # of a time that the usual proportions take: wide shapes may do with
LEAPS = tuple(4.0**power for power in range(2, 12))  # and beyond, where a budget is out of all reach
NATS = (0.001, 0.003, 0.01, 0.03, 0.1)  # above a loss that can just be reached, likewise
SLACK = 2.0  # how much further than needed conditions move together, but for the last
PRECISION = 1e-3  # of what a condition would have to be, of which three digits are said
ROUGHLY = 0.1  # the same, where it is given SLACK
MOST_STRETCH = 1e9  # how much further a condition is moved in search of an answer

# the loss that answers the question with these words instead, None where nothing does
Answers = Callable[[Mapping[str, Any]], float | None]


class Way(NamedTuple):
    """Words of the question to change (None: to leave out), and their options as one writes them."""

    words: Mapping[str, Any]
    text: str


class Condition(NamedTuple):
    """A condition as it stands, and where in a request it is: along `path`, or else under its word.

    `rounded` takes a value up to one that can be asked for; `room` is left over what could just do, and
    `less` are shares of it that shapes of other proportions may do with.
    """

    word: str
    name: str
    value: float
    form: Callable[[float], str]
    path: str = ""
    rounded: Callable[[float], float] = float
    room: float = ROOM
    less: tuple[float, ...] = ()

    def moved(self, request: Request, factor: float) -> Request:
        """The request with so many times as much of it."""
        path = (self.path or self.word).split(".")
        return limited(_with(request, path, self.rounded(self.value * factor)))

    def at(self, value: float) -> Way:
        """The way of asking for another value."""
        text = self.form(self.rounded(value))
        return Way({self.word: text}, f"{option(self.word)} '{text}'")


class Stretch(NamedTuple):
    """Conditions that give the question an answer if they move, and the values that they then need.

    `way` asks for them; None where their options do not go so far, or no shape that can be built answers:
    the values are then the least that a model of any size would need.
    """

    conditions: tuple[Condition, ...]
    needed: tuple[float, ...]
    way: Way | None

    @property
    def factor(self) -> float:
        """How much further the farthest of them has to go."""
        return max(needed / one.value for one, needed in zip(self.conditions, self.needed, strict=True))


def first_answered(ways: Iterable[Way], answers: Answers) -> Way | None:
    """The first way that leads to an answer."""
    return next((way for way in ways if answers(way.words)), None)


def stretches(request: Request, answers: Answers) -> list[Stretch]:
    """Each condition that an answer could be had by moving, moved no further than needed; nearest first.

    Where moving one is not enough, or is not possible, those of them that have to move together.
    """
    every = tuple(conditions(request))
    found = [stretch for one in every if (stretch := stretched(request, (one,), answers))]
    others = tuple(one for one in every if one.word != "accelerators")  # time does as well
    if not any(stretch.way for stretch in found) and len(others) > 1:
        together = stretched(request, others, answers)
        found = [*found, together] if together and (together.way or not found) else found
    return sorted(found, key=lambda stretch: (stretch.way is None, stretch.factor))


def stretched(request: Request, moving: tuple[Condition, ...], answers: Answers) -> Stretch | None:
    """The conditions moved no further than gives an answer; None where none does."""
    factors = _least_factors(request, moving)
    if factors is None:
        return None
    needing = [(one, by) for one, by in zip(moving, factors, strict=True) if by > 1 or len(moving) == 1]
    moved = tuple(one for one, _ in needing)

    def values(step: float) -> tuple[float, ...]:
        return tuple(one.rounded(one.value * by * step * one.room) for one, by in needing)

    def at(step: float) -> Way:
        ways = [one.at(value) for one, value in zip(moved, values(step), strict=True)]
        return Way(
            {word: text for way in ways for word, text in way.words.items()},
            " ".join(way.text for way in ways),
        )

    less = moved[0].less if len(moved) == 1 else ()
    step = _least_enough(at, answers, (*less, *STEPS, *LEAPS[:2]))
    return Stretch(moved, values(step or 1.0), at(step) if step else None)


def loosened(request: Request, answers: Answers, words: Collection[str], *, least: float = 1.0) -> list[Way]:
    """Each of these conditions alone, looser by `least` or more, where what can be built is in the way."""
    found: list[Way] = []
    for one in conditions(request):
        if one.word in words:
            at = partial(_times, one, one.value * least)
            step = _least_enough(at, answers)
            found += [at(step)] if step else []
    return found


def _times(condition: Condition, value: float, step: float) -> Way:
    return condition.at(value * step)


def _least_enough(
    at: Callable[[float], Way], answers: Answers, steps: Sequence[float] = (*STEPS, *LEAPS)
) -> float | None:
    """About the least step whose way leads to an answer; None where that of none of `steps` does."""
    before = 1.0
    for step in steps:
        if answers(at(step).words):
            while step > 1.1 * before:
                middle = math.sqrt(before * step)
                before, step = (before, middle) if answers(at(middle).words) else (middle, step)
            return step
        before = step
    return None


def conditions(request: Request) -> Iterator[Condition]:
    """What holds the question back, each with the option that says it."""
    if (budget := request.budget) is not None:
        form = partial(_amount, kind=budget.kind)
        yield Condition("budget", "the budget", budget.value, form, "budget.value")
    if (deadline := request.deadline) is not None:
        chips, path = "the number of accelerators", "deadline.accelerators"
        yield Condition("deadline", f"the {deadline.name}", deadline.seconds, duration, "deadline.seconds")
        yield Condition("accelerators", chips, deadline.accelerators, _whole, path, math.ceil)
    if (largest := request.max_parameters) is not None:
        name = "the largest size"
        yield Condition("max_parameters", name, largest, format_count, room=ROOM_FOR_SHAPES)
    if (unique := request.unique_tokens) is not None:
        yield Condition("unique_tokens", "the unique data", unique, format_count)
    yield from _of_serving(request)


def _of_serving(request: Request) -> Iterator[Condition]:
    deployment = request.economics.deployment
    if deployment is None:
        return
    if request.unit != "flops" or "serve_accelerators" in request.given:
        chips = f"the number of {deployment.rental.accelerator.name} that hold a copy"
        path = "economics.deployment.most_accelerators"
        yield Condition("serve_accelerators", chips, deployment.groups[-1], _whole, path, _group)
    for word, name in (
        ("time_per_output_token", "the time per output token"),
        ("time_to_first_token", "the time to the first token"),
    ):
        if (seconds := getattr(deployment, f"{word}_seconds")) is not None:
            path = f"economics.deployment.{word}_seconds"
            yield Condition(word, name, seconds, duration, path, less=LESS)


def _with(value: Any, path: Sequence[str], new: float) -> Any:
    """A frozen value in which what lies at the end of `path` is another."""
    return replace(value, **{path[0]: _with(getattr(value, path[0]), path[1:], new)}) if path else new


def _least_factors(request: Request, moving: tuple[Condition, ...]) -> tuple[float, ...] | None:
    """How far each has to move for an answer: all by one factor, then each back as far as the others allow.

    Where one comes back all the way the others cannot: each but the first leaves these some room, until it is
    the last to come back. None where they may move as far as they like.
    """

    def moved(factors: Sequence[float]) -> Request:
        return reduce(lambda asked, at: at[0].moved(asked, at[1]), zip(moving, factors, strict=True), request)

    common = _least_factor(lambda by: has_answer(moved([by] * len(moving))), MOST_STRETCH)
    if common is None or len(moving) == 1:
        return None if common is None else (common,)
    factors = [SLACK * common] * len(moving)

    def least(i: int, precision: float) -> float:
        def is_enough(by: float) -> bool:
            return has_answer(moved([*factors[:i], by, *factors[i + 1 :]]))

        return 1.0 if is_enough(1.0) else _least_factor(is_enough, factors[i], precision) or factors[i]

    for i in reversed(range(1, len(moving))):
        found = least(i, ROUGHLY)
        factors[i] = min(factors[i], SLACK * found) if found > 1 else 1.0
    for i in range(len(moving)):
        factors[i] = least(i, PRECISION)
    return tuple(factors)


def _least_factor(
    is_enough: Callable[[float], bool], most: float, precision: float = PRECISION
) -> float | None:
    """The least factor from 1 up to `most` that is enough; None where none is."""
    low, high = 1.0, min(2.0, most)
    while not is_enough(high):
        if high >= most:
            return None
        low, high = high, min(high * high, most)
    while high > (1 + precision) * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def has_answer(request: Request) -> bool:
    """Whether the continuum of sizes has a model that does what is asked, within a budget beside a target."""
    problem = request.problem()
    solution = best(problem, request.objective(request.law))
    return (
        is_model(solution)
        and not is_too_dear(request, float(problem.cost(*solution)))
        and not is_starved(request, float(problem.loss(solution)))
    )


def is_model(solution: Solution) -> bool:
    """Whether a solution is one that anyone would call a model."""
    parameters, tokens = float(solution.sizes.parameters), float(solution.tokens)
    return SMALLEST_MODEL <= parameters <= LARGEST_MODEL and 0 < tokens < math.inf


def is_too_dear(request: Request, cost: float) -> bool:
    """Whether a model that reaches the target costs more than the budget that was given with it."""
    budget = request.budget
    return request.has_target and budget is not None and cost > budget.value * (1 + ROUNDING)


def is_starved(request: Request, loss: float) -> bool:
    """Whether the best model is worse than guessing for want of data, and of nothing else."""
    guessing = math.log(request.vocabulary)
    if request.unique_tokens is None or not loss >= guessing:
        return False
    fresh = replace(request, unique_tokens=None)
    problem = fresh.problem()
    return float(problem.loss(best(problem, fresh.objective(fresh.law)))) < guessing


def nearest_loss(request: Request, answers: Answers) -> Way | None:
    """The lowest loss under every other condition: what its budget, or any, buys."""
    budget = request.budget or Quantity(value=BUDGET_LIMITS[request.unit][1], kind=request.unit)
    lowest = answers({**dict.fromkeys((*TARGETS, "cost_in")), "budget": budget})
    losses = () if lowest is None else (lowest + more for more in NATS)
    return first_answered(losses_asked(request, losses), answers)


def losses_asked(request: Request, losses: Iterable[float], decimals: int = 3) -> Iterator[Way]:
    """Ways of asking for these losses; one that is no better than guessing is no offer."""
    return (_at_loss(request, loss, decimals) for loss in losses if loss < math.log(request.vocabulary))


def _at_loss(request: Request, loss: float, decimals: int = 3) -> Way:
    """The way of asking for no more than this loss allows: for its score, where a score was asked for."""
    downstream = request.fit.downstream
    if request.target_score is not None and downstream is not None:
        score = f"{math.floor(float(downstream.score(loss)) * 1000) / 1000:.3f}"
        return Way({"target_score": score}, f"--target-score {score}")
    rather = f" instead of --match {request.given['match']}" if request.match is not None else ""
    asked = math.ceil(loss * 10**decimals) / 10**decimals
    return Way({"target_loss": asked, "match": None}, f"--target-loss {asked}{rather}")


def nearest_budget(
    request: Request, problem: Problem, edge: float, answers: Answers, *, more: bool
) -> Way | None:
    """The least budget that has an answer with about `edge` parameters or more if `more`, else the most."""
    budget = next(one for one in conditions(request) if one.word == "budget")
    inside, outside = math.log(budget.value) + (80 if more else -80), math.log(budget.value)
    for _ in range(60):
        middle = (inside + outside) / 2
        reached = float(lowest_loss(problem, math.exp(middle), request.limits).sizes.parameters)
        inside, outside = (middle, outside) if (reached >= edge) == more else (inside, middle)
    sign = 1 if more else -1

    def at(step: float) -> Way:
        return budget.at(math.exp(inside) * (ROOM * step) ** sign)

    step = _least_enough(at, answers)
    return at(step) if step else None


def duration(seconds: float) -> str:
    """A duration that reads back: days and hours, or milliseconds."""
    return format_seconds(seconds).replace(" ", "") if seconds >= 1 else f"{format_number(1e3 * seconds)}ms"


def _amount(value: float, *, kind: str) -> str:
    return format_quantity(Quantity(value=value, kind=kind))  # pyright: ignore[reportArgumentType]


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _group(value: float) -> int:
    """Copies are spread over powers of two, up to a largest."""
    return min(LARGEST_GROUP, 1 << math.ceil(math.log2(value)))
