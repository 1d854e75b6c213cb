"""What stands in the way where a model cannot be served: which limit, by how much, what can be met."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from llama_scale.costs.roofline import (
    Array,
    ServedShape,
    batch_in_memory,
    cache_bytes,
    phases,
    usable_bytes,
)
from llama_scale.costs.serving import Deployment, engine, serve
from llama_scale.errors import InfeasibleError
from llama_scale.quantities import format_bytes, format_number


class Attainable(NamedTuple):
    """The best that a deployment can do for each shape, an array a field.

    Bytes that one copy and one whole request need, and bytes that the most accelerators have for them;
    the least seconds to the next and to the first token, with one answer at a time; nan where memory fails.
    """

    needed_bytes: Array
    usable_bytes: Array
    time_per_output_token_seconds: Array
    time_to_first_token_seconds: Array


def attainable(deployment: Deployment, shape: ServedShape) -> Attainable:
    """How far the limits could be tightened, each by itself."""
    machine, traffic = engine(deployment, deployment.groups[-1]), deployment.traffic
    whole = traffic.input_tokens + traffic.output_tokens
    needed = shape.weights * machine.weight_bytes + whole * cache_bytes(shape, machine.kv_bytes)
    usable = deployment.groups[-1] * usable_bytes(machine.memory_bytes)
    next_token, first_token = [], []
    for group in deployment.groups:
        works = engine(deployment, group)
        times = phases(deployment.calibration, works, shape, traffic)
        fits = ~np.isnan(batch_in_memory(works, shape, traffic))
        step = np.where(fits, times.step_fixed + times.step_per_sequence, np.inf)
        next_token.append(step)
        first_token.append(step + times.prompt)
    return Attainable(
        np.asarray(needed, float),
        np.asarray(usable, float),
        *(_least(values) for values in (next_token, first_token)),
    )


def why_not(deployment: Deployment, shape: ServedShape, name: str = "the model") -> InfeasibleError | None:
    """The error for one shape that cannot be served: which limit, by how much, the nearest that can be met.

    None where it can be.
    """
    found = serve(deployment, shape)
    if not np.isnan(found.batch).any():
        return None
    chip, best = deployment.rental.accelerator.name, attainable(deployment, shape)
    chips = f"{deployment.groups[-1]} x {chip}"
    if np.isnan(best.time_per_output_token_seconds):
        needed, usable = float(best.needed_bytes), float(best.usable_bytes)
        return InfeasibleError(
            f"{name} in {deployment.weight_bits:g} bits takes {format_bytes(needed)} with one request, but "
            f"{chips} have {format_bytes(usable)} for it: {needed / usable:.3g} times too little",
            hint="take fewer bits (--serve-precision), more or larger accelerators, or shorter requests",
        )
    if str(found.limited_by) == "time to first token":
        asked, least = deployment.time_to_first_token_seconds, best.time_to_first_token_seconds
        option = "--time-to-first-token"
    else:
        asked, least = deployment.time_per_output_token_seconds, best.time_per_output_token_seconds
        option = "--time-per-output-token"
    assert asked is not None, "a limit that was not asked for cannot bind"
    return InfeasibleError(
        f"{name} cannot meet a {found.limited_by} of {_milliseconds(asked)}: with one answer at a time, "
        f"up to {chips} take {_milliseconds(float(least))}, {least / asked:.3g} times as long",
        hint=f"ask for {option} {_milliseconds(1.005 * float(least)).replace(' ', '')}, "
        "a faster accelerator, fewer bits or a smaller model",
    )


def _least(options: list[Array]) -> Array:
    least = np.stack(options).min(axis=0)
    return np.where(np.isinf(least), np.nan, least)


def _milliseconds(seconds: float) -> str:
    return f"{format_number(1e3 * seconds)} ms"
