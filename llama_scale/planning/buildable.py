"""The model that answers a question: of the shapes that can be built, the best for what is asked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from itertools import chain
from typing import Any, NamedTuple, cast

import numpy as np

from llama_scale.architecture import (
    ModelConfig,
    ParameterConvention,
    nearest_shapes,
    widenings,
    with_kv_heads,
)
from llama_scale.costs.roofline import ServedShape
from llama_scale.costs.serving import serve
from llama_scale.errors import InputError
from llama_scale.laws import Numbers
from llama_scale.planning.families import Array, Sizes, coordinate_of
from llama_scale.planning.feasibility import (
    Refusal,
    missing_shape,
    starved,
    too_dear,
    unbuildable,
    unreachable,
)
from llama_scale.planning.optimum import Limits, Objective, Problem, Solution, best, tokens_for
from llama_scale.planning.proportions import is_ill_shaped, stretch_of
from llama_scale.planning.request import PlanOptions, Request, limited, read_request
from llama_scale.planning.shapes import (
    QUALITY_FLOOR,
    KvChoice,
    choose_kv_heads,
    with_chosen_kv_heads,
    with_recomputation,
)
from llama_scale.planning.values import PlannedModel

FAR_FROM_OPTIMUM = 0.04  # in log N: more than rounding to a shape moves it
RUNG = 1.03  # sizes apart from each other, on one ladder for all questions
NEARBY, ELSEWHERE, FAR = 11, 47, 94  # rungs either way: a third of the size, four times it, sixteen times
SAME_SIZE = 0.1  # in log N
AS_GOOD = {"budget": 2e-4, "loss": 1e-3}  # shares of the loss, or of the cost, that no model of either knows
# shares of the loss, or of the cost, that are not worth looking at other shapes for, or at other heads
SLIGHT, SMALL = {"budget": 1e-4, "loss": 1e-3}, {"budget": 1e-3, "loss": 1e-2}
MUCH = {"budget": 5e-3, "loss": 5e-2}  # that are worth looking far
UNAFFORDABLE = 1e3  # nats: after all models that could be had for less
ROUNDINGS = (1.0, 0.985, 1.015, 0.97, 1.03, 0.95, 0.92, 0.88, 0.83)  # sizes tried until one keeps the limits


def model_of(request: Request, problem: Problem, solution: Solution) -> PlannedModel:
    """A size and its tokens with their loss, their costs and how they are served."""
    economics, sizes, tokens = request.economics, solution.sizes, float(solution.tokens)
    if sizes.shape is None and economics.deployment is not None:
        sizes = shaped(problem, sizes)
    serves = economics.demand.serve_tokens > 0
    return PlannedModel(
        parameters=float(sizes.parameters),
        tokens=tokens,
        loss_nats=float(problem.law.loss(sizes.parameters, tokens)),
        lifetime=economics.lifetime(
            train_flops=float(sizes.train_flops_per_token) * tokens,
            serve_flops=float(sizes.serve_flops_per_token) * economics.demand.serve_tokens,
            shape=sizes.shape,
        ),
        throughput=economics.throughput(sizes.shape) if serves else None,
    )


def shaped(problem: Problem, sizes: Sizes) -> Sizes:
    """A size with its shape on the continuum."""
    at = coordinate_of(problem.family, float(sizes.parameters))
    return sizes._replace(shape=problem.family.sizes(at, shaped=True).shape)


class Asked(NamedTuple):
    """A request, the problem that it comes to on a continuum, and what is sought there."""

    request: Request
    problem: Problem
    objective: Objective


class Settled(NamedTuple):
    """The best shape and its model, with the problem on the continuum through it and the optimum there."""

    shape: ModelConfig
    model: PlannedModel
    problem: Problem
    solution: Solution


def settle(request: Request) -> tuple[Request, KvChoice | None, Settled | Refusal]:
    """The request with what it leaves to be chosen, the choice of its KV heads, and what it comes to.

    Where heads are as few as the floor, larger models might share them and smaller ones have fewer; where
    the shapes with heads to share are far from the best, one whose heads share nothing may be nearer, and the
    other way round: both are settled, and the better is taken.
    """
    completed, choice = with_chosen_kv_heads(with_recomputation(request))
    found = [(completed, _settled(completed))]
    few = choice is not None and completed.kv_heads == choice.shape.heads
    if choice is not None and (few or _is_limited(completed) or _leaves_much(completed, found[0][1])):
        others = None if completed.kv_heads is not None else QUALITY_FLOOR
        asked = limited(replace(completed, kv_heads=others))
        found.append((asked, _settled(asked)))
    objective = completed.objective(completed.law)
    able = [(asked, one) for asked, one in found if isinstance(one, Settled)]
    if not able:  # a refusal is of the question as it was asked, not of heads that we chose
        asked, refusal = min(found, key=lambda one: one[0].kv_heads is not None)
        return asked, None, refusal
    asked, settled = min(able, key=lambda one: _rank(Asked(one[0], one[1].problem, objective), one[1]))
    if refusal := too_dear(asked, settled.model) or starved(asked, settled.model.loss_nats):
        return asked, None, refusal
    why = None if choice is None else _choice_of(asked, settled.shape)
    return limited(asked, settled.problem.family), why, settled


def _choice_of(request: Request, shape: ModelConfig) -> KvChoice | None:
    """What its KV heads save this shape; None where others would serve it cheaper."""
    deployment = request.economics.deployment
    if deployment is None:
        return None
    choice = choose_kv_heads(with_kv_heads(shape, shape.heads), deployment)
    return choice if choice.shape.kv_heads == shape.kv_heads else None


def _leaves_much(request: Request, settled: Settled | Refusal) -> bool:
    """Whether there is no shape, none of good proportions, or one much worse than the optimum."""
    if not isinstance(settled, Settled) or is_ill_shaped(settled.shape):
        return True
    return _is_beaten(_asked(request), settled, SMALL)


def answered(request: Request, changes: Mapping[str, Any]) -> Settled | None:
    """What the same question comes to with other words, as its asker would put it; None if to nothing."""
    words = cast(PlanOptions, {**request.given, **changes})
    with suppress(InputError):
        settled = settle(read_request(words))[2]
        return settled if isinstance(settled, Settled) else None
    return None


def answered_loss(request: Request, changes: Mapping[str, Any]) -> float | None:
    """The loss that the same question comes to with other words; None if to nothing."""
    settled = answered(request, changes)
    return None if settled is None else settled.model.loss_nats


def _settled(request: Request) -> Settled | Refusal:
    """What a question comes to, whatever a target costs, or why it has no answer."""
    asked = _asked(request)
    solution = best(asked.problem, asked.objective)
    if refusal := unreachable(*asked, solution):
        built = _wide_enough(asked) or refusal
    else:
        built = _buildable(asked, solution)
    return _through(asked, built) if isinstance(built, Built) else built


def _asked(request: Request) -> Asked:
    return Asked(request, request.problem(), request.objective(request.law))


def _through(asked: Asked, built: Built) -> Settled:
    """The best shape about a first one, with the continuum through it.

    Serving may make two sizes nearly as good: where the proportions of the shape move the optimum far from
    it, the shape there is looked at too.
    """
    chosen = _on_continuum(asked, built)
    for _ in range(2):  # the best near the first may have proportions that lead farther
        at = float(chosen.solution.sizes.parameters)
        far = abs(math.log(at / chosen.model.parameters)) > FAR_FROM_OPTIMUM
        rivals: list[Built | Refusal | None] = []
        if far:
            rivals.append(_buildable(asked._replace(problem=chosen.problem), chosen.solution))
        by_limits = asked.request.must_be_servable
        if asked.problem.sees_shapes or by_limits or _is_beaten(asked, chosen, SLIGHT):
            about = chosen.model.parameters
            # heads that are shared make what serving costs jump with width, and a latency is met by far
            # larger shapes where these are wide: one size may hide a better one
            everywhere = far or asked.problem.serving.needs_shapes or by_limits
            reach = ELSEWHERE if everywhere else NEARBY
            rivals.append(_best_shape(asked, about, reach))
        able = [rival for rival in rivals if isinstance(rival, Built)]
        found = min([chosen, *able], key=partial(_rank, asked))
        if isinstance(found, Settled):
            break
        chosen = _on_continuum(asked, found)
    return _filled(asked, chosen)


def _filled(asked: Asked, settled: Settled) -> Settled:
    """The shape, or a better one with a wider hidden layer where it is worse than the optimum.

    Shapes are up to 4 % apart, and farther where heads are shared. At the edge of limits on size or serving
    the last that is allowed may cost far more.
    """
    beaten = _is_beaten(asked, settled, SLIGHT if _is_limited(asked.request) else SMALL)
    # The optimum through a shape says nothing of other proportions, which may reach a loss for less: they are
    # taken where much is saved, lest plans drift towards shapes that laws do not know.
    unseen = asked.problem.sees_shapes and asked.objective.fixed == "loss"
    if not (beaten or unseen):
        return settled
    reach = ELSEWHERE if _is_beaten(asked, settled, MUCH) else NEARBY
    wider = _best_shape(asked, settled.model.parameters, reach, wider=True)
    worth = _rank(asked, settled) * (1 if beaten else 1 - MUCH[asked.objective.fixed])
    return settled if wider is None or _rank(asked, wider) >= worth else _on_continuum(asked, wider)


def _is_limited(request: Request) -> bool:
    """Whether a largest size or limits on serving were asked for, which may hold shapes back."""
    return request.max_parameters is not None or request.must_be_servable


def _on_continuum(asked: Asked, built: Built) -> Settled:
    through = asked.problem.through(built.shape)
    within = asked.objective._replace(limits=limited(asked.request, through.family).limits)
    return Settled(built.shape, built.model, through, best(through, within))


def _rank(asked: Asked, built: Built | Settled) -> float:
    """What is sought least of, loss or cost, of which the ill-shaped count more than they have."""
    sizes = asked.problem.family.size_of(built.shape)
    return float(_counted(asked, sizes, np.asarray(built.model.tokens), np.asarray(_oddity(built.shape))))


def _counted(asked: Asked, sizes: Sizes, tokens: Array, oddity: Array) -> Array:
    """The cost of models at a loss, or their loss on a budget, as though they cost `oddity` times as much."""
    _, problem, objective = asked
    if objective.fixed == "loss":
        return np.asarray(problem.cost(sizes, tokens)) * oddity
    allowed = Limits(cast(float, objective.limits.train_flops / oddity))  # of each model its own
    less = Objective("budget", objective.value / oddity, allowed)
    left = np.where(np.isnan(tokens), np.nan, tokens_for(problem, less, sizes))
    loss = np.asarray(problem.law.loss(sizes.parameters, tokens))
    return np.where(np.isnan(left), loss + UNAFFORDABLE, problem.law.loss(sizes.parameters, left))


def _is_beaten(asked: Asked, settled: Settled, shares: Mapping[str, float]) -> bool:
    """Whether the optimum is better by more than a share of the loss, or of the cost at a loss."""
    problem, optimum, model = settled.problem, settled.solution, settled.model
    if asked.objective.fixed == "budget":
        return model.loss_nats > float(problem.loss(optimum)) * (1 + shares["budget"])
    return model.lifetime.total(asked.request.unit) > float(problem.cost(*optimum)) * (1 + shares["loss"])


def _oddity(shape: ModelConfig) -> float:
    """How many times its cost a shape counts: 1 but for the ill-shaped.

    A law counts parameters alone, so that serving, which is cheaper with few layers, would choose a single
    one for a small model; the runs behind laws were of the family's proportions. In `proportions.SOURCE` 6
    layers of width 4,288 (7.5 times as wide for their depth as the family's) end within 3 % of the loss of
    GPT-2's 48 of 1,600 (a third as wide): by our default law twice the compute at a loss of 2.4, six times at
    2.03.
    """
    stretch = stretch_of(shape)
    return max(stretch, 1 / stretch) if is_ill_shaped(shape) else 1.0


class Built(NamedTuple):
    """A shape that can be built, and the model that it makes."""

    shape: ModelConfig
    model: PlannedModel


def _buildable(asked: Asked, solution: Solution) -> Built | Refusal:
    """The real shape nearest the optimum that keeps the limits, its tokens chosen anew; or why none does."""
    request, wanted = asked.request, float(solution.sizes.parameters)
    able: list[Built] = []
    for factor in ROUNDINGS:
        shape = request.shape_of(wanted * factor)
        if refusal := missing_shape(request, shape.parameters.by(request.fit.convention), wanted):
            return refusal
        if built := _built(asked, shape):
            able.append(built)
            if not is_ill_shaped(shape):
                return built
    if found := _best_shape(asked, wanted, ELSEWHERE, wider=_is_limited(request)):
        able.append(found)
    if not able:
        return partial(unbuildable, request, wanted)
    return min(able, key=partial(_rank, asked))


def _built(asked: Asked, shape: ModelConfig) -> Built | None:
    """A shape with its tokens; None where it does not keep the limits."""
    sizes = asked.problem.family.size_of(shape)
    tokens = float(_tokens_for(asked, sizes))
    if not math.isfinite(tokens) or not asked.request.allows(shape):
        return None
    return Built(shape, model_of(asked.request, asked.problem, Solution(sizes, tokens)))


def _wide_enough(asked: Asked) -> Built | None:
    """The best shape where serving leaves none of the usual proportions: wide ones may be far larger."""
    held = asked.request.held_by_serving
    return None if held is None else _best_shape(asked, held, FAR, wider=True)


def _tokens_for(asked: Asked, sizes: Sizes) -> Numbers:
    """Training tokens of real shapes; nan too where one is beyond the limits on serving that were asked for.

    Each is held to these itself: the size that they allow is that of a continuum of the usual proportions,
    and a shape above it may keep them where one below may not.
    """
    request, problem, objective = asked
    deployment = request.economics.deployment
    if deployment is None or sizes.shape is None or not request.must_be_servable:
        return tokens_for(problem, objective, sizes)
    by_size = objective.limits._replace(parameters=request.most_parameters)
    tokens = tokens_for(problem, objective._replace(limits=by_size), sizes)
    return np.where(np.isnan(serve(deployment, sizes.shape).batch), np.nan, tokens)


@lru_cache(maxsize=4096)  # one question, and the hints of its refusal, ask for the same rungs many times
def _rung(
    step: int, convention: ParameterConvention, vocabulary: int, context: int, kv_heads: int | None
) -> tuple[ModelConfig, ...]:
    """The shapes that are the nearest to sizes from one rung to the next."""
    return nearest_shapes(
        RUNG**step,
        RUNG ** (step + 1),
        convention=convention,
        vocabulary=vocabulary,
        context=context,
        kv_heads=kv_heads,
    )


def _shapes_about(request: Request, wanted: float, reach: int, wider: bool) -> Iterator[ModelConfig]:
    """The LLaMAs within `reach` rungs that are allowed, and those with a `wider` hidden layer too."""
    rung = math.floor(math.log(wanted) / math.log(RUNG))
    asked = request.fit.convention, request.vocabulary, request.context, request.kv_heads
    for step in range(rung - reach, rung + reach + 1):
        shapes = _rung(step, *asked)
        yield from filter(request.allows, chain.from_iterable(map(widenings, shapes)) if wider else shapes)


def _best_shape(asked: Asked, wanted: float, reach: int, *, wider: bool = False) -> Built | None:
    """The best of the shapes within `reach` rungs of the size, with its tokens; None where none will do.

    One that is more than SAME_SIZE away is taken if none nearer is as good.

    Serving follows heads and layers as well as size, least smoothly where models are small and prompts
    long: there the shape nearest in size need not be the best, nor do what is asked at all.
    """
    request, problem, objective = asked
    found = {shape: problem.family.size_of(shape) for shape in _shapes_about(request, wanted, reach, wider)}
    if not found:
        return None
    sizes = _together(list(found.values()))
    tokens = np.asarray(_tokens_for(asked, sizes))
    worth = _counted(asked, sizes, tokens, np.array([_oddity(shape) for shape in found]))
    if np.all(np.isnan(worth)):
        return None
    as_good = worth <= np.nanmin(worth) * (1 + AS_GOOD[objective.fixed])
    away = np.maximum(np.abs(np.log(np.asarray(sizes.parameters) / wanted)), SAME_SIZE)
    index = int(np.lexsort((worth, np.where(as_good, away, np.inf)))[0])
    shape = list(found)[index]
    return Built(shape, model_of(request, problem, Solution(found[shape], tokens[index])))


def _together(sizes: list[Sizes]) -> Sizes:
    """Sizes one by one as one batch."""
    shapes = [each.shape for each in sizes if each.shape is not None]
    shape = None
    if shapes:
        shape = ServedShape(*(np.array(part, float) for part in zip(*shapes, strict=True)))
    return Sizes(
        parameters=np.array([each.parameters for each in sizes], float),
        train_flops_per_token=np.array([each.train_flops_per_token for each in sizes], float),
        serve_flops_per_token=np.array([each.serve_flops_per_token for each in sizes], float),
        shape=shape,
    )
