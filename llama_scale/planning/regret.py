"""What it costs to have planned for another demand than the one that comes."""

from __future__ import annotations

import math
from dataclasses import replace

from llama_scale.costs import Spread
from llama_scale.planning.optimum import Objective, Problem, Solution, best
from llama_scale.planning.values import Regret, RegretRow


def regret(problem: Problem, spread: Spread, at_loss: Objective, optimum: Solution) -> Regret:
    """Plans of equal quality for four demands, each judged at all of them.

    The cost of a model is linear in the demand, so that the best plan for the mean is the plan of least
    expected cost. Where, to rounding, the optimum alone reaches the loss within the limits, it is every plan.
    """
    demands = (("low", spread.low), ("median", spread.median), ("mean", spread.mean), ("high", spread.high))
    problems = [replace(problem, serve_tokens=tokens) for _, tokens in demands]
    found = [best(asked, at_loss) for asked in problems]
    plans = [optimum if math.isnan(float(plan.tokens)) else plan for plan in found]
    costs = [[float(asked.cost(*plan)) for asked in problems] for plan in plans]
    least = [costs[i][i] for i in range(len(demands))]
    rows = (
        _row(name, plan, [cost / lowest - 1 for cost, lowest in zip(line, least, strict=True)])
        for (name, _), plan, line in zip(demands, plans, costs, strict=True)
    )
    return Regret(demands, float(at_loss.value), tuple(rows))


def _row(name: str, plan: Solution, regrets: list[float]) -> RegretRow:
    return RegretRow(name, float(plan.sizes.parameters), float(plan.tokens), tuple(regrets))
