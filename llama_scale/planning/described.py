"""What the recommended model is, and what it takes to train and to serve: the first reasons of a plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from llama_scale.costs.constants import shipped_calibration
from llama_scale.costs.roofline import served_shape
from llama_scale.costs.serving_formulas import token_prices
from llama_scale.costs.serving_limits import why_not
from llama_scale.errors import InfeasibleError
from llama_scale.planning.sentence import amount, format_cost
from llama_scale.quantities import (
    counted,
    format_count,
    format_fraction,
    format_number,
    format_seconds,
    format_usd,
)

if TYPE_CHECKING:
    from llama_scale.costs.serving import Fleet, Throughput
    from llama_scale.planning.family import Neighbour
    from llama_scale.planning.recipe import Recipe
    from llama_scale.planning.values import Plan

SAME_LOSS = 5e-4  # nats: two runs of one model differ by more
SAME_COST = 5e-4  # of it: less than rounding to a shape costs


class Reason(NamedTuple):
    """One line of explanation under a heading of one or two words."""

    heading: str
    text: str


def described(plan: Plan) -> Iterator[Reason]:
    """Its shape, the LLaMA sizes beside it, its training and its serving."""
    shape = plan.shape
    size, miss = format_count(shape.parameters.total, 4), f"{100 * plan.gap.parameters:+.1f}%"
    cost = plan.gap.cost
    dearer = f"{format_fraction(max(0.0, cost), 2)} dearer" if cost <= 1 else "over twice as dear"
    dearer = "" if cost != cost else f", {dearer} for its loss"
    yield Reason(
        "shape",
        f"{shape.layers} layers of width {shape.width:,}, {shape.heads} heads of {shape.head_size}"
        f"{_grouped(plan)}, "
        f"hidden {shape.hidden:,}, vocabulary {shape.vocabulary:,}, context {shape.context:,}: {size} "
        f"parameters, {miss} of the unrounded{dearer}",
    )
    yield Reason("family", _beside(plan))
    yield Reason("train", _training(plan))
    yield Reason("recipe", _recipe(plan.recipe))
    if plan.recommended.lifetime.serve_flops:
        yield Reason("serve", _serving(plan))
    deployment = plan.request.economics.deployment
    if deployment is not None and "serving_benchmarks" in plan.request.given:
        fitted, ours = deployment.calibration, shipped_calibration()
        yield Reason("rates", f"{fitted.summary}: {fitted.description}; ours: {ours.description}")


def _recipe(how: Recipe) -> str:
    """What is asked first; the rest of it and its cautions are under --explain."""
    rate, batch = format_number(how.peak_learning_rate, 2), format_count(how.batch_tokens)
    return f"peak learning rate {rate}, {how.schedule}, {how.steps:,} batches of {batch} tokens"


def _grouped(plan: Plan) -> str:
    """How many heads keep keys and values, and what that saves."""
    shape, choice = plan.shape, plan.kv_choice
    if shape.kv_heads == shape.heads:
        return ""
    saving = choice.saving if choice is not None else float("nan")
    saved = f" (saves {format_fraction(saving, 2)} of serving)" if saving > 0 else ""
    return f" and {shape.kv_heads} KV heads{saved}"


def _beside(plan: Plan) -> str:
    """What shapes of the LLaMA family make of the same question; those that do alike together."""
    alike: dict[str, list[str]] = {}
    for near in plan.family:
        alike.setdefault(_near(near, plan), []).append(near.name)
    return "; ".join(f"{' and '.join(names)} {verdict}" for verdict, names in alike.items())


def _near(near: Neighbour, plan: Plan) -> str:
    """How a LLaMA's shape answers the same question: by its loss on a budget, by its cost at a loss."""
    excess, on_budget = near.excess, plan.compute_optimal_on_budget is not None
    if near.parameters > plan.request.limits.parameters:
        return "would be larger than allowed"
    if excess != excess:
        return "would go beyond the budget" if on_budget else "would not reach this loss"
    if abs(excess) < (SAME_LOSS if on_budget else SAME_COST):
        return "would do as well"
    if on_budget:
        return f"would end {abs(excess):.2g} nats {'higher' if excess > 0 else 'lower'}"
    if excess >= 1:
        return f"would cost {format_number(1 + excess, 2)} times as much"
    return f"would cost {format_fraction(abs(excess), 2)} {'more' if excess > 0 else 'less'}"


def _training(plan: Plan) -> str:
    cost, report, demand = plan.recommended.lifetime, plan.training, plan.request.economics.demand
    chip = plan.request.economics.training.rental.accelerator.name
    times = f" {demand.trainings} x" if demand.trainings > 1 else ""
    other = format_cost(cost, "flops" if plan.request.unit == "usd" else "usd", "train")
    each = amount(cost.train_gpu_hours / demand.trainings, "gpu_hours").removesuffix(" GPU-hours")
    text = f"{other}:{times} {each} {chip} hours"
    if report.days is not None and report.accelerators is not None:
        text += f", {format_number(report.days, 3)} days on {report.accelerators:,}"
    elif (fewest := report.fewest_accelerators or 1) > 1:
        text += f" on {fewest:,} or more"
    if report.energy_mwh is not None and report.co2_tonnes is not None:
        energy = f"{format_number(report.energy_mwh, 3)} MWh, {format_number(report.co2_tonnes, 3)} t CO2"
        text += f"; {energy}{' each' if times else ''}"
    spread = report.layout.text if report.layout else report.note
    return f"{text}; {spread}" if spread else text


def not_served(plan: Plan) -> InfeasibleError | None:
    """Why the recommended model cannot be served as asked; None where it can be, or at constant MFUs."""
    deployment = plan.request.economics.deployment
    if deployment is None or plan.recommended.throughput is None:
        return None
    return why_not(deployment, served_shape(plan.shape), "the model")


def _serving(plan: Plan) -> str:
    if error := not_served(plan):
        return f"cannot be: {error.message}"
    request, model = plan.request, plan.recommended
    other = format_cost(model.lifetime, "flops" if request.unit == "usd" else "usd", "serve")
    text = f"{other}: {format_cost(model.lifetime, 'gpu_hours', 'serve')}"
    served, rental = model.throughput, request.economics.serving.rental
    if served is None:
        return f"{text} at constant MFUs"
    first, following = served.time_to_first_token_seconds, served.time_per_output_token_seconds
    text += (
        f"; a copy on {float(served.accelerators):g} x {rental.accelerator.name} writes "
        f"{format_number(float(served.batch), 2)} answers at once, the first token after "
        f"{format_seconds(float(first))}"
    )
    if request.economics.demand.output_tokens > 1:
        text += f", then one every {format_seconds(float(following))}"
    if rental.price_usd_per_hour is not None:
        prices = token_prices(served, rental.price_usd_per_hour)
        read, written, million = (format_usd(float(price), 2) for price in prices)
        text += f"; {million} per million tokens ({read} read, {written} written)"
    if plan.fleet is not None:
        rate = format_number(request.request_rate or 0)
        return f"{text}; {rate} requests/s take {_accelerators(plan.fleet, served)}"
    return text


def _accelerators(fleet: Fleet, served: Throughput) -> str:
    """How many, and how many of them hold a copy where that is another number than a token is cheapest on."""
    whole, each = (float(number) for number in fleet)
    apart = "" if each == float(served.accelerators) else f", {each:g} a copy"
    return f"{counted(int(whole), 'accelerator')}{apart}"
