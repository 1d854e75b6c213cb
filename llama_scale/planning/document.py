"""The JSON object of `plan --json`."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llama_scale.planning.again import command
from llama_scale.planning.quantisation import CAVEAT
from llama_scale.planning.quantisation import SOURCE as QUANTISATION_SOURCE
from llama_scale.quantities import Quantity, format_quantity
from llama_scale.version import code_version

if TYPE_CHECKING:
    from llama_scale.planning.offer import Offer
    from llama_scale.planning.request import Request
    from llama_scale.planning.shapes import KvChoice
    from llama_scale.planning.values import Limit, Plan, PlannedModel

MEANING = (
    "the central share `level` over the law's draws: parameters, tokens, costs and saving of each law's own "
    "optimum; loss_nats of one new run of the recommended model"
)


def document(plan: Plan) -> dict[str, Any]:
    """Every part of a plan under the names of the contract, base units throughout; null is unknown."""
    return _known(_parts(plan))


def _parts(plan: Plan) -> dict[str, Any]:
    return {
        "sentence": plan.sentence,
        "recommended": {
            **plan.recommended.to_json(),
            "architecture": {**asdict(plan.shape), "parameters": asdict(plan.shape.parameters)},
            "gap": plan.gap._asdict(),
        },
        "optimum": plan.optimum.to_json(),
        "compute_optimal": {**plan.compute_optimal.to_json(), "basis": "same loss as recommended"},
        "compute_optimal_on_budget": _json(plan.compute_optimal_on_budget),
        "saving": plan.saving._asdict(),
        "flatness": [near._asdict() for near in plan.flatness],
        "intervals": _intervals(plan),
        "intervals_note": MEANING if plan.intervals else plan.why_no_intervals,
        "best_on_average": plan.best_on_average and plan.best_on_average._asdict(),
        "objective": _objective(plan),
        "law": {
            **law_document(plan.request),
            "support": asdict(plan.law.support),
            "draws": plan.intervals.draws if plan.intervals else 0,
            "draws_note": plan.law.draws_note,
        },
        "constraints": _constraints(plan),
        "extrapolation": dict(plan.extrapolation) or None,
        "other_laws": [other._asdict() for other in plan.other_laws],
        "sensitivity": [row.to_json() for row in plan.sensitivity],
        "family": [near.to_json() for near in plan.family],
        "recipe": plan.recipe.to_json(),
        "kv_heads": _json(plan.kv_choice),
        "training": plan.training.to_json(),
        "serving": _serving(plan),
        "against": _json(plan.offer),
        **_asked_for(plan),
        "warnings": list(plan.warnings),
        "assumptions": [asdict(assumption) for assumption in plan.assumptions],
        "command": command(plan),
        "provenance": {"llama_scale": code_version()},
    }


def _json(part: PlannedModel | KvChoice | Offer | None) -> dict[str, Any] | None:
    """A part's own object; null where the plan lacks it."""
    return None if part is None else part.to_json()


def _constraints(plan: Plan) -> dict[str, Any]:
    return {
        "binding": next((limit.name for limit in plan.limits if limit.binding), None),
        "all": [_limit(limit) for limit in plan.limits],
    }


def _serving(plan: Plan) -> dict[str, Any] | None:
    """How the recommended model is served by the roofline; None at constant MFUs."""
    served, request = plan.recommended.throughput, plan.request
    deployment, price = request.economics.deployment, request.economics.serving.rental.price_usd_per_hour
    if served is None or deployment is None:
        return None
    from llama_scale.costs.serving_formulas import token_prices

    found = {name: value.tolist() for name, value in served._asdict().items()}
    prices = {} if price is None else token_prices(served, price)._asdict()
    return {
        "accelerator": deployment.rental.accelerator.name,
        "accelerators_per_copy": found.pop("accelerators"),
        **found,
        "usd_per_million_tokens": {name.removesuffix("_usd"): float(value) for name, value in prices.items()}
        or None,
        "weight_bits": deployment.weight_bits,
        "kv_bits": deployment.kv_bits,
        "input_tokens": deployment.input_tokens,
        "output_tokens": deployment.output_tokens,
        "samples": deployment.samples,
        "utilisation": deployment.utilisation,
        "request_rate": request.request_rate,
        "accelerators_for_request_rate": plan.fleet and float(plan.fleet.accelerators),
        "accelerators_per_copy_for_request_rate": plan.fleet and float(plan.fleet.per_copy),
        "calibration": deployment.calibration.to_json(),
    }


def _asked_for(plan: Plan) -> dict[str, Any]:
    """What only some questions have: few data, retraining, an unknown demand, a score, quantised weights."""
    request, penalty, model = plan.request, plan.request.penalty, plan.recommended
    parts: dict[str, Any] = {}
    if plan.epochs is not None:
        parts["data"] = {"unique_tokens": request.unique_tokens, "epochs": plan.epochs}
    if plan.generations:
        parts["generations"] = [generation._asdict() for generation in plan.generations]
    if plan.regret is not None:
        parts["regret"] = {
            "demands": dict(plan.regret.demands),
            "loss_nats": plan.regret.loss_nats,
            "rows": [row._asdict() for row in plan.regret.rows],
        }
    if plan.score is not None:
        score = {
            name: value if value is None else float(value) for name, value in plan.score._asdict().items()
        }
        parts["score"] = {"task": request.fit.downstream and request.fit.downstream.task, **score}
    if penalty is not None:
        parts["quantisation"] = {
            "bits": penalty.bits,
            "penalty_nats": float(penalty.loss(model.parameters, model.tokens)),
            "extrapolation": penalty.extrapolation(model.parameters, model.tokens),
            "source": QUANTISATION_SOURCE,
            "caveat": CAVEAT,
        }
    return parts


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


def law_document(request: Request) -> dict[str, Any]:
    """The law that an answer rests on, and how it counts."""
    fit = request.fit
    return {
        "name": fit.name,
        "form": fit.law.form,
        "parameters": {name: float(value) for name, value in fit.law.constants.items()},
        "parameter_convention": fit.convention,
        "flops_accounting": request.flops,
        "source": fit.source,
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


def _known(value: Any) -> Any:
    """`value` with null for nan and infinity, which JSON lacks, wherever they are in it."""
    if isinstance(value, dict):
        return {name: _known(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_known(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
