"""Sizes for IsoFLOP budgets, chosen around the optimum that a law predicts, so that minima lie inside."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from llama_scale.architecture import ModelConfig
from llama_scale.checked import raise_all
from llama_scale.errors import InputError
from llama_scale.quantities import format_count, format_flops
from llama_scale.shapes import TOO_LARGE, ShapeSpec, model_of_size
from llama_scale.sweeps.spec import IsoFlop

MOST_SIZES = 1_000  # of a ladder: from 1M parameters to 1T, 2 % apart, there are 700
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
    raise_all(_of_no_model({budget: optimum(budget) for budget in budgets}))
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
    if last - first >= MOST_SIZES:
        raise InputError(
            f"the budgets from {format_flops(budgets[0])} to {format_flops(budgets[-1])} mean "
            f"{last - first + 1:,} sizes, but a sweep has at most {MOST_SIZES:,}",
            hint="lower design.sizes_per_budget, raise design.spread, or name fewer design.budgets_flops",
        )
    return [middle * factor**rung for rung in range(first, last + 1)]


def _of_no_model(optima: Mapping[float, float]) -> Iterator[InputError]:
    for budget, optimum in optima.items():
        if not 1 <= optimum < TOO_LARGE:
            yield InputError(
                f"{format_flops(budget)} have their predicted optimum at {optimum:.3g} parameters: no model "
                f"has {'so few' if optimum < 1 else 'as many'}",
                hint='correct design.budgets_flops, to such as "1e18 FLOPs"',
            )


def _one_sided(budget: float, optimum: float, sizes: list[int]) -> Iterator[InputError]:
    below = sum(size < optimum for size in sizes)
    if min(below, len(sizes) - below) < SIDE:
        yield InputError(
            f"{format_flops(budget)} have their predicted optimum at {format_count(optimum)} parameters, "
            f"but fewer than {SIDE} {'smaller' if below < SIDE else 'larger'} models",
            hint="leave out that budget, raise design.sizes_per_budget, or open more of [shape]",
        )
