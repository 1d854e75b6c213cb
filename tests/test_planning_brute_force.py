"""Any law, any price, any limit: the engine's answer against one worked out by hand on a grid."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from drawn import drawn_fit
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_scale.costs.formats import serve_in
from llama_scale.costs.serving import Deployment, serve
from llama_scale.laws import Numbers, ScalingLaw
from llama_scale.laws.repeated import MUENNIGHOFF_REPETITION, RepeatedDataLaw
from llama_scale.planning.batches import Law
from llama_scale.planning.families import (
    LARGEST_MODEL,
    LOG_SIZES,
    Array,
    ExactFamily,
    Family,
    SixNDFamily,
    coordinate_of,
)
from llama_scale.planning.optimum import Limits, Objective, Problem, Solution, best, lowest_cost, lowest_loss
from llama_scale.planning.serving import RooflineServing, largest_servable

SARDANA = ScalingLaw(E=1.69, A=406.4, B=410.7, alpha=0.336, beta=0.283)


def problem(serve_tokens: Numbers, law: Law = SARDANA, **others: Any) -> Problem:
    return Problem(**{"law": law, "family": SixNDFamily(), "serve_tokens": serve_tokens, **others})


def numbers(asked: Problem, solution: Solution) -> tuple[float, float, float, float]:
    """N, D, loss and cost."""
    parts = solution.sizes.parameters, solution.tokens, asked.loss(solution), asked.cost(*solution)
    return tuple(float(part) for part in parts)  # pyright: ignore[reportReturnType]


def deployment(chip: str, weights: str, lengths: tuple[float, float], **others: Any) -> Deployment:
    served = serve_in(chip, weights)
    return Deployment(
        rental=served.rental,
        weight_bits=served.weight_bits,
        kv_bits=8 if served.weight_bits < 16 else 16,
        input_tokens=lengths[0],
        output_tokens=lengths[1],
        **others,
    )


def roofline(served: Deployment, family: Family) -> RooflineServing:
    return RooflineServing(deployment=served, family=family, rate=3 / 3600)


laws = st.builds(
    ScalingLaw,
    E=st.floats(0.5, 3),
    A=st.floats(5, 5000),
    B=st.floats(5, 5000),
    alpha=st.floats(0.15, 0.7),
    beta=st.floats(0.15, 0.7),
    k=st.one_of(st.just(1.0), st.floats(0.3, 1.5)),
)
deployments = st.builds(
    deployment,
    chip=st.sampled_from(["H100", "A100-80", "B200", "L40S"]),
    weights=st.sampled_from(["bf16", "int8", "int4"]),
    lengths=st.sampled_from([(1000.0, 250.0), (100.0, 4000.0), (8000.0, 100.0)]),
    utilisation=st.sampled_from([1.0, 0.3]),
    time_per_output_token_seconds=st.sampled_from([None, None, 0.02]),
)
families = st.sampled_from([SixNDFamily(), ExactFamily(convention="total")])
any_laws = st.one_of(
    laws,
    st.builds(
        RepeatedDataLaw,
        law=laws,
        unique_tokens=st.floats(9, 13).map(lambda power: 10.0**power),
        repetition=st.just(MUENNIGHOFF_REPETITION),
    ),
)
any_limits = st.builds(
    Limits,
    train_flops=st.sampled_from([math.inf, math.inf, 1e21, 1e23]),
    parameters=st.sampled_from([math.inf, math.inf, 7e9]),
)


def by_hand(asked: Problem, aim: Objective) -> tuple[float, float]:
    """The best size of 6,000 and its loss or cost, worked out without the engine's own conditions."""
    sizes = asked.family.sizes(np.linspace(*LOG_SIZES, 6000), shaped=True)
    assert sizes.shape is not None
    n, flops = np.asarray(sizes.parameters), np.asarray(sizes.train_flops_per_token)
    token = np.asarray(sizes.serve_flops_per_token, float)
    if isinstance(asked.serving, RooflineServing):
        token = (
            asked.serving.rate * serve(asked.serving.deployment, sizes.shape).accelerator_seconds_per_token
        )
    served = asked.serve_tokens * token if asked.serve_tokens else 0.0
    if aim.fixed == "budget":
        affordable = (aim.value - served) / (asked.train_rate * flops)
        d = np.minimum(affordable, aim.limits.train_flops / flops)
        value = np.where(d > 0, asked.law.loss(n, np.where(d > 0, d, 1.0)), np.inf)
    else:
        d = least_tokens(asked.law, n, float(np.asarray(aim.value)))
        value = asked.train_rate * flops * d + served
        value = np.where(flops * d <= aim.limits.train_flops, value, np.inf)
    value = np.where(np.isnan(value) | (n > aim.limits.parameters), np.inf, value)
    return float(n[value.argmin()]), float(value.min())


