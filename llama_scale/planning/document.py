"""The JSON object of `plan --json`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from llama_scale.planning.values import Limit, Plan
from llama_scale.planning.words import command
from llama_scale.quantities import Quantity, format_quantity

MEANING = (
    "the central share `level` over the law's draws: parameters, tokens, costs and saving of each law's own "
    "optimum; loss_nats of one new run of the recommended model"
)


def document(plan: Plan) -> dict[str, Any]:
    """Every part of a plan under the names of the contract, base units throughout."""
    return {
        "sentence": plan.sentence,
        "recommended": {
            **plan.recommended.to_json(),
            "architecture": {**asdict(plan.shape), "parameters": asdict(plan.shape.parameters)},
            "gap": plan.gap._asdict(),
        },
        "optimum": plan.optimum.to_json(),
        "compute_optimal": {**plan.compute_optimal.to_json(), "basis": "same loss as recommended"},
        "compute_optimal_on_budget": (
            plan.compute_optimal_on_budget and plan.compute_optimal_on_budget.to_json()
        ),
        "saving": plan.saving._asdict(),
        "flatness": [near._asdict() for near in plan.flatness],
        "intervals": _intervals(plan),
        "intervals_note": MEANING if plan.intervals else plan.request.fit.draws_note,
        "best_on_average": plan.best_on_average and plan.best_on_average._asdict(),
        "objective": _objective(plan),
        "law": _law(plan),
        "constraints": {
            "binding": next((limit.name for limit in plan.limits if limit.binding), None),
            "all": [_limit(limit) for limit in plan.limits],
        },
        "extrapolation": dict(plan.extrapolation) or None,
        "other_laws": [other._asdict() for other in plan.other_laws],
        "warnings": list(plan.warnings),
        "assumptions": [asdict(assumption) for assumption in plan.assumptions],
        "command": command(plan),
    }


def _intervals(plan: Plan) -> dict[str, Any] | None:
    spread = plan.intervals
    if spread is None:
        return None
    ranges = {name: list(limits) for name, limits in spread.ranges.items()}
    return {"level": spread.level, "draws": spread.draws, "unreached": spread.unreached, **ranges}


def _objective(plan: Plan) -> dict[str, Any]:
    request, demand = plan.request, plan.request.economics.demand
    on_budget = plan.compute_optimal_on_budget is not None
    return {
        "seek": "lowest loss" if on_budget else "lowest lifetime cost",
        "unit": request.unit,
        "match": request.match and request.match.name,
        **asdict(demand),
    }


def _law(plan: Plan) -> dict[str, Any]:
    fit = plan.request.fit
    return {
        "name": fit.name,
        "form": fit.law.form,
        "parameters": {name: float(value) for name, value in fit.law.constants.items()},
        "parameter_convention": fit.convention,
        "flops_accounting": plan.request.flops,
        "source": fit.source,
        "support": asdict(fit.support),
        "draws": plan.intervals.draws if plan.intervals else 0,
        "draws_note": fit.draws_note,
    }


def _limit(limit: Limit) -> dict[str, Any]:
    return {
        "name": limit.name,
        "limit": limit.limit.value if isinstance(limit.limit, Quantity) else limit.limit,
        "unit": limit.limit.kind if isinstance(limit.limit, Quantity) else "nats",
        "text": format_quantity(limit.limit) if isinstance(limit.limit, Quantity) else f"{limit.limit:.4f}",
        "used": limit.used,
        "binding": limit.binding,
        "default": limit.is_default,
    }
