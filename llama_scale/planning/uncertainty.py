"""The law's draws carried through to the answer: intervals, and the model that is best on average."""

from __future__ import annotations

import numpy as np

from llama_scale.laws import Numbers, Prediction, Range, central_range, least_draws
from llama_scale.laws.repeated import RepeatedDataLaw
from llama_scale.planning.batches import count_of
from llama_scale.planning.families import Family, coordinate_of
from llama_scale.planning.optimum import Problem, Solution, best, lowest_cost, tokens_for
from llama_scale.planning.quantisation import QuantisedLaw
from llama_scale.planning.request import Request
from llama_scale.planning.values import BestOnAverage, Intervals, PlannedModel

MOST_DRAWS = 1000  # enough for a 90 % interval whose ends move by about 2 % of its width between batches
SPREAD, SIZES = 10.0, 81  # tried for the best on average: within ten times the recommended, 6 % apart


def intervals(request: Request, problem: Problem, recommended: PlannedModel) -> Intervals | None:
    """Where the draws put the answer; None for a law without draws."""
    draws = request.draws(max(MOST_DRAWS, 2 * least_draws(request.level)))  # as many, though thinned by half
    if draws is None:
        return None
    drawn = problem.with_law(draws)
    solution = best(drawn, request.objective(draws), near=recommended.parameters)
    found = np.isfinite(solution.tokens)
    if not found.any():
        return None
    compute_optimal = lowest_cost(drawn.without_serving(), drawn.loss(solution))
    values = {
        "parameters": solution.sizes.parameters,
        "tokens": solution.tokens,
        "tokens_per_parameter": solution.tokens / solution.sizes.parameters,
        **_costs(request, problem.family, solution),
        "saving": 1 - drawn.cost(*solution) / drawn.cost(*compute_optimal),
    }
    ranges: dict[str, Range] = {}
    for name, value in values.items():
        known = np.asarray(value)[np.isfinite(value)]
        if known.size:
            ranges[name] = central_range(known, request.level)
    prediction = predicted(request, recommended.parameters, recommended.tokens)
    if prediction.low is not None and prediction.high is not None:
        ranges["loss_nats"] = Range(float(prediction.low), float(prediction.high))
    return Intervals(level=request.level, draws=found.size, ranges=ranges, unreached=float(1 - found.mean()))


def predicted(request: Request, parameters: float, tokens: float) -> Prediction:
    """The loss of one run under the fit, repeats and quantisation counted, and where it should land."""
    law, extra = request.law, 0.0
    if isinstance(law, QuantisedLaw):
        law, extra = law.trained, float(law.penalty.loss(parameters, tokens))
    if isinstance(law, RepeatedDataLaw):
        parameters, tokens = float(law.effective_parameters(parameters)), float(law.effective_tokens(tokens))
    found = request.fit.predict(parameters, tokens, level=request.level)
    if not extra:
        return found
    low, high = (None if end is None else end + extra for end in (found.low, found.high))
    return Prediction(loss=found.loss + extra, low=low, high=high, level=found.level)


def best_on_average(request: Request, problem: Problem, recommended: PlannedModel) -> BestOnAverage | None:
    """The size of lowest expected loss, or of lowest expected cost of reaching the target, over the draws.

    Every size is trained until it is on the budget, or until it reaches the target under that draw. None
    for a law without draws, or where no size near the recommended one reaches the target under every draw.
    """
    draws = request.draws(MOST_DRAWS)
    if draws is None:
        return None
    centre = coordinate_of(problem.family, recommended.parameters)
    steps = np.linspace(-np.log(SPREAD), np.log(SPREAD), SIZES)
    sizes = problem.sizes((centre + steps)[:, None])
    drawn, objective = problem.with_law(draws), request.objective(draws)
    tokens = tokens_for(drawn, objective, sizes)
    by_draw = (
        draws.loss(sizes.parameters, tokens) if objective.fixed == "budget" else drawn.cost(sizes, tokens)
    )
    by_draw = np.broadcast_to(by_draw, (SIZES, count_of(draws)))
    expected, ours = np.mean(by_draw, axis=1), SIZES // 2
    if not np.isfinite(expected).any():
        return None
    index = int(np.nanargmin(expected))
    if index in (0, SIZES - 1):
        return None
    unreached = float(np.mean(np.isnan(by_draw[ours])))
    gained = expected[ours] - expected[index]
    advantage = gained if objective.fixed == "budget" else gained / expected[ours]
    parameters = recommended.parameters if index == ours else np.ravel(sizes.parameters)[index]
    by_size = np.sort(np.broadcast_to(tokens, by_draw.shape)[index])
    return BestOnAverage(
        parameters=float(parameters),
        tokens=float(by_size[by_size.size // 2]),  # np.median would import numpy.ma for 50 ms
        advantage=None if unreached else float(advantage),
        unreached=unreached,
    )


def _costs(request: Request, family: Family, solution: Solution) -> dict[str, Numbers]:
    """Training, serving and total costs of each draw's optimum, in every unit that has a price."""
    costs: dict[str, Numbers] = {}
    for unit in request.economics.units:
        problem = request.in_unit(unit).problem().on(family)
        train = problem.train_rate * solution.sizes.train_flops_per_token * solution.tokens
        serve = problem.serving_cost(solution.sizes)
        costs |= {f"train_{unit}": train, f"serve_{unit}": serve, f"total_{unit}": train + serve}
    return costs
