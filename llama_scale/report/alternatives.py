"""The models beside the recommended one: what each costs, and how many accelerators hold it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from llama_scale.closed_forms import nearest_llamas
from llama_scale.costs.formats import BITS
from llama_scale.costs.roofline import (
    RESERVED_BYTES,
    USABLE_MEMORY,
    ServedShape,
    cache_bytes,
    served_shape,
    usable_bytes,
)
from llama_scale.costs.serving import LARGEST_GROUP
from llama_scale.planning import Plan
from llama_scale.planning.buildable import model_of
from llama_scale.planning.curves import problem_of
from llama_scale.planning.families import coordinate_of
from llama_scale.planning.family import COUNT
from llama_scale.planning.optimum import Solution
from llama_scale.planning.sentence import format_cost
from llama_scale.planning.values import PlannedModel
from llama_scale.quantities import format_bytes, format_count, format_number
from llama_scale.report.markup import Column, Markup, joined, paragraph, table

FORMATS = (("16 bits", BITS["bf16"]), ("8 bits", BITS["fp8"]), ("4 bits", BITS["int4"]))


class Alternative(NamedTuple):
    """One model that could be trained instead."""

    name: str
    model: PlannedModel
    shape: ServedShape


def alternatives(plan: Plan) -> list[Alternative]:
    """The recommended model first, then the continuum's, the compute-optimal ones, and LLaMA's own sizes."""
    named = [
        ("unrounded", plan.optimum),
        ("compute-optimal, equal loss", plan.compute_optimal),
        ("compute-optimal, equal cost", plan.compute_optimal_on_budget),
    ]
    ours = Alternative("recommended", plan.recommended, served_shape(plan.shape))
    others = [_alternative(plan, name, model) for name, model in named if model and _exists(model)]
    return [ours, *others, *_family(plan)]


def alternatives_section(plan: Plan) -> Markup:
    """The table, and what the memory counts."""
    chip, demand = plan.request.economics.serving.rental.accelerator, plan.request.economics.demand
    numbers = ("parameters", "tokens", "D/N", "loss", "training", "serving", "in all", "weights")
    columns = [Column("model"), *(Column(name, "n") for name in numbers)]
    columns += [Column(f"{chip.name}, {name}", "n") for name, _ in FORMATS]
    rows = [_row(plan, one) for one in alternatives(plan)]
    request = f"{demand.input_tokens:,.0f} tokens read and {demand.output_tokens:,.0f} written"
    memory = (
        f"{format_bytes(chip.memory_bytes)} each, of which {USABLE_MEMORY:.0%} less "
        f"{format_bytes(RESERVED_BYTES)} are usable"
    )
    note = (
        f"Weights in 16 bits. The last columns: how many {chip.name} ({memory}) hold the weights in that "
        f"format and one request of {request}, in powers of two. LLaMA's sizes are asked the plan's question."
    )
    caption = "Models that could be trained instead, in the plan's unit"
    return joined((table(caption, columns, rows, chosen=0), paragraph(note, "small")))


def holders(shape: ServedShape, memory_bytes: float, bits: float, tokens: float) -> int | None:
    """The fewest accelerators, a power of two, that hold the weights and one request; None beyond 1,024.

    The cache has 16 bits a number beside weights of 16 bits, else 8.
    """
    cache = float(cache_bytes(shape, 2.0 if bits >= 16 else 1.0)) * tokens
    needed = float(shape.weights) * bits / 8 + cache
    groups = (1 << power for power in range(LARGEST_GROUP.bit_length()))
    usable = usable_bytes(memory_bytes)
    return next((group for group in groups if group * usable >= needed), None)


def _exists(model: PlannedModel) -> bool:
    return math.isfinite(model.parameters) and math.isfinite(model.tokens)


def _alternative(plan: Plan, name: str, model: PlannedModel) -> Alternative:
    family = problem_of(plan).family
    shape = family.sizes(coordinate_of(family, model.parameters), shaped=True).shape
    assert shape is not None, "shapes were asked for"
    return Alternative(name, model, shape)


def _family(plan: Plan) -> Iterator[Alternative]:
    """LLaMA's sizes that answer the question at all."""
    problem = problem_of(plan)
    for near, named in zip(plan.family, nearest_llamas(plan.recommended.parameters, COUNT), strict=True):
        if named.shape is not None and math.isfinite(near.tokens):
            solution = Solution(problem.family.size_of(named.shape), near.tokens)
            yield Alternative(near.name, model_of(plan.request, problem, solution), served_shape(named.shape))


def _row(plan: Plan, one: Alternative) -> list[str]:
    unit, demand = plan.request.unit, plan.request.economics.demand
    chip = plan.request.economics.serving.rental.accelerator
    costs = [format_cost(one.model.lifetime, unit, part) for part in ("train", "serve", "total")]
    weights = format_bytes(float(np.asarray(one.shape.weights)) * BITS["bf16"] / 8)
    asked = demand.input_tokens + demand.output_tokens
    counts = [holders(one.shape, chip.memory_bytes, bits, asked) for _, bits in FORMATS]
    return [
        one.name,
        format_count(one.model.parameters),
        format_count(one.model.tokens),
        format_number(one.model.tokens_per_parameter),
        f"{one.model.loss_nats:.4f}",
        *costs,
        weights,
        *("too large" if count is None else f"{count:,}" for count in counts),
    ]
