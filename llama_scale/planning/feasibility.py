"""Refusals of what cannot be done: which condition, by how much, and the nearest question with an answer."""

from __future__ import annotations

import math

from llama_scale.errors import InfeasibleError
from llama_scale.planning.optimum import (
    LARGEST_MODEL,
    SMALLEST_MODEL,
    Objective,
    Problem,
    Solution,
    lowest_loss,
)
from llama_scale.planning.request import Request
from llama_scale.planning.values import PlannedModel
from llama_scale.quantities import Quantity, format_count, format_number, format_quantity

ROUNDING = 1e-3  # what a shape that can be built may cost over a budget that the optimum meets exactly
FARTHEST_SHAPE = 0.25  # a shape that misses the optimum's parameters by more is no answer to the question


def refuse_unreachable(request: Request, problem: Problem, objective: Objective, solution: Solution) -> None:
    """Raises InfeasibleError where the optimum does not exist or is no model that anyone would train."""
    parameters = float(solution.sizes.parameters)
    if SMALLEST_MODEL <= parameters <= LARGEST_MODEL and math.isfinite(float(solution.tokens)):
        return
    if objective.fixed == "loss":
        raise _unreachable_loss(float(objective.value), float(problem.law.E), parameters)
    raise _badly_sized_budget(request, problem, parameters)


def refuse_missing_shape(request: Request, smallest: float, wanted: float) -> None:
    """Raises InfeasibleError where no LLaMA with this vocabulary is near the size that is wanted."""
    if smallest > wanted * (1 + FARTHEST_SHAPE):
        raise InfeasibleError(
            f"the best model has {format_count(wanted)} parameters, but the nearest LLaMA with a vocabulary "
            f"of {request.vocabulary:,} has {format_count(smallest)}",
            hint="give your tokenizer's size, such as --vocabulary 256 for bytes, or "
            + (
                "a larger --budget"
                if request.match is None and request.target_loss is None
                else "a lower loss"
            ),
        )


def refuse_dear_target(request: Request, recommended: PlannedModel) -> None:
    """Raises InfeasibleError where the target costs more than the budget that was given with it."""
    budget, used = request.budget, recommended.lifetime.total(request.unit)
    if budget is None or used <= budget.value * (1 + ROUNDING):
        return
    problem = request.problem()
    affordable = float(problem.loss(lowest_loss(problem, budget.value)))
    needed = format_quantity(Quantity(value=used * 1.01, kind=budget.kind))
    raise InfeasibleError(
        f"a loss of {recommended.loss_nats:.4f} costs {needed} to train and serve, {used / budget.value:.3g} "
        f"times the budget of {format_quantity(budget)}",
        hint=f"give --budget '{needed}' or more, or --target-loss {_round_up(affordable, 3)}, which it buys",
    )


def _unreachable_loss(loss: float, floor: float, parameters: float) -> InfeasibleError:
    if loss <= floor:
        return InfeasibleError(
            f"no model reaches a loss of {loss:g}: the law's floor is {floor:.4f}, {floor - loss:.4f} more",
            hint=f"ask for more than E, such as --target-loss {_round_up(floor + 0.05, 2)}, or another --law",
        )
    if parameters < SMALLEST_MODEL:
        return InfeasibleError(
            f"a loss of {loss:g} takes {format_number(parameters)} parameters, too few for a law to hold",
            hint=f"ask for a lower loss, such as --target-loss {_round_up(floor + 0.5, 2)}",
        )
    return InfeasibleError(
        f"a loss of {loss:g}, only {loss - floor:.2g} above the law's floor E = {floor:.4f}, takes "
        f"{format_number(parameters)} parameters",
        hint=f"ask for a little more, such as --target-loss {_round_up(floor + 0.05, 2)}",
    )


def _badly_sized_budget(request: Request, problem: Problem, parameters: float) -> InfeasibleError:
    """A budget whose best model is too small or too large to speak of, with the nearest that is not."""
    budget, demand = request.budget, request.economics.demand.serve_tokens
    assert budget is not None, "a question without a target has a budget"
    too_small = parameters < SMALLEST_MODEL
    edge = SMALLEST_MODEL if too_small else LARGEST_MODEL
    inside, outside = math.log(budget.value) + (80 if too_small else -80), math.log(budget.value)
    for _ in range(60):
        middle = (inside + outside) / 2
        reached = float(lowest_loss(problem, math.exp(middle)).sizes.parameters)
        inside, outside = (middle, outside) if (reached >= edge) == too_small else (inside, middle)
    margin = 1.01 if too_small else 0.99
    nearest = format_quantity(Quantity(value=math.exp(inside) * margin, kind=budget.kind))
    why = "too few for a law to hold" if too_small else "more than any law reaches"
    served = f" that serves {format_count(demand)} tokens" if demand else ""
    return InfeasibleError(
        f"on {format_quantity(budget)} the best model{served} has {format_number(parameters)} parameters, "
        f"{why}",
        hint=f"give {'at least' if too_small else 'at most'} --budget '{nearest}'"
        + (", or serve fewer tokens" if too_small and demand else ""),
    )


def _round_up(value: float, decimals: int) -> float:
    return math.ceil(value * 10**decimals) / 10**decimals
