"""The JSON object of `compare --json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llama_scale.costs import CostUnit
from llama_scale.planning.comparison_words import CAUTION, command
from llama_scale.planning.document import law_document

if TYPE_CHECKING:
    from llama_scale.planning.comparison import ComparedModel, Comparison, Crossing, Pair


def document(comparison: Comparison) -> dict[str, Any]:
    """The JSON of `compare`: models in base units, break-evens by unit."""
    request = comparison.request
    return {
        "sentence": comparison.sentence,
        "unit": comparison.unit,
        "serve_tokens": request.economics.demand.serve_tokens,
        "models": [_model_document(model, comparison) for model in comparison.models],
        "pairs": [_pair_document(pair, comparison.unit) for pair in comparison.pairs],
        "buy_or_train": [offer._asdict() for offer in comparison.buy_or_train],
        "law": law_document(request),
        "level": request.level,
        "caution": CAUTION,
        "warnings": list(comparison.warnings),
        "assumptions": [asdict(item) for item in comparison.assumptions],
        "command": command(comparison),
    }


def _model_document(model: ComparedModel, comparison: Comparison) -> dict[str, Any]:
    return {
        "name": model.name,
        "parameters": model.parameters,
        "tokens": model.tokens,
        "tokens_per_parameter": model.tokens_per_parameter,
        "loss_nats": model.loss_nats,
        "loss_interval": list(model.loss_range) if model.loss_range else None,
        "overtraining": model.overtraining,
        "excess_compute": model.excess_compute,
        **model.lifetime.to_json(),
        "bought": model.bought,
        "undominated": model in comparison.frontier,
        "compute_optimal": {
            "parameters": model.rival.parameters,
            "tokens": model.rival.tokens,
            "kv_heads": model.rival.kv_heads,
            **{f"train_{unit}": costs.train for unit, costs in model.rival.costs.items()},
        },
        "break_even": _crossings_document(model.against_rival, comparison.unit),
        "extrapolation": dict(model.extrapolation) or None,
        "source": model.source,
    }


def _pair_document(pair: Pair, unit: CostUnit) -> dict[str, Any]:
    return {
        "first": pair.first,
        "second": pair.second,
        "loss_advantage_nats": pair.loss_advantage,
        **_crossings_document(pair.crossings, unit),
    }


def _crossings_document(crossings: Mapping[CostUnit, Crossing], unit: CostUnit) -> dict[str, Any]:
    """When the first is cheaper, in the comparison's unit, and the same in every unit."""
    chosen = crossings[unit]
    return {
        "cheaper": chosen.verdict,
        "serve_tokens": chosen.serve_tokens,
        "by_unit": {
            name: {"cheaper": found.verdict, "serve_tokens": found.serve_tokens}
            for name, found in crossings.items()
        },
    }
