"""The best model of a size continuum: lowest loss for a budget, or lowest lifetime cost for a loss.

A model of N parameters that is trained on D tokens and serves T costs

    cost = train_rate x train_flops_per_token(N) x D + cost_per_served_token(N) x T.

Every condition is a bound on D at a given N: a target loss asks for at least D_low(N); what the budget
leaves after serving, and what can be trained by a deadline, allow at most D_high(N). The lowest loss takes
D_high and the lowest cost D_low, so that one coordinate, the size, is left to search; sizes that no D
serves are nan. Where the law is additive, FLOPs are 6N and 2N, and nothing else limits, the answer is one
equation (`closed_form`). Elsewhere a grid is refined around its lowest point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Literal, NamedTuple

import numpy as np

from llama_scale.architecture import ModelConfig
from llama_scale.frozen import frozen
from llama_scale.laws import Numbers, ScalingLaw
from llama_scale.planning.batches import Law, floors, part_of
from llama_scale.planning.closed_form import tokens_of_lowest_cost, tokens_of_lowest_loss
from llama_scale.planning.families import (
    LARGEST_MODEL,
    Array,
    ExactFamily,
    Family,
    SixNDFamily,
    Sizes,
    coordinate_of,
)
from llama_scale.planning.quantisation import QuantisedLaw
from llama_scale.planning.search import minimise
from llama_scale.planning.serving import MOST_EXACT, FlopServing, RooflineServing, ServingCost

IN_FLOPS = FlopServing()

MOST_TOGETHER = 1000  # questions searched at once: their coarse grid fits in a cache


@frozen
class Problem:
    """A law, a family of models, what a FLOP of training and a served token cost, and the tokens to serve.

    The law's constants and `serve_tokens` may be arrays: many questions at once.
    """

    law: Law
    family: Family
    serve_tokens: Numbers
    train_rate: float = 1.0
    serving: ServingCost = IN_FLOPS

    def cost(self, sizes: Sizes, tokens: Numbers) -> Numbers:
        """Lifetime cost of `sizes` trained on `tokens`, in the unit of the rates."""
        return self.train_rate * sizes.train_flops_per_token * tokens + self.serving_cost(sizes)

    def serving_cost(self, sizes: Sizes) -> Numbers:
        """What serving alone costs; 0 for a model that serves nothing, whether or not it could."""
        if not np.any(self.serve_tokens):
            return np.zeros_like(sizes.parameters)
        return self.serving.cost_per_token(sizes) * self.serve_tokens

    def loss(self, solution: Solution) -> Numbers:
        """Loss of the models of a solution under the problem's law."""
        return self.law.loss(solution.sizes.parameters, solution.tokens)

    def sizes(self, coordinate: Numbers) -> Sizes:
        """The models of the continuum at `coordinate`, with shapes where these are priced one by one."""
        few = np.size(coordinate) <= MOST_EXACT
        return self.family.sizes(coordinate, shaped=few and self.serving.needs_shapes)

    def without_serving(self) -> Problem:
        """The same problem for a model that serves nothing."""
        return replace(self, serve_tokens=0.0, serving=IN_FLOPS)

    def with_law(self, law: Law) -> Problem:
        """The same problem under another law, or under a batch of draws."""
        return replace(self, law=law)

    @property
    def sees_shapes(self) -> bool:
        """Whether models of one size cost more or less by their proportions."""
        return self.serving.needs_shapes or isinstance(self.family, ExactFamily)

    def through(self, shape: ModelConfig) -> Problem:
        """The problem on the continuum through a real shape: no proportions but its size are compared."""
        return self.on(replace(self.family, geometry=self.family.geometry.through(shape)))

    def on(self, family: Family) -> Problem:
        """The same problem on another continuum."""
        serving = self.serving
        if isinstance(serving, RooflineServing):
            serving = replace(serving, family=family)
        return replace(self, family=family, serving=serving)

    @property
    def serving_in_training_tokens(self) -> Numbers:
        """S: the tokens of training that serving is worth, when FLOPs are 6ND and 2NT."""
        assert isinstance(self.serving, FlopServing), "seconds of serving are no FLOPs"
        return self.serve_tokens * self.serving.rate / (3 * self.train_rate)


class Solution(NamedTuple):
    """The best models and their training tokens; nan where no model does."""

    sizes: Sizes
    tokens: Numbers


class Limits(NamedTuple):
    """What holds beside the budget: the most FLOPs of one training (a deadline), the most parameters."""

    train_flops: float = math.inf
    parameters: float = math.inf


NO_LIMITS = Limits()


class Objective(NamedTuple):
    """What is fixed: a budget to spend on the lowest loss (inf: none), or a loss to reach at least cost."""

    fixed: Literal["budget", "loss"]
    value: Numbers
    limits: Limits = NO_LIMITS


def best(problem: Problem, objective: Objective, near: float | None = None) -> Solution:
    """The model that the objective asks for; nan where there is none.

    `near` is a size that many draws should lie about: they are looked for there first.
    """
    if (found := _closed_form(problem, objective)) is not None:
        return found

    def value(part: Problem, asked: Objective, coordinate: Array) -> Numbers:
        sizes = part.sizes(coordinate)
        tokens = tokens_for(part, asked, sizes)
        if asked.fixed == "budget":
            return part.law.loss(sizes.parameters, tokens)
        return part.cost(sizes, tokens)

    about = None if near is None else float(coordinate_of(problem.family, near))
    coordinate = _in_parts(problem, objective, value, about)
    sizes = problem.sizes(coordinate)
    return Solution(sizes, tokens_for(problem, objective, sizes))


