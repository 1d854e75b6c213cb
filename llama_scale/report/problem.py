"""A plan's optimisation as plain values: all that data/report/model.js needs to solve it again.

Settings are what the page's controls change; everything else stays as it was planned.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np

from llama_scale.costs import Economics
from llama_scale.costs.roofline import RESERVED_BYTES, STAGE_PENALTY, USABLE_MEMORY
from llama_scale.costs.serving import NODE, Deployment, engine
from llama_scale.laws import Numbers, RepeatedDataLaw, Repetition, ScalingLaw
from llama_scale.planning import Plan
from llama_scale.planning.batches import Law, count_of, trained_of
from llama_scale.planning.curves import problem_of, schedule_of
from llama_scale.planning.families import TABLES, Family, SixNDFamily
from llama_scale.planning.quantisation import BY_PARAMETERS, BY_TOKENS, QuantisedLaw
from llama_scale.planning.request import Request

DRAWS = 200  # of a band that is drawn: its ends move by 4 % of its width
DIGITS = 7


def problem_values(plan: Plan) -> dict[str, Any]:
    """The problem of a plan on the continuum through its shape, and the settings that it was solved at."""
    request = plan.request
    return {
        "unit": request.unit,
        "level": request.level,
        "law": _law(request.law),
        "draws": _draws(request),
        "family": _family(problem_of(plan).family),
        **_economics(request.economics),
        "limits": {
            "deadline_hours": _deadline(request),
            "max_parameters": _finite(request.most_parameters),
            "must_be_servable": request.must_be_servable,
        },
        "match": request.match
        and {
            "parameters": float(request.match.count(request.fit.convention)),
            "tokens": request.match.tokens,
        },
        "schedule": _schedule(request),
        "settings": settings_of(plan),
    }


def settings_of(plan: Plan) -> dict[str, Any]:
    """What the controls of the page stand at when nothing was moved; null is what the plan has not."""
    request = plan.request
    economics, demand = request.economics, request.economics.demand
    objective = request.objective(request.law)
    value = float(np.asarray(objective.value))
    return {
        "goal": objective.fixed,
        "budget": value if objective.fixed == "budget" and math.isfinite(value) else None,
        "target_loss": value if objective.fixed == "loss" else None,
        "serve_tokens": demand.serve_tokens,
        "price": economics.training.rental.price_usd_per_hour,
        "serve_price": economics.serving.rental.price_usd_per_hour,
        "mfu": economics.training.mfu,
        "utilisation": economics.serving.utilisation,
        "read": demand.input_tokens,
        "written": demand.output_tokens,
    }


def _schedule(request: Request) -> dict[str, list[float]] | None:
    """When a life is trained and served, month by month, in shares of what is paid; None without months."""
    if request.economics.demand.months is None or not request.economics.demand.serve_tokens:
        return None
    schedule = schedule_of(request.economics.demand, request.unit)
    return {name: [float(f"{value:.12g}") for value in column] for name, column in schedule._asdict().items()}


def _law(law: Law) -> dict[str, Any]:
    trained, repetition, penalty = trained_of(law), None, None
    constants = {name: float(np.asarray(value)) for name, value in _constants(law).items()}
    if isinstance(trained, RepeatedDataLaw):
        decays = {name: constants[name] for name in ("tokens_decay", "parameters_decay")}
        repetition = {"unique_tokens": float(np.asarray(trained.unique_tokens)), **decays}
    if isinstance(law, QuantisedLaw):
        penalty = {"scale": law.penalty.scale, "by_tokens": BY_TOKENS, "by_parameters": BY_PARAMETERS}
    return {"constants": constants, "repetition": repetition, "penalty": penalty}


def _constants(law: Law) -> dict[str, Numbers]:
    """The six constants of the law itself, and the decays of repetition where it has any."""
    trained = trained_of(law)
    if isinstance(trained, RepeatedDataLaw):
        return _fields(trained.law) | _fields(trained.repetition)
    return _fields(trained)


def _fields(value: ScalingLaw | Repetition) -> dict[str, Numbers]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _draws(request: Request) -> dict[str, list[float]] | None:
    """Columns of draws of those constants that vary, short enough to send; None for a law without draws."""
    draws = request.draws(DRAWS)
    if draws is None:
        return None
    count = count_of(draws)
    return {
        name: [float(f"{value:.{DIGITS}g}") for value in np.broadcast_to(column, count)]
        for name, column in _constants(draws).items()
        if np.ndim(column)
    }


def _family(family: Family) -> dict[str, Any]:
    geometry = family.geometry
    return {
        "flops": "6nd" if isinstance(family, SixNDFamily) else "exact",
        "tables": TABLES[family.convention],
        "context": getattr(family, "context", None),
        "vocabulary": geometry.vocabulary,
        "kv_heads": geometry.kv_heads,
        "head_size": geometry.head_size,
        "stretch": geometry.stretch,
        "layer_weights": geometry.layer_weights,
    }


def _economics(economics: Economics) -> dict[str, Any]:
    training, serving, demand = economics.training, economics.serving, economics.demand
    return {
        "training": {
            "peak_per_hour": training.rental.peak_flops_per_hour,
            "goodput": training.goodput,
            "recomputed": training.recomputed,
        },
        "serving": {
            "peak_per_hour": serving.rental.peak_flops_per_hour,
            "prefill_mfu": serving.prefill_mfu,
            "decode_mfu": serving.decode_mfu,
        },
        "demand": {
            "samples": demand.samples,
            "trainings": demand.trainings,
            "train_factor": demand.train_factor,
            "serve_factor": demand.serve_factor,
        },
        "deployment": economics.deployment and _deployment(economics.deployment),
    }


def _deployment(deployment: Deployment) -> dict[str, Any]:
    works, chip = engine(deployment, 1), deployment.rental.accelerator
    return {
        "groups": list(deployment.groups),
        "node": NODE,
        "stage_penalty": STAGE_PENALTY,
        "usable_memory": USABLE_MEMORY,
        "reserved_bytes": RESERVED_BYTES,
        "peak": works.peak_flops_per_second,
        "peak16": works.attention_flops_per_second,
        "bandwidth": works.bandwidth_bytes_per_second,
        "link": chip.interconnect_bytes_per_second,
        "memory": works.memory_bytes,
        "weight_bytes": works.weight_bytes,
        "kv_bytes": works.kv_bytes,
        "time_per_output_token": deployment.time_per_output_token_seconds,
        "time_to_first_token": deployment.time_to_first_token_seconds,
        "constants": deployment.calibration.constants,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _deadline(request: Request) -> float | None:
    """Hours of accelerators that one training may take."""
    deadline = request.deadline
    return None if deadline is None else deadline.accelerators * deadline.seconds / 3600
