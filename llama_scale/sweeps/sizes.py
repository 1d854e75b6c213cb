"""Sizes for IsoFLOP budgets, chosen around the optimum that a law predicts, so that minima lie inside."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from llama_scale.architecture import ModelConfig
from llama_scale.checked import raise_all
from llama_scale.errors import InputError
from llama_scale.quantities import format_count, format_flops
from llama_scale.shapes import ShapeSpec, model_of_size
from llama_scale.sweeps.spec import IsoFlop

SIDE = 2  # sizes that a budget needs on each side of its predicted optimum
ROUNDING = 1.05  # shapes miss the size that was asked for by a few per cent


def models_around_optima(
    design: IsoFlop, shape: ShapeSpec, *, vocabulary: int
) -> dict[ModelConfig, tuple[float, ...]]:
    """Models, smallest first, each with the budgets whose predicted optimum it lies near.

    One ladder of sizes serves all budgets. Raises InputError naming the budgets whose optimum it does not
    enclose, as where no shape is small enough.
    """
    from llama_scale.laws import DEFAULT_LAW, resolve_law  # numpy, which `sweep --help` does without

    fit = resolve_law(design.law or DEFAULT_LAW)
    counted = replace(shape, sizes_count=fit.convention)

    def optimum(budget: float) -> float:
        return float(fit.law.compute_optimum(budget).parameters)

    budgets = tuple(sorted(design.budgets_flops))
    models: dict[ModelConfig, list[float]] = {}
    unbuilt: list[InputError] = []
    for size in _ladder(optimum, budgets, design):
        try:
            models.setdefault(model_of_size(size, counted, vocabulary=vocabulary), [])
        except InputError as error:
            unbuilt.append(error)  # the budgets that want for it are named below
    if not models:
        raise unbuilt[0]
    for model, met in models.items():
        size, reach = model.parameters.by(fit.convention), design.spread * ROUNDING
        met += [budget for budget in budgets if 1 / reach <= size / optimum(budget) <= reach]
    errors: list[InputError] = []
    for budget in budgets:
        sizes = [model.parameters.by(fit.convention) for model, met in models.items() if budget in met]
        errors += _one_sided(budget, optimum(budget), sizes)
    raise_all(errors)
    return {model: tuple(met) for model, met in models.items() if met}


def _ladder(optimum: Callable[[float], float], budgets: tuple[float, ...], design: IsoFlop) -> list[float]:
    """Sizes a constant factor apart, one of them the optimum of the middle budget."""
    factor = design.spread ** (2 / (design.sizes_per_budget - 1))
    middle = optimum(math.sqrt(budgets[0] * budgets[-1]))
    low, high = optimum(budgets[0]) / design.spread, optimum(budgets[-1]) * design.spread
    first = math.ceil(math.log(low / middle, factor) - 0.01)
    last = math.floor(math.log(high / middle, factor) + 0.01)
    return [middle * factor**rung for rung in range(first, last + 1)]


def _one_sided(budget: float, optimum: float, sizes: list[int]) -> list[InputError]:
    below = sum(size < optimum for size in sizes)
    if min(below, len(sizes) - below) >= SIDE:
        return []
    side = "smaller" if below < SIDE else "larger"
    return [
        InputError(
            f"{format_flops(budget)} have their predicted optimum at {format_count(optimum)} parameters, "
            f"but fewer than {SIDE} {side} models",
            hint="leave out that budget, raise design.sizes_per_budget, or open more of [shape]",
        )
    ]
