"""The best model of a size continuum: lowest loss for a budget, or lowest lifetime cost for a loss.

A model of N parameters that is trained on D tokens and serves T costs

    cost = train_rate x train_flops_per_token(N) x D + serve_rate x serve_flops_per_token(N) x T.

With FLOPs per token of 6N and 2N that is 6 train_rate x N (D + S), where
S = T x serve_rate / (3 train_rate) are the tokens of training that serving is worth. Both questions then
have one unknown, x = log D, and a stationarity condition that is monotone and of one curvature in x, so
Newton's method converges from the starting points below without a safeguard; law constants may be
arrays (draws), which are solved together. FLOPs counted from the shape have no such form: there the
objective, which has one minimum, is searched on a grid that is refined around its lowest point.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from llama_scale.architecture import ModelConfig, ParameterConvention, aspect_ratio
from llama_scale.costs import Rates
from llama_scale.laws import Numbers, ScalingLaw

Array = NDArray[np.float64]

SMALLEST_MODEL, LARGEST_MODEL = 1e4, 1e15  # parameters: what we would call a model
NEWTON_STEPS = 60  # five or six do
COARSE_POINTS, FINE_POINTS, REFINEMENTS = 96, 17, 7  # of the grid search: log N to within 1e-7


class Sizes(NamedTuple):
    """Models by their parameters, in the law's convention, and what a token costs them in FLOPs."""

    parameters: Numbers
    train_flops_per_token: Numbers
    serve_flops_per_token: Numbers


