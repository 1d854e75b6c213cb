"""What the way of counting parameters and FLOPs does to the answer: the Kaplan-Chinchilla discrepancy.

Kaplan et al. 2020 count no embeddings in N or in C = 6ND, Hoffmann et al. 2022 count all; at small
sizes that alone moves the exponent a of N_opt by a tenth or more (Pearce & Song 2024, arXiv 2406.12907;
Porian et al. 2024, arXiv 2406.19146). So the law is fitted again under each way of counting that the runs
allow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from llama_scale.architecture import CONVENTIONS, ParameterConvention
from llama_scale.fitting.diagnostics import why_refused
from llama_scale.fitting.forms import CHINCHILLA, Form
from llama_scale.fitting.minima import Solution
from llama_scale.fitting.observations import SAME_6ND, Observations
from llama_scale.fitting.rows import Array, count_different
from llama_scale.frozen import frozen
from llama_scale.laws import FlopsAccounting, ScalingLaw

GRID = 4001  # sizes among which the best is sought where FLOPs are exact
STEP = 0.25  # of log C: the exponent there is that of the optimum from one step below to one above


@frozen
class Counting:
    """The best N (by its own convention) and D at a budget, when N and C are counted in this way.

    `unidentified` says why a law fitted to runs so counted is refused, None where it is not.
    """

    convention: ParameterConvention
    flops: FlopsAccounting
    used: bool
    exponent_a: float
    parameters: float
    tokens: float
    unidentified: str | None = None


def compare_countings(
    observations: Observations, solve: Callable[[Observations], Solution], form: Form = CHINCHILLA
) -> tuple[float, tuple[Counting, ...]]:
    """The largest run's FLOPs, and the optimum there under each way of counting; () where there is but one.

    `solve` fits a law of `form` to runs. Exponents are those at that budget: with exact FLOPs they vary with
    it.
    """
    budget = float(observations.train_flops.max())
    ways: list[tuple[ParameterConvention, FlopsAccounting]] = [
        (convention, flops) for convention in CONVENTIONS for flops in _accountings(observations, convention)
    ]
    if len(ways) < 2:
        return budget, ()
    solutions: dict[ParameterConvention, Solution] = {}
    found = []
    for convention, flops in ways:
        runs = replace(observations, parameters=observations.counts[convention], convention=convention)
        solution = solutions.get(convention) or solutions.setdefault(convention, solve(runs))
        law = solution.law
        best = _exact(law, runs, budget) if flops == "exact" else _six_nd(law, budget)
        used = convention == observations.convention and flops == observations.flops_accounting
        refused = why_refused(solution.at_bound, solution.agreed, solution.starts, form)
        found.append(Counting(convention=convention, flops=flops, used=used, unidentified=refused, **best))
    return budget, tuple(found)


def _accountings(observations: Observations, convention: ParameterConvention) -> tuple[FlopsAccounting, ...]:
    """6ND for every convention that the runs know; exact FLOPs for the one in use, where they are not 6ND."""
    if convention not in observations.counts:
        return ()
    flops, counts = observations.source_flops, observations.counts[convention]
    if convention != observations.convention or np.isnan(flops).any():
        return ("6nd",)
    same = np.all(np.abs(flops / (6 * counts * observations.tokens) - 1) < SAME_6ND)
    return ("6nd",) if same else ("6nd", "exact")


def _six_nd(law: ScalingLaw, budget: float) -> dict[str, float]:
    parameters, tokens = law.compute_optimum(budget)
    return {"exponent_a": float(law.exponent_a), "parameters": float(parameters), "tokens": float(tokens)}


def _exact(law: ScalingLaw, runs: Observations, budget: float) -> dict[str, float]:
    """The best N where a token costs what it cost in the runs: log FLOPs a token is a parabola in log N.

    Far beyond the sizes of the runs it grows as N: many a sweep of small models, long trained, has its best
    there.
    """
    logs = np.log(runs.parameters)
    centre = float(logs.mean())
    degree = min(2, count_different(np.round(logs, 2)) - 1)
    per_token = np.polyfit(logs - centre, np.log(runs.source_flops / runs.tokens), degree)
    by_6nd = float(np.log(law.compute_optimum(budget).parameters))
    grid = np.linspace(min(logs.min(), by_6nd) - 1, max(logs.max(), by_6nd) + 1, GRID)
    known = np.clip(grid, logs.min() - 1, logs.max() + 1)
    costs = np.polyval(per_token, known - centre) + (grid - known)
    best = [_best(law, grid, costs, np.log(budget) + step) for step in (-STEP, 0.0, STEP)]
    return {
        "exponent_a": (best[2][0] - best[0][0]) / (2 * STEP),
        "parameters": float(np.exp(best[1][0])),
        "tokens": float(np.exp(best[1][1])),
    }


def _best(law: ScalingLaw, log_sizes: Array, log_costs: Array, log_budget: float) -> tuple[float, float]:
    """Log N and log D of lowest loss, refined between grid points by a parabola."""
    log_tokens = log_budget - log_costs
    losses = np.asarray(law.loss(np.exp(log_sizes), np.exp(log_tokens)))
    at = int(np.clip(losses.argmin(), 1, len(losses) - 2))
    before, here, after = losses[at - 1 : at + 2]
    bend = before - 2 * here + after
    shift = float(np.clip(0.5 * (before - after) / bend, -1, 1)) if bend > 0 else 0.0
    step = log_sizes[1] - log_sizes[0]
    slope = (log_tokens[at + 1] - log_tokens[at - 1]) / 2
    return float(log_sizes[at] + shift * step), float(log_tokens[at] + shift * slope)
