"""A plan in words and rows, for the terminal and for Markdown."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llama_scale.costs import CostUnit, Demand, Economics, Rental
from llama_scale.planning.request import Request
from llama_scale.planning.sentence import format_cost
from llama_scale.quantities import (
    format_count,
    format_fraction,
    format_number,
    format_usd,
    format_usd_per_hour,
)

if TYPE_CHECKING:
    from llama_scale.planning.values import Plan, PlannedModel

UNIT_NAMES: dict[CostUnit, str] = {"flops": "FLOPs", "usd": "dollars", "gpu_hours": "GPU-hours"}
COLUMNS = ("model", "params", "tokens", "D/N", "loss", "train", "serve", "total")
RECOMMENDED_ROW = 0
SENSITIVITY_COLUMNS = ("input", "at", "params", "tokens", "loss", "same quality for")
REGRET_NOTE = "cost over the best plan for the demand that comes, at equal quality"
SENSITIVITY_NOTE = "the question asked anew; last, the least that this plan's quality would cost"


def rows(plan: Plan) -> list[tuple[str, ...]]:
    """The models side by side, the recommended one first; costs in the unit of the objective."""
    named = [("recommended", plan.recommended), ("unrounded", plan.optimum)]
    saves = plan.saving.share != plan.saving.share or abs(plan.saving.share) > 1e-3
    if plan.request.economics.demand.serve_tokens or saves:
        named.append(("equal loss *", plan.compute_optimal))
        if plan.compute_optimal_on_budget is not None:
            named.append(("equal cost *", plan.compute_optimal_on_budget))
    exist = [(name, model) for name, model in named if math.isfinite(model.parameters)]
    return [_row(name, model, plan.request.unit) for name, model in exist]


def _row(name: str, model: PlannedModel, unit: CostUnit) -> tuple[str, ...]:
    costs = [format_cost(model.lifetime, unit, part) for part in ("train", "serve", "total")]
    bare = [cost.removesuffix(" FLOPs").removesuffix(" GPU-hours") for cost in costs]
    return (
        name,
        format_count(model.parameters),
        format_count(model.tokens),
        format_number(model.tokens_per_parameter),
        f"{model.loss_nats:.4f}",
        *bare,
    )


def table_note(plan: Plan) -> str:
    """What the table counts."""
    counted = plan.request.fit.convention.replace("_", "-")
    starred = "; * compute-optimal (Chinchilla)" if len(rows(plan)) > 2 else ""
    return f"nats/token, {UNIT_NAMES[plan.request.unit]}, {counted} parameters{starred}"


def sensitivity_rows(plan: Plan) -> list[tuple[str, ...]]:
    """Inputs at their low and high: what one would train, and the least that the same quality costs."""
    return [
        (
            row.input if case is row.low else "",
            case.label,
            size_text(case.parameters),
            size_text(case.tokens),
            f"{case.loss_nats:.4f}" if math.isfinite(case.loss_nats) else "none",
            bill_text(case.usd),
        )
        for row in plan.sensitivity
        for case in (row.low, row.high)
    ]


def size_text(value: float) -> str:
    """Parameters or tokens, where a case has any."""
    return format_count(value) if math.isfinite(value) else "none"


def bill_text(usd: float) -> str:
    """Dollars, unless the plan's quality cannot be had then."""
    return format_usd(usd, 3) if math.isfinite(usd) else "impossible"


def regret_rows(plan: Plan) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Plans for a low, median, mean and high demand, and what each costs too much where another comes."""
    table = plan.regret
    if table is None:
        return [], ()
    columns = ("planned for", "params", "tokens", *(f"{name} comes" for name, _ in table.demands))
    amounts = dict(table.demands)
    body = [
        (
            f"{row.demand} ({format_count(amounts[row.demand])})",
            format_count(row.parameters),
            format_count(row.tokens),
            *(f"+{format_fraction(max(0.0, share), 2)}" for share in row.regrets),
        )
        for row in table.rows
    ]
    return body, columns


def assumed(request: Request) -> str:
    """What is taken for granted, in one sentence."""
    economics = request.economics
    counting = "6ND + 2NT" if request.flops == "6nd" else "the shape's own FLOPs"
    match = f", {request.match.name} as if trained on the law's data" if request.match else ""
    training = economics.training
    trained = (
        f"{_hired(training.rental)}, MFU {format_fraction(training.mfu)}{_age(request, 'mfu')}, goodput "
        f"{format_fraction(training.goodput)}{_age(request, 'goodput')}"
    )
    served = _served(economics) if economics.demand.serve_tokens else ""
    return f"law {request.fit.name}, {counting}{match}; {trained}{served}"


def _age(request: Request, name: str) -> str:
    """When a default was true; nothing of what the asker gave."""
    default = request.mfu_default if name == "mfu" else request.goodput_default
    return f" ({default.date})" if default.date and name not in request.given else ""


def _served(economics: Economics) -> str:
    serving, demand, deployment = economics.serving, economics.demand, economics.deployment
    where = "on the same" if serving.rental == economics.training.rental else f"on {_hired(serving.rental)}"
    answers = f"{demand.samples:,} x " if demand.samples > 1 else ""
    written = f"{answers}{format_number(demand.output_tokens)}"
    request = f"{format_number(demand.input_tokens)} tokens read + {written}"
    if deployment is None:
        how = f"at MFUs of {format_fraction(serving.prefill_mfu)} and {format_fraction(serving.decode_mfu)}"
    else:
        how = f"by our roofline in {deployment.weight_bits:g} bits"
    used = format_fraction(serving.utilisation)
    return f"; served {where} {how}, {request} written a request, utilisation {used}{_life(demand)}"


def _life(demand: Demand) -> str:
    """The months that a demand is of, where there are any."""
    if demand.months is None:
        return ""
    first = format_count(demand.serve_tokens * demand.monthly_shares[0])
    rate = format_fraction(demand.discount)
    worth = f", dollars discounted by {rate} a year" if demand.discount else ""
    total = format_count(demand.serve_tokens)
    return f"; {total} tokens are those of all {demand.months} months, {first} of the first{worth}"


def _hired(hired: Rental) -> str:
    price = hired.price_usd_per_hour
    dated = f" ({hired.price_date})" if hired.price_date else ""
    cost = "" if price is None else f", {format_usd_per_hour(price)}{dated}"
    return f"{hired.accelerator.name} {hired.precision}{cost}"