class Family(Protocol):
    """A continuum of models along a coordinate that grows as the logarithm of their size."""

    def sizes(self, coordinate: Numbers) -> Sizes:
        """The models at `coordinate`."""
        ...

    def size_of(self, shape: ModelConfig) -> Sizes:
        """One real shape, counted as the family counts."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SixNDFamily:
    """FLOPs as the papers count them: 6N a token of training, 2N a token served, with the N of the law."""

    convention: ParameterConvention = "total"

    def sizes(self, coordinate: Numbers) -> Sizes:
        """The coordinate is log N."""
        parameters = np.exp(coordinate)
        return Sizes(parameters, 6 * parameters, 2 * parameters)

    def size_of(self, shape: ModelConfig) -> Sizes:
        """6N and 2N with the shape's N in the law's convention."""
        parameters = float(shape.parameters.by(self.convention))
        return Sizes(parameters, 6 * parameters, 2 * parameters)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactFamily:
    """FLOPs of a LLaMA's own matrix products, its layers and width made continuous.

    The body's 12 L d^2 weights are the coordinate (their logarithm); L and d follow from the family's
    aspect ratio, and the counts and FLOPs from L, d, the vocabulary V and the context T: tables of V d,
    norms of 2 L d + d, attention of 4 L d T FLOPs a token. SwiGLU's hidden size is 8/3 d, unrounded.
    """

    convention: ParameterConvention
    vocabulary: int
    context: int

    def sizes(self, coordinate: Numbers) -> Sizes:
        """The coordinate is the logarithm of the body's weights."""
        body, ratio = np.exp(coordinate), np.interp(coordinate, *_aspect_ratios())
        width = (body * ratio / 12) ** (1 / 3)
        layers = width / ratio
        tables = {"total": 2, "matmul": 1, "non_embedding": 0}[self.convention] * self.vocabulary * width
        products = 2 * (body + self.vocabulary * width) + 4 * layers * width * self.context
        return Sizes(body + (2 * layers + 1) * width + tables, 3 * products, products)

    def size_of(self, shape: ModelConfig) -> Sizes:
        """The shape's exact counts."""
        return Sizes(
            float(shape.parameters.by(self.convention)),
            float(shape.train_flops_per_token(self.context)),
            float(shape.forward_flops_per_token(self.context)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A law, a family of models, the cost of a FLOP of training and of serving, and the tokens to serve."""

    law: ScalingLaw
    family: Family
    rates: Rates
    serve_tokens: Numbers

    def cost(self, sizes: Sizes, tokens: Numbers) -> Numbers:
        """Lifetime cost of `sizes` trained on `tokens`, in the unit of the rates."""
        return self.rates.train * sizes.train_flops_per_token * tokens + self.serving_cost(sizes)

    def serving_cost(self, sizes: Sizes) -> Numbers:
        """What serving alone costs."""
        return self.rates.serve * sizes.serve_flops_per_token * self.serve_tokens

    def tokens_on_budget(self, sizes: Sizes, budget: Numbers) -> Numbers:
        """Training tokens that the budget leaves after serving; nan where it leaves none."""
        left = (budget - self.serving_cost(sizes)) / (self.rates.train * sizes.train_flops_per_token)
        return np.where(left > 0, left, np.nan)

    def loss(self, solution: Solution) -> Numbers:
        """Loss of the models of a solution under the problem's law."""
        return self.law.loss(solution.sizes.parameters, solution.tokens)

    def without_serving(self) -> Problem:
        """The same problem for a model that serves nothing."""
        return replace(self, serve_tokens=0.0)

    def with_law(self, law: ScalingLaw) -> Problem:
        """The same problem under another law, or under a batch of draws."""
        return replace(self, law=law)

    @property
    def serving_in_training_tokens(self) -> Numbers:
        """S: the tokens of training that serving is worth, when FLOPs are 6ND and 2NT."""
        return self.serve_tokens * self.rates.serve / (3 * self.rates.train)


class Solution(NamedTuple):
    """The best models and their training tokens; nan where no model does."""

    sizes: Sizes
    tokens: Numbers


class Objective(NamedTuple):
    """What is fixed: a budget to spend on the lowest loss, or a loss to reach at the lowest cost."""

    fixed: Literal["budget", "loss"]
    value: Numbers


def best(problem: Problem, objective: Objective) -> Solution:
    """The model that the objective asks for."""
    solve = lowest_loss if objective.fixed == "budget" else lowest_cost
    return solve(problem, objective.value)


def tokens_for(problem: Problem, objective: Objective, sizes: Sizes) -> Numbers:
    """Training tokens that put models of given sizes on the budget or at the loss; nan where none do."""
    if objective.fixed == "budget":
        return problem.tokens_on_budget(sizes, objective.value)
    return problem.law.tokens_for_loss(objective.value, sizes.parameters)


def lowest_loss(problem: Problem, budget: Numbers) -> Solution:
    """The model of lowest loss whose training and serving cost `budget`."""
    if type(problem.family) is SixNDFamily:
        tokens = _tokens_of_lowest_loss(problem, budget)
        equivalent = budget / (6 * problem.rates.train)
        parameters = equivalent / (tokens + problem.serving_in_training_tokens)
        return Solution(problem.family.sizes(np.log(parameters)), tokens)

    def loss(coordinate: Array) -> Numbers:
        sizes = problem.family.sizes(coordinate)
        return problem.law.loss(sizes.parameters, problem.tokens_on_budget(sizes, budget))

    sizes = problem.family.sizes(_minimise(loss, _batch(problem, budget)))
    return Solution(sizes, problem.tokens_on_budget(sizes, budget))


def lowest_cost(problem: Problem, loss: Numbers) -> Solution:
    """The model of lowest lifetime cost that reaches `loss`; nan where the law's floor is not below it."""
    if type(problem.family) is SixNDFamily:
        tokens = _tokens_of_lowest_cost(problem, loss)
        parameters = problem.law.parameters_for_loss(loss, tokens)
        return Solution(problem.family.sizes(np.log(parameters)), tokens)

    def cost(coordinate: Array) -> Numbers:
        sizes = problem.family.sizes(coordinate)
        return problem.cost(sizes, problem.law.tokens_for_loss(loss, sizes.parameters))

    sizes = problem.family.sizes(_minimise(cost, _batch(problem, loss)))
    return Solution(sizes, problem.law.tokens_for_loss(loss, sizes.parameters))


def _tokens_of_lowest_loss(problem: Problem, budget: Numbers) -> Numbers:
    """Root in x = log D of log[alpha A K^-alpha (D + S)^(alpha - 1) D] - log[beta B D^-beta], K = N (D + S).

    It rises, and is concave for alpha < 1: started left of the root, Newton never passes it. The start is
    the larger of the roots with S neglected against D and D neglected against S.
    """
    law, log_idle = problem.law, _log(problem.serving_in_training_tokens)
    log_budget = np.log(budget / (6 * problem.rates.train))
    offset = np.log(law.alpha * law.A / (law.beta * law.B)) - law.alpha * log_budget
    x = -offset / (law.alpha + law.beta)
    if np.all(law.alpha < 1):
        x = np.maximum(x, ((1 - law.alpha) * log_idle - offset) / (1 + law.beta))

    def step(x: Numbers) -> Numbers:
        log_sum = np.logaddexp(x, log_idle)
        value = offset + (law.alpha - 1) * log_sum + (1 + law.beta) * x
        return value / (1 + law.beta - (1 - law.alpha) * np.exp(x - log_sum))

    return np.exp(_newton(step, x))


def _tokens_of_lowest_cost(problem: Problem, loss: Numbers) -> Numbers:
    """Root in x = log D of Sardana & Frankle's condition (arXiv 2401.00448, section 2), in logarithms:

    log[(1 + beta/alpha) B D^-beta + (beta B S / alpha) D^(-beta - 1)] = log((loss - E)^(1/k)). The left side
    falls and is convex, a sum of exponentials in x: started left of the root, Newton never passes it.
    """
    law, log_idle = problem.law, _log(problem.serving_in_training_tokens)
    log_room = np.log(law.excess(loss))
    training = np.log((1 + law.beta / law.alpha) * law.B)
    serving = np.log(law.beta * law.B / law.alpha) + log_idle
    x = np.maximum((training - log_room) / law.beta, (serving - log_room) / (law.beta + 1))

    def step(x: Numbers) -> Numbers:
        terms = training - law.beta * x, serving - (law.beta + 1) * x
        log_sum = np.logaddexp(*terms)
        return (log_sum - log_room) / (-law.beta - np.exp(terms[1] - log_sum))

    return np.exp(_newton(step, x))


def cheap_range(problem: Problem, loss: float, excess: float) -> tuple[float, float]:
    """The smallest and largest N that reach `loss` for at most (1 + excess) times the lowest cost.

    One law, not a batch of draws; N in the law's convention, to about 0.1 %.
    """
    coordinate = np.linspace(math.log(SMALLEST_MODEL), math.log(LARGEST_MODEL), 2001)
    best = float(lowest_cost(problem, loss).sizes.parameters)
    parameters = np.asarray(problem.family.sizes(coordinate).parameters)
    centre = float(np.interp(math.log(best), np.log(parameters), coordinate))
    coordinate = centre + np.linspace(-5, 5, 4001)
    sizes = problem.family.sizes(coordinate)
    cost = problem.cost(sizes, problem.law.tokens_for_loss(loss, sizes.parameters))
    cheap = np.flatnonzero(cost <= (1 + excess) * np.nanmin(cost))
    parameters = np.asarray(sizes.parameters)
    return float(parameters[cheap[0]]), float(parameters[cheap[-1]])


def _minimise(objective: Callable[[Array], Numbers], draws: tuple[int, ...]) -> Array:
    """Where each draw's objective, of one minimum in log N, is least: a grid refined around its lowest point.

    nan marks what is impossible; a draw for which everything is gives nan.
    """
    bounds = math.log(SMALLEST_MODEL) - 3, math.log(LARGEST_MODEL) + 3
    centre, half_width = np.full(draws, sum(bounds) / 2), (bounds[1] - bounds[0]) / 2
    for points in (COARSE_POINTS, *[FINE_POINTS] * REFINEMENTS):
        grid = centre + half_width * np.linspace(-1, 1, points).reshape(-1, *[1] * len(draws))
        values = np.broadcast_to(objective(grid), grid.shape)
        values = np.where(np.isnan(values), np.inf, values)
        lowest = np.argmin(values, axis=0)
        centre = np.where(
            np.isinf(values.min(axis=0)), np.nan, np.take_along_axis(grid, lowest[None], axis=0)[0]
        )
        half_width *= 2 / (points - 1)
    return centre


def _batch(problem: Problem, target: Numbers) -> tuple[int, ...]:
    return np.broadcast(problem.law.E, target, problem.serve_tokens).shape


def _log(number: Numbers) -> Numbers:
    """The logarithm, -inf for 0."""
    with np.errstate(divide="ignore"):
        return np.log(number)


def _newton(step: Callable[[Numbers], Numbers], x: Numbers) -> Numbers:
    """Newton's method on every draw at once, until none moves by more than rounding; nan stays nan."""
    with np.errstate(invalid="ignore"):
        for _ in range(NEWTON_STEPS):
            change = step(x)
            x = x - change
            if not np.any(np.abs(change) > 1e-14 * np.maximum(1.0, np.abs(x))):
                break
    return x


@cache
def _aspect_ratios() -> tuple[Array, Array]:
    """Width over layers by the logarithm of the body's weights, densely enough to interpolate."""
    log_body = np.linspace(math.log(SMALLEST_MODEL) - 3, math.log(LARGEST_MODEL) + 3, 512)
    return log_body, np.array([aspect_ratio(math.exp(x)) for x in log_body])