def tokens_for(problem: Problem, objective: Objective, sizes: Sizes) -> Numbers:
    """Training tokens that put models of given sizes on the budget or at the loss; nan where none do."""
    limits = objective.limits
    if objective.fixed == "loss":
        tokens = problem.law.tokens_for_loss(objective.value, sizes.parameters)
        if limits.train_flops < math.inf:
            allowed = limits.train_flops / sizes.train_flops_per_token
            tokens = np.where(tokens <= allowed * (1 + 1e-12), tokens, np.nan)
    else:
        left = objective.value - problem.serving_cost(sizes)
        tokens = left / (problem.train_rate * sizes.train_flops_per_token)
        tokens = np.minimum(tokens, limits.train_flops / sizes.train_flops_per_token)
        if isinstance(problem.law, QuantisedLaw):  # more data than these would make the model worse
            tokens = np.minimum(tokens, problem.law.best_tokens(sizes.parameters))
        tokens = np.where(tokens > 0, tokens, np.nan)
    if limits.parameters < math.inf:
        tokens = np.where(sizes.parameters <= limits.parameters * (1 + 1e-12), tokens, np.nan)
    return tokens


def lowest_loss(problem: Problem, budget: Numbers, limits: Limits = NO_LIMITS) -> Solution:
    """The model of lowest loss whose training and serving cost `budget`."""
    return best(problem, Objective("budget", budget, limits))


def lowest_cost(problem: Problem, loss: Numbers, limits: Limits = NO_LIMITS) -> Solution:
    """The model of lowest lifetime cost that reaches `loss`; nan where the law's floor is not below it."""
    return best(problem, Objective("loss", loss, limits))


def _closed_form(problem: Problem, objective: Objective) -> Solution | None:
    """The solution of one equation; None where the question is not so simple."""
    law, limits = problem.law, objective.limits
    simple = type(problem.family) is SixNDFamily and isinstance(problem.serving, FlopServing)
    if not simple or not isinstance(law, ScalingLaw) or np.any(np.isinf(objective.value)):
        return None
    idle = problem.serving_in_training_tokens
    if objective.fixed == "budget":
        equivalent = objective.value / (6 * problem.train_rate)
        tokens = tokens_of_lowest_loss(law, idle, equivalent)
        parameters = equivalent / (tokens + idle)
    else:
        tokens = tokens_of_lowest_cost(law, idle, objective.value)
        parameters = law.parameters_for_loss(objective.value, tokens)
    sizes = problem.sizes(np.log(parameters))
    beyond = sizes.train_flops_per_token * tokens > limits.train_flops
    if np.any(beyond | (sizes.parameters > limits.parameters)):
        return None
    return Solution(sizes, tokens)


def cheap_ranges(
    problem: Problem, objective: Objective, excesses: Sequence[float], about: float
) -> list[tuple[float, float]]:
    """For each excess the smallest and largest N that reach a loss for (1 + excess) times the lowest cost.

    They are looked for around the size `about`, and are that size where, to rounding, no other reaches the
    loss. A limit on training FLOPs is eased by the same excess. One law, not a batch of draws; N in the law's
    convention, to about 0.1 %.
    """
    centre = float(coordinate_of(problem.family, about))
    sizes = problem.sizes(centre + np.linspace(-5, 5, 4001))

    @cache
    def costs(train_flops: float) -> Array:
        eased = objective._replace(limits=objective.limits._replace(train_flops=train_flops))
        cost = np.asarray(problem.cost(sizes, tokens_for(problem, eased, sizes)))
        return np.where(np.isnan(cost), np.inf, cost)

    most, parameters, found = objective.limits.train_flops, np.asarray(sizes.parameters), []
    lowest = float(costs(most * (1 + 1e-9)).min())
    for excess in excesses:
        cost = costs(most * (1 + excess + 1e-9))
        near = parameters[np.isfinite(cost) & (cost <= (1 + excess) * lowest)]
        found.append((float(near[0]), float(near[-1])) if near.size else (about, about))
    return found


Valued = Callable[[Problem, Objective, Array], Numbers]


def _in_parts(problem: Problem, objective: Objective, value: Valued, about: float | None) -> Array:
    """Where each question's value is least; many questions a part at a time."""
    law = problem.law
    shape = np.broadcast(floors(law), objective.value, problem.serve_tokens).shape
    count = math.prod(shape)
    if count <= MOST_TOGETHER:
        return minimise(lambda x: value(problem, objective, x), shape, _edges(problem, objective), about)
    found = np.empty(count)
    flat = [np.broadcast_to(number, shape).ravel() for number in (objective.value, problem.serve_tokens)]
    for start in range(0, count, MOST_TOGETHER):
        part = slice(start, start + MOST_TOGETHER)
        drawn = part_of(law, shape, part)
        asked = replace(problem, law=drawn, serve_tokens=flat[1][part])
        aim = objective._replace(value=flat[0][part])
        found[part] = minimise(
            lambda x, p=asked, o=aim: value(p, o, x), flat[0][part].shape, _edges(asked, aim)
        )
    return found.reshape(shape)


def _edges(problem: Problem, objective: Objective) -> list[Numbers]:
    """Sizes to look at beside the grid, for what is possible may lie between two of its points.

    The sizes that reach a loss by a deadline surround the one of least training compute; size and memory
    cut them off from above.
    """
    limits, family = objective.limits, problem.family
    edges: list[Numbers] = []
    if 0 < limits.parameters < math.inf:
        edges.append(coordinate_of(family, min(limits.parameters, LARGEST_MODEL)))
    if np.any(problem.serve_tokens) and 0 < problem.serving.largest < math.inf:
        edges.append(coordinate_of(family, problem.serving.largest))
    if objective.fixed == "loss" and limits.train_flops < math.inf:
        cheapest = lowest_cost(problem.without_serving(), objective.value).sizes.parameters
        edges.append(coordinate_of(family, cheapest))
    return edges
