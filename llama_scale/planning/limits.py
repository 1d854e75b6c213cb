"""Every condition of a plan: its limit, how much of it is used, and which of them hold the answer back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from llama_scale.architecture import ModelConfig
from llama_scale.costs.roofline import served_shape
from llama_scale.costs.serving import Deployment, serve
from llama_scale.planning.buildable import answered
from llama_scale.planning.families import Family
from llama_scale.planning.optimum import Problem
from llama_scale.planning.request import Request
from llama_scale.planning.serving import largest_servable
from llama_scale.planning.values import Limit, PlannedModel
from llama_scale.quantities import Quantity

LATENCIES = "time_per_output_token_seconds", "time_to_first_token_seconds"
TIGHT = 1e-3  # a limit of which this share or less is left holds the optimum back
BEYOND = 1.02  # how much larger a model must fit for memory not to be what stops it


def limits_of(
    request: Request,
    problem: Problem,
    shape: ModelConfig,
    recommended: PlannedModel,
    optimum: PlannedModel,
) -> tuple[Limit, ...]:
    """The target first, then the budget, then the rest; a target always binds, others where all is used."""
    return (
        *_target(request, recommended),
        *_budget(request, recommended, optimum),
        *_training(request, recommended, optimum),
        *_size(request, shape, optimum),
        *_serving(request, problem, shape, recommended, optimum),
    )


def _target(request: Request, recommended: PlannedModel) -> Iterator[Limit]:
    if not request.has_target:
        return
    loss = float(np.asarray(request.objective(request.law).value))
    name = "target loss"
    if request.match is not None:
        name = f"quality of {request.match.name}"
    elif request.target_score is not None:
        name = f"target score of {request.target_score:g}"
    yield Limit(name, loss, recommended.loss_nats, True, False)


def _budget(request: Request, recommended: PlannedModel, optimum: PlannedModel) -> Iterator[Limit]:
    if request.budget is not None:
        limit, used = request.budget.value, recommended.lifetime.total(request.unit)
        binds = not request.has_target and is_tight(optimum.lifetime.total(request.unit), limit)
        yield Limit("total budget", request.budget, used, binds, "budget" not in request.given)


def _training(request: Request, recommended: PlannedModel, optimum: PlannedModel) -> Iterator[Limit]:
    if request.deadline is None:
        return
    trainings, most = request.economics.demand.trainings, request.limits.train_flops
    seconds = request.deadline.seconds
    share, ours = (model.lifetime.train_flops / trainings / most for model in (optimum, recommended))
    yield Limit(
        request.deadline.name,
        Quantity(value=seconds, kind="seconds"),
        seconds * ours,
        is_tight(share, 1.0),
        False,
    )


def _size(request: Request, shape: ModelConfig, optimum: PlannedModel) -> Iterator[Limit]:
    if request.max_parameters is not None:
        largest = Quantity(value=request.max_parameters, kind="count")
        binds = is_tight(optimum.parameters, request.most_parameters)
        yield Limit("largest size", largest, float(shape.parameters.total), binds, False)


def _serving(
    request: Request, problem: Problem, shape: ModelConfig, recommended: PlannedModel, optimum: PlannedModel
) -> Iterator[Limit]:
    """The latencies that were asked for; and memory, where a slightly larger model could not be served.

    A latency binds where it alone allows no larger size, though memory does, or only wider shapes than would
    be chosen without it; memory where none of them does.
    """
    deployment = request.economics.deployment
    is_limited = (problem.serving.needs_shapes and problem.serve_tokens) or request.must_be_servable
    if deployment is None or not is_limited:
        return
    asked = {name: getattr(deployment, name) for name in LATENCIES if getattr(deployment, name) is not None}
    free = replace(deployment, **dict.fromkeys(asked)) if asked else deployment  # whose largest size is known
    in_memory, slow = largest_servable(free, problem.family), False
    if request.must_be_servable:
        served = recommended.throughput or serve(deployment, served_shape(shape))
        for name, seconds in asked.items():
            alone = replace(free, **{name: seconds})
            holds_size = _is_too_slow(optimum, free, alone, problem.family)
            slow = slow or holds_size
            binds = holds_size or _is_only_kept_wide(request, optimum, free, alone)
            limit, used = Quantity(value=seconds, kind="seconds"), float(getattr(served, name))
            yield Limit(_word(name).replace("_", " "), limit, used, binds, False)
    if optimum.parameters * BEYOND > in_memory and not slow:
        name = f"memory of {deployment.groups[-1]} {deployment.rental.accelerator.name}"
        yield Limit(name, Quantity(value=in_memory, kind="count"), recommended.parameters, True, False)


def _is_too_slow(optimum: PlannedModel, free: Deployment, held: Deployment, family: Family) -> bool:
    """Whether the family has no larger size that is served within the limits of `held`, though `free` has."""
    largest = largest_servable(held, family)
    return is_tight(optimum.parameters, largest) and not is_tight(largest, largest_servable(free, family))


def _is_only_kept_wide(request: Request, optimum: PlannedModel, free: Deployment, held: Deployment) -> bool:
    """Whether only wide shapes of that size keep the limits of `held`; the one chosen without them does not.

    The continuum goes through the shape that was chosen, whose proportions may be what the limits took. A
    shape may also be wide of its own accord: then it is the same without them, and they hold nothing back.
    """
    if not _is_too_slow(optimum, free, held, request.problem().family):
        return False
    unhurried = answered(request, {_word(name): None for name in LATENCIES})
    return unhurried is not None and bool(np.isnan(serve(held, served_shape(unhurried.shape)).batch))


def _word(latency: str) -> str:
    """A latency of a deployment as it is asked for."""
    return latency.removesuffix("_seconds")


def is_tight(used: float, limit: float) -> bool:
    """Whether so little of a limit is left that it holds the optimum back."""
    return used >= limit * (1 - TIGHT)
