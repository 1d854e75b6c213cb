"""How many KV heads the shape should have: the cheapest to serve that quality allows.

Fewer KV heads make the cache of a sequence smaller, so that more sequences share a step; training hardly
changes. What they cost in quality is not in any law, so a floor is kept: 8 KV heads, the number of Llama 2
70B and of every Llama 3, where Ainslie et al. (2023, arXiv 2305.13245) find quality close to one KV head
for each head, and Llama 2's ablation (arXiv 2307.09288, appendix A.2.1) little difference. Where grouping
saves less than 1 % of the serving cost, the most KV heads stay.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from llama_scale.architecture import (
    ModelConfig,
    grouped_query_choices,
    with_kv_heads,
)
from llama_scale.costs.memory import recompute_overhead
from llama_scale.costs.roofline import ServedShape, served_shape
from llama_scale.costs.serving import Deployment, serve
from llama_scale.errors import InputError
from llama_scale.frozen import frozen
from llama_scale.planning.optimum import best
from llama_scale.planning.request import Request, limited
from llama_scale.quantities import format_bytes, format_fraction

QUALITY_FLOOR = 8  # KV heads
INDIFFERENCE = 0.01  # share of the serving cost that is not worth a KV head
SOURCE = "Ainslie et al. 2023, arXiv 2305.13245; Llama 2, arXiv 2307.09288, appendix A.2.1"


@frozen
class KvOption:
    """A shape with some number of KV heads: accelerator-seconds of a served token, nan if it cannot be."""

    shape: ModelConfig
    seconds_per_token: float
    batch: float
    cache_bytes_per_token: float
    within_floor: bool

    @property
    def kv_heads(self) -> int:
        """How many."""
        return self.shape.kv_heads


@frozen
class KvChoice:
    """The chosen shape, what else there was (most KV heads first), and why."""

    shape: ModelConfig
    options: tuple[KvOption, ...]
    reason: str

    @property
    def saving(self) -> float:
        """Share of the serving cost saved against one KV head for each head; nan if that cannot be served."""
        return 1 - self._option(self.shape.kv_heads).seconds_per_token / self.options[0].seconds_per_token

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "kv_heads": self.shape.kv_heads,
            "reason": self.reason,
            "floor": QUALITY_FLOOR,
            "source": SOURCE,
            "options": [
                {
                    "kv_heads": option.kv_heads,
                    "hidden": option.shape.hidden,
                    "accelerator_seconds_per_token": _or_none(option.seconds_per_token),
                    "batch": _or_none(option.batch),
                    "cache_bytes_per_token": option.cache_bytes_per_token,
                    "within_floor": option.within_floor,
                }
                for option in self.options
            ],
        }

    def _option(self, kv_heads: int) -> KvOption:
        return next(option for option in self.options if option.kv_heads == kv_heads)


def choose_kv_heads(shape: ModelConfig, deployment: Deployment, *, floor: int = QUALITY_FLOOR) -> KvChoice:
    """The KV heads of `shape` that serve cheapest under `deployment`, never fewer than `floor`.

    `shape` should have one KV head for each head; choices keep its size by a wider hidden layer. A model
    with fewer heads than the floor keeps them all, one that none makes servable gets the fewest. Where they
    exist, only numbers are considered that eight accelerators can share evenly.

    >>> from llama_scale.architecture import LLAMA_65B
    >>> from llama_scale.costs import rental
    >>> h100 = rental("H100", precision="bf16")
    >>> asked = Deployment(rental=h100, weight_bits=16, kv_bits=16, input_tokens=1500, output_tokens=500)
    >>> choose_kv_heads(LLAMA_65B, asked).shape.kv_heads
    8
    """
    choices = grouped_query_choices(shape)
    even = tuple(choice for choice in choices if _splits_evenly(choice))
    grouped = any(floor <= choice.kv_heads < shape.heads for choice in even)
    options = _options(even if grouped else choices, deployment, floor)
    allowed = [option for option in options if option.within_floor]
    servable = [option for option in allowed if not math.isnan(option.seconds_per_token)]
    if not servable:
        return KvChoice(
            shape=allowed[-1].shape, options=options, reason="no number of KV heads makes it servable"
        )
    least = min(option.seconds_per_token for option in servable)
    chosen = next(o for o in servable if o.seconds_per_token <= (1 + INDIFFERENCE) * least)
    return KvChoice(shape=chosen.shape, options=options, reason=_reason(options[0], chosen, floor))


def with_chosen_kv_heads(request: Request) -> tuple[Request, KvChoice | None]:
    """The request with the KV heads that serve its optimum cheapest, and that choice.

    As it is, and None, where KV heads are given, nothing is served, no roofline says what serving costs, or
    the optimum has fewer heads than the floor.
    """
    economics = request.economics
    if request.kv_heads is not None or economics.deployment is None or not economics.demand.serve_tokens:
        return request, None
    grouped = limited(replace(request, kv_heads=QUALITY_FLOOR))  # latency allows larger models then
    size = _size_sought(grouped)
    if size is None:
        return request, None
    try:
        shape = grouped.shape_of(size)
    except InputError:  # too few heads to share
        return request, None
    choice = choose_kv_heads(with_kv_heads(shape, shape.heads), economics.deployment)
    chosen = choice.shape.kv_heads
    each_its_own = chosen == shape.heads > QUALITY_FLOOR  # with eight heads, larger models would still share
    return limited(replace(request, kv_heads=None if each_its_own else chosen)), choice


def with_recomputation(request: Request) -> Request:
    """The request with the hours that the recomputation asked for costs, at the size of its optimum."""
    if request.recompute is None:
        return request
    size = _size_sought(request)
    if size is None:
        return request
    shape = replace(request, kv_heads=None).shape_of(size)
    training = replace(request.economics.training, recomputed=recompute_overhead(shape, request.recompute))
    return limited(replace(request, economics=replace(request.economics, training=training)))


def _size_sought(request: Request) -> float | None:
    """About what size a question's shapes are sought; None where it has no answer whatever they are."""
    size = float(best(request.problem(), request.objective(request.law)).sizes.parameters)
    return size if math.isfinite(size) else request.held_by_serving


