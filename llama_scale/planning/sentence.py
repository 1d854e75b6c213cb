"""A plan in one sentence, and costs as text: all that JSON says in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_scale.architecture import ParameterConvention
from llama_scale.costs import CostUnit, Lifetime
from llama_scale.planning.cautions import beyond_all_text
from llama_scale.quantities import Quantity, format_count, format_number, format_quantity

if TYPE_CHECKING:
    from llama_scale.planning.values import Plan


def sentence(plan: Plan) -> str:
    """The answer: what to train, what it reaches, and for what it is the best."""
    if plan.far_beyond is not None:
        times = format_number(plan.far_beyond, 2)
        return f"{_answer(plan)} An example only: {times} x the FLOPs of the largest run behind its law."
    if beyond_all_text(plan.request, plan.recommended):
        return f"{_answer(plan)} An example only: all public text has fewer tokens."
    return _answer(plan)


def _answer(plan: Plan) -> str:
    model, request = plan.recommended, plan.request
    demand = request.economics.demand
    counted = named_parameters(request.fit.convention)
    what = f"Train {format_count(model.parameters)} {counted} on {format_count(model.tokens)} tokens"
    purpose = "training alone"
    if demand.serve_tokens:
        expected = "an expected " if demand.spread else ""
        purpose = f"training and serving {expected}{format_count(demand.serve_tokens)} tokens"
    total = format_cost(model.lifetime, request.unit)
    if request.has_target:
        goal = f"matches {request.match.name} at" if request.match else "reaches"
        if request.target_score is not None and request.fit.downstream is not None:
            goal = f"scores {request.target_score:g} on {request.fit.downstream.task} by"
        return f"{what}: the cheapest that {goal} a loss of {model.loss_nats:.3f}, {total} for {purpose}."
    if request.budget is None and request.deadline is not None:
        allowed = (
            f"{request.deadline.accelerators:,} accelerators can train in {_days(request.deadline.seconds)}"
        )
        return f"{what}: a loss of {model.loss_nats:.3f}, the lowest that {allowed}; {total} for {purpose}."
    binding = [limit.name for limit in plan.limits if limit.binding]
    if binding and "total budget" not in binding:
        within = " and ".join(f"the {name}" for name in binding)
        return f"{what}: a loss of {model.loss_nats:.3f}, the lowest within {within}; {total} for {purpose}."
    if "budget" not in request.given and request.budget is not None:  # of which rounding may leave some
        total = f"{amount(request.budget.value, request.unit)} (our default budget)"
    return f"{what}: a loss of {model.loss_nats:.3f}, the lowest that {total} buy for {purpose}."


def named_parameters(convention: ParameterConvention) -> str:
    """What a law counts; plain `parameters` where it counts all of them."""
    kind = "" if convention == "total" else f"{convention.replace('_', '-')} "
    return f"{kind}parameters"


def _days(seconds: float) -> str:
    return f"{format_number(seconds / 86400, 3)} days"


def format_cost(cost: Lifetime, unit: CostUnit, part: str = "total") -> str:
    """One part of a cost (`train`, `serve` or `total`) to 3 digits; a dash where it is not known."""
    value = getattr(cost, f"{part}_{unit}")
    return "-" if value is None else amount(value, unit)


def amount(value: float, unit: CostUnit) -> str:
    """A cost in its unit, to 3 digits; a dash where there is none."""
    return "-" if value != value else format_quantity(Quantity(value=float(f"{value:.3g}"), kind=unit))