def least_tokens(law: Law, n: Array, loss: float) -> Array:
    """The fewest tokens that reach a loss, by bisection on the loss alone; inf where none do."""
    low, high = np.full(n.shape, -5.0), np.full(n.shape, 80.0)
    reached = law.loss(n, np.exp(high)) <= loss
    for _ in range(100):
        middle = (low + high) / 2
        enough = law.loss(n, np.exp(middle)) <= loss
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(reached, np.exp(high), np.inf)


def assert_best(asked: Problem, aim: Objective) -> None:
    """The engine's answer is never beaten by hand, nor better than what it says of itself."""
    solution = best(asked, aim)
    found, value = by_hand(asked, aim)
    if math.isinf(value):
        assert math.isnan(float(solution.tokens)) or not LOG_SIZES[0] < math.log(found) < LOG_SIZES[1]
        return
    n, d, loss, cost = numbers(asked, solution)
    assert (loss if aim.fixed == "budget" else cost) <= value * (1 + 1e-6)
    assert n <= aim.limits.parameters * (1 + 1e-9)
    assert d * float(solution.sizes.train_flops_per_token) <= aim.limits.train_flops * (1 + 1e-9)
    if aim.fixed == "budget":
        assert cost <= float(aim.value) * (1 + 1e-6)
    else:
        assert loss == pytest.approx(float(aim.value), rel=1e-7)