def _splits_evenly(shape: ModelConfig) -> bool:
    """Whether a node of eight holds its KV heads evenly, each one once or all of them equally often."""
    return shape.kv_heads in (1, 2, 4, shape.heads) or shape.kv_heads % 8 == 0


def _options(shapes: tuple[ModelConfig, ...], deployment: Deployment, floor: int) -> tuple[KvOption, ...]:
    """All of them priced in one call."""
    columns = (np.array(column) for column in zip(*map(served_shape, shapes), strict=True))
    served = serve(deployment, ServedShape(*columns))
    return tuple(
        KvOption(
            shape=shape,
            seconds_per_token=float(seconds),
            batch=float(batch),
            cache_bytes_per_token=shape.kv_cache_bytes_per_token(deployment.kv_bits / 8),
            within_floor=shape.kv_heads >= min(floor, shape.heads),
        )
        for shape, seconds, batch in zip(
            shapes, served.accelerator_seconds_per_token, served.batch, strict=True
        )
    )


def _reason(plain: KvOption, chosen: KvOption, floor: int) -> str:
    cache = f"{format_bytes(plain.cache_bytes_per_token)} of cache a token"
    if chosen is plain:
        least = f"fewer KV heads would save less than {format_fraction(INDIFFERENCE)} of serving"
        return f"one KV head for each of {plain.kv_heads} heads, {cache}: {least}"
    cache = (
        f"{format_bytes(chosen.cache_bytes_per_token)} of cache a token instead of {cache.split(' of ')[0]}"
    )
    if math.isnan(plain.seconds_per_token):
        return f"{chosen.kv_heads} KV heads, {cache}: with {plain.kv_heads} it cannot be served"
    saved = format_fraction(1 - chosen.seconds_per_token / plain.seconds_per_token, 2)
    kept = f"; fewer than {floor} are not considered, for quality" if chosen.kv_heads == floor else ""
    return f"{chosen.kv_heads} KV heads, {cache}: saves {saved} of serving{kept}"


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
