"""The words of a plan and what each may be: refuses words that nobody knows, and values of another type."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any, TypedDict, get_args, get_origin, get_type_hints

from llama_scale.errors import InputError
from llama_scale.laws import Fit
from llama_scale.planning.reading import option
from llama_scale.quantities import Quantity

Number = str | float


class PlanOptions(TypedDict, total=False):
    """The words of `plan`, each as its option is called; numbers may be text with units."""

    serve_tokens: Number | None
    requests: Number | None
    input_tokens: Number | None
    output_tokens: Number | None
    input_share: Number | None
    samples: Number | None
    months: Number | None
    growth: Number | None
    discount: Number | None
    retrain_every: Number | None
    request_rate: Number | None
    budget: Number | Quantity | None
    target_loss: Number | None
    target_score: Number | None
    match: Number | Path | None
    against: str | Path | None
    cost_in: str | None
    accelerators: Number | None
    deadline: Number | None
    max_parameters: Number | None
    unique_tokens: Number | None
    time_per_output_token: Number | None
    time_to_first_token: Number | None
    law: str | Path | Fit | None
    flops: str | None
    level: Number | None
    accelerator: str | None
    price: Number | None
    precision: str | None
    mfu: Number | None
    goodput: Number | None
    recompute: str | None
    pue: Number | None
    carbon: Number | None
    serve_accelerator: str | None
    serve_accelerators: Number | None
    serve_price: Number | None
    serve_precision: str | None
    kv_bits: Number | None
    quantisation_penalty: bool | None
    serve_mfu: Number | tuple[float, float] | list[float] | None
    serving_benchmarks: str | Path | None
    utilisation: Number | None
    vocabulary: Number | None
    context: Number | None
    kv_heads: Number | None


def refuse_unknown(given: Mapping[str, Any]) -> None:
    """Raises InputError, with the nearest words, for words that `plan` does not know."""
    known = PlanOptions.__annotations__.keys()
    if unknown := sorted(given.keys() - known):
        from difflib import get_close_matches

        near = [word for name in unknown for word in get_close_matches(name, known, n=2)]
        raise InputError(
            f"plan has no argument {', '.join(unknown)}",
            hint=f"did you mean {' or '.join(near)}?" if near else f"use {', '.join(known)}",
        )


def refuse_other_types(given: Mapping[str, Any]) -> None:
    """Raises InputError for what no word can be: a list, or true where a number is meant."""
    for name, value in given.items():
        kinds = _types()[name]
        is_taken = bool in kinds if isinstance(value, bool) else isinstance(value, kinds)
        if not is_taken:
            names = [kind.__name__ for kind in kinds if kind is not type(None)]
            raise InputError(
                f"{option(name)} cannot be {value!r:.80}, of type {type(value).__name__}",
                hint=f"give one of {', '.join(names).replace('Real', 'number')}",
            )


@cache
def _types() -> dict[str, tuple[type, ...]]:
    """What each word may be, as it is declared; any real number where a float is."""
    declared = get_type_hints(PlanOptions)
    return {
        name: tuple(Real if kind is float else get_origin(kind) or kind for kind in get_args(union))
        for name, union in declared.items()
    }