@given(
    law=any_laws,
    family=families,
    served=st.one_of(st.none(), deployments),
    limits=any_limits,
    log_demand=st.one_of(st.just(-math.inf), st.floats(8, 14)),
    log_budget=st.floats(20, 26),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_every_budget_is_spent_as_by_brute_force(
    law: Law,
    family: Family,
    served: Deployment | None,
    limits: Limits,
    log_demand: float,
    log_budget: float,
) -> None:
    asked = problem(10**log_demand, law=law, family=family)
    budget = 10**log_budget
    if served is not None:  # dollars: about 1e-18 for a FLOP of training
        asked = replace(asked, train_rate=1e-18, serving=roofline(served, family))
        budget *= 1e-18
    assert_best(asked, Objective("budget", budget, limits))


@given(
    law=any_laws,
    family=families,
    served=st.one_of(st.none(), deployments),
    limits=any_limits,
    log_demand=st.one_of(st.just(-math.inf), st.floats(8, 14)),
    room=st.floats(0.05, 1.5),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_every_target_is_reached_as_by_brute_force(
    law: Law, family: Family, served: Deployment | None, limits: Limits, log_demand: float, room: float
) -> None:
    asked = problem(10**log_demand, law=law, family=family)
    if served is not None:
        asked = replace(asked, train_rate=1e-18, serving=roofline(served, family))
    floor = law.E if isinstance(law, ScalingLaw) else law.law.E
    assert_best(asked, Objective("loss", floor + room, limits))


def test_draws_under_the_roofline_are_solved_together_as_they_are_alone() -> None:
    fit = drawn_fit()
    assert fit.draws is not None
    family, served = SixNDFamily(), deployment("H100", "bf16", (1000.0, 250.0))
    for draws in (fit.draws, fit.repeated_draws(3e11)):
        assert draws is not None
        asked = problem(1e12, draws, family=family, train_rate=1e-18, serving=roofline(served, family))
        for aim in (Objective("budget", 2e6), Objective("loss", 2.0), Objective("budget", 2e6, Limits(3e23))):
            together = best(asked, aim)
            for index in (0, 99, 199):
                alone = asked.with_law(draws.at(index))
                ours = alone.cost(*best(alone, aim)), alone.loss(best(alone, aim))
                theirs = Solution(
                    alone.family.sizes(np.log(np.asarray(together.sizes.parameters)[index])),
                    np.asarray(together.tokens)[index],
                )
                assert float(alone.cost(*theirs)) == pytest.approx(float(ours[0]), rel=2e-5)
                assert float(alone.loss(theirs)) == pytest.approx(float(ours[1]), rel=1e-6)


def test_many_questions_are_answered_in_parts_as_they_are_one_by_one() -> None:
    family = ExactFamily(convention="total")
    budgets, demands = np.meshgrid(np.geomspace(1e20, 1e26, 50), np.geomspace(1e9, 1e14, 50))
    asked = problem(demands, family=family)
    whole = best(asked, Objective("budget", budgets))
    for at in ((0, 0), (17, 31), (49, 49)):
        alone = best(replace(asked, serve_tokens=demands[at]), Objective("budget", budgets[at]))
        one = np.asarray(whole.sizes.parameters)[at]
        assert one == pytest.approx(float(alone.sizes.parameters), rel=1e-4, nan_ok=True)


def test_budget_and_loss_are_duals_under_the_roofline_too() -> None:
    family, served = SixNDFamily(), deployment("H100", "bf16", (1000.0, 250.0))
    asked = problem(1e12, family=family, train_rate=1e-18, serving=roofline(served, family))
    for budget in (1e5, 2e6, 1e8):
        n, _, loss, cost = numbers(asked, lowest_loss(asked, budget))
        back = numbers(asked, lowest_cost(asked, loss))
        assert cost == pytest.approx(budget, rel=1e-9)
        assert back[3] == pytest.approx(cost, rel=1e-6)
        assert back[0] == pytest.approx(n, rel=1e-2)


def test_serving_makes_models_smaller_under_the_roofline_too() -> None:
    family, served = SixNDFamily(), deployment("H100", "bf16", (1000.0, 250.0))
    demands = np.concatenate([[0.0], np.geomspace(1e9, 1e14, 16)])
    asked = problem(demands, family=family, train_rate=1e-18, serving=roofline(served, family))
    n = np.asarray(lowest_cost(asked, 2.0).sizes.parameters)
    chinchilla = float(lowest_cost(problem(0.0), 2.0).sizes.parameters)
    assert n[0] == pytest.approx(chinchilla, rel=1e-4)
    assert np.all(np.diff(n) <= 1e-4 * n[:-1])
    assert n[-1] < 0.5 * n[0]


def test_smaller_than_optimal_costs_what_de_vries_says() -> None:
    """Training compute at equal loss with 3/4 and 1/2 of the optimal size: + 2.8 % and + 20.8 %."""
    n, d, loss, cost = numbers(problem(0.0), lowest_loss(problem(0.0), 1e23))
    for share, overhead in ((0.75, 0.028), (0.5, 0.208)):
        tokens = float(SARDANA.tokens_for_loss(loss, share * n))
        assert 6 * share * n * tokens / cost - 1 == pytest.approx(overhead, abs=6e-4)
    assert d > 0


@pytest.mark.parametrize(
    "family", [SixNDFamily(), ExactFamily(convention="non_embedding")], ids=["6nd", "exact"]
)
@pytest.mark.parametrize(
    "limit",
    [{"most_accelerators": 1}, {"most_accelerators": 8, "time_per_output_token_seconds": 0.02}],
    ids=["memory", "latency"],
)
def test_the_largest_size_that_is_served_is_where_halving_finds_it(limit: Any, family: Family) -> None:
    served = deployment("H100", "bf16", (1000, 250), **limit)

    def is_served(log_parameters: float) -> bool:
        sizes = family.sizes(coordinate_of(family, math.exp(log_parameters)), shaped=True)
        assert sizes.shape is not None
        return bool(np.isfinite(serve(served, sizes.shape).accelerator_seconds_per_token))

    low, high = math.log(1e8), math.log(1e13)
    assert is_served(low) and not is_served(high)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if is_served(middle) else (low, middle)
    found = largest_servable(served, family)
    assert math.exp(low) * (1 - 3e-6) < found <= math.exp(low) * (1 + 1e-9)
    alone = roofline(served, family)
    assert np.isfinite(alone.cost_per_token(family.sizes(coordinate_of(family, found))))
    assert np.isnan(alone.cost_per_token(family.sizes(coordinate_of(family, found * 1.00001))))


def test_what_serves_every_size_serves_the_largest_and_what_serves_none_nothing() -> None:
    ample = replace(deployment("B200", "int4", (1000, 250), most_accelerators=1024), weight_bits=1)
    assert largest_servable(ample, SixNDFamily()) == pytest.approx(LARGEST_MODEL)
    slow = deployment("L40S", "bf16", (1000, 250), time_per_output_token_seconds=1e-9)
    assert largest_servable(slow, SixNDFamily()) == 0
    assert np.isnan(roofline(slow, SixNDFamily()).cost_per_token(SixNDFamily().sizes(math.log(1e9))))
