from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from drawn import drawn_fit
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llama_scale.architecture import CONVENTIONS, LLAMA_13B, ParameterConvention, nearest_shape
from llama_scale.laws import Numbers, ScalingLaw
from llama_scale.laws.repeated import RepeatedDataLaw
from llama_scale.planning.batches import floor_of
from llama_scale.planning.families import LOG_SIZES, Array, ExactFamily, SixNDFamily
from llama_scale.planning.optimum import (
    MOST_TOGETHER,
    Objective,
    Problem,
    Solution,
    cheap_ranges,
    lowest_cost,
    lowest_loss,
    tokens_for,
)
from llama_scale.planning.quantisation import Penalty, QuantisedLaw
from llama_scale.planning.search import COARSE_POINTS, WINDOW, minimise
from llama_scale.planning.serving import FlopServing

SARDANA = ScalingLaw(E=1.69, A=406.4, B=410.7, alpha=0.336, beta=0.283)
BESIROGLU = ScalingLaw(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)


def problem(serve_tokens: Numbers, law: ScalingLaw = SARDANA, **others: Any) -> Problem:
    return Problem(**{"law": law, "family": SixNDFamily(), "serve_tokens": serve_tokens, **others})


def numbers(asked: Problem, solution: Solution) -> tuple[float, float, float, float]:
    """N, D, loss and cost."""
    parts = solution.sizes.parameters, solution.tokens, asked.loss(solution), asked.cost(*solution)
    return tuple(float(part) for part in parts)  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize(
    ("law", "budget", "serve_tokens", "parameters", "tokens", "loss"),
    [
        (SARDANA, 1e24, 0, 5.368e10, 3.105e12, 1.91061),
        (SARDANA, 1e24, 1e12, 4.429e10, 3.430e12, 1.91402),
        (SARDANA, 1e21, 0, 2.282e9, 7.304e10, 2.32750),
        (SARDANA, 1e21, 1e10, 2.089e9, 7.646e10, 2.33184),
        (SARDANA, 1e21, 1e11, 1.254e9, 9.957e10, 2.36338),
        (BESIROGLU, 1e23, 1e12, 1.493e10, 7.828e11, 2.04968),
    ],
)
def test_lowest_loss_on_a_budget(
    law: ScalingLaw, budget: float, serve_tokens: float, parameters: float, tokens: float, loss: float
) -> None:
    asked = problem(serve_tokens, law)
    n, d, reached, cost = numbers(asked, lowest_loss(asked, budget))
    assert (n, d, reached) == pytest.approx((parameters, tokens, loss), rel=4e-4)
    assert reached == pytest.approx(loss, abs=6e-6)
    assert cost == pytest.approx(budget, rel=1e-12)


def test_the_training_share_of_a_budget() -> None:
    asked = problem(1e12)
    solution = lowest_loss(asked, 1e24)
    assert 6 * solution.sizes.parameters * solution.tokens / 1e24 == pytest.approx(0.911, abs=5e-4)


@pytest.mark.parametrize(
    ("compute_optimal", "serve_tokens", "parameters", "tokens", "saved", "share"),
    [(13e9, 2e12, 6.969e9, 1.248e12, 1.69e22, 0.174), (30e9, 1e13, 1.361e10, 4.426e12, None, 0.280)],
)
def test_the_quality_of_a_chinchilla_model(
    compute_optimal: float,
    serve_tokens: float,
    parameters: float,
    tokens: float,
    saved: float | None,
    share: float,
) -> None:
    asked = problem(serve_tokens)
    exponent = 1 / float(SARDANA.exponent_a)
    flops = 6 * (compute_optimal / float(SARDANA.compute_optimum(6).parameters)) ** exponent
    d = flops / 6 / compute_optimal
    n, found, _, cost = numbers(asked, lowest_cost(asked, SARDANA.loss(compute_optimal, d)))
    before = flops + 2 * compute_optimal * serve_tokens
    assert (n, found) == pytest.approx((parameters, tokens), rel=4e-4)
    assert 1 - cost / before == pytest.approx(share, abs=6e-4)
    assert saved is None or before - cost == pytest.approx(saved, rel=3e-3)


def test_a_fixed_loss() -> None:
    asked = problem(2e12)
    n, d, _, cost = numbers(asked, lowest_cost(asked, 1.947))
    theirs = lowest_cost(asked.without_serving(), 1.947)
    n0, d0, _, cost0 = numbers(asked, theirs)
    assert (n, d, cost) == pytest.approx((2.418e10, 2.657e12, 4.823e23), rel=3e-4)
    assert (n0, d0, cost0) == pytest.approx((3.408e10, 1.810e12, 5.065e23), rel=3e-4)
    assert (n / n0, d / d0, cost / cost0) == pytest.approx((0.7096, 1.4677, 0.9522), abs=6e-5)


laws = st.builds(
    ScalingLaw,
    E=st.floats(0.5, 3),
    A=st.floats(5, 5000),
    B=st.floats(5, 5000),
    alpha=st.floats(0.15, 0.7),
    beta=st.floats(0.15, 0.7),
    k=st.one_of(st.just(1.0), st.floats(0.3, 1.5)),
)
problems = st.builds(
    problem,
    serve_tokens=st.one_of(st.just(0.0), st.floats(6, 15).map(lambda power: 10.0**power)),
    law=laws,
    serving=st.builds(FlopServing, rate=st.floats(0.05, 20)),
)


def brute_force(asked: Problem, value: float, best: float, *, budget: bool) -> tuple[float, float]:
    """The best of 20,001 sizes around `best`: its N, and the loss or the cost there."""
    sizes = asked.family.sizes(np.log(best) + np.linspace(-2, 2, 20_001))
    if budget:
        objective = asked.law.loss(sizes.parameters, tokens_for(asked, Objective("budget", value), sizes))
    else:
        objective = asked.cost(sizes, asked.law.tokens_for_loss(value, sizes.parameters))
    index = int(np.nanargmin(objective))
    return float(np.asarray(sizes.parameters)[index]), float(np.asarray(objective)[index])


@given(asked=problems, log_budget=st.floats(18, 27))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_every_budget_optimum_equals_brute_force(asked: Problem, log_budget: float) -> None:
    n, d, loss, cost = numbers(asked, lowest_loss(asked, 10**log_budget))
    assume(1e3 < n < 1e16)
    assert cost == pytest.approx(10**log_budget, rel=1e-9)
    found, lowest = brute_force(asked, 10**log_budget, n, budget=True)
    assert loss <= lowest * (1 + 1e-12)
    assert found == pytest.approx(n, rel=1e-3)
    assert d > 0


@given(asked=problems, room=st.floats(0.02, 2))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_every_loss_optimum_equals_brute_force_and_its_dual(asked: Problem, room: float) -> None:
    target = floor_of(asked.law) + room
    n, d, loss, cost = numbers(asked, lowest_cost(asked, target))
    assume(1e3 < n < 1e16)
    assert loss == pytest.approx(target, rel=1e-9)
    found, lowest = brute_force(asked, target, n, budget=False)
    assert cost <= lowest * (1 + 1e-9)
    assert found == pytest.approx(n, rel=1e-3)
    assert numbers(asked, lowest_loss(asked, cost)) == pytest.approx((n, d, loss, cost), rel=1e-6)


@given(
    law=laws,
    convention=st.sampled_from(CONVENTIONS),
    log_budget=st.floats(19, 26),
    serve_tokens=st.floats(0, 1e13),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_exact_optimum_equals_brute_force(
    law: ScalingLaw, convention: ParameterConvention, log_budget: float, serve_tokens: float
) -> None:
    family = ExactFamily(convention=convention, context=2048)
    asked = problem(serve_tokens, law, family=family)
    n, _, loss, cost = numbers(asked, lowest_loss(asked, 10**log_budget))
    assume(1e6 < n < 1e14)
    sizes = family.sizes(np.linspace(math.log(1e3), math.log(1e16), 20_001))
    losses = law.loss(sizes.parameters, tokens_for(asked, Objective("budget", 10**log_budget), sizes))
    assert loss <= np.nanmin(losses) * (1 + 1e-9)
    assert cost == pytest.approx(10**log_budget)
    back = numbers(asked, lowest_cost(asked, loss))
    assert back[3] == pytest.approx(cost, rel=1e-6)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("shape", [LLAMA_13B, nearest_shape(1.5e8), nearest_shape(4e11)])
def test_the_exact_continuum_runs_through_real_shapes(convention: ParameterConvention, shape: Any) -> None:
    family = ExactFamily(convention=convention, context=shape.context)
    real = family.size_of(shape)
    smooth = family.sizes(np.linspace(5, 35, 20_001))
    train = np.interp(
        real.parameters, np.asarray(smooth.parameters), np.asarray(smooth.train_flops_per_token)
    )
    assert train == pytest.approx(real.train_flops_per_token, rel=0.02)


def test_no_serving_is_chinchilla() -> None:
    budgets = np.geomspace(1e17, 1e27, 21)
    for law in (SARDANA, BESIROGLU):
        solution = lowest_loss(problem(0.0, law), budgets)
        closed = law.compute_optimum(budgets)
        np.testing.assert_allclose(solution.sizes.parameters, closed.parameters, rtol=1e-10)
        np.testing.assert_allclose(solution.tokens, closed.tokens, rtol=1e-10)


@given(law=laws, log_budget=st.floats(19, 26))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_more_serving_means_smaller_models_trained_on_more(law: ScalingLaw, log_budget: float) -> None:
    demands = np.concatenate([[0.0], np.geomspace(1e8, 1e14, 25)])
    on_budget = lowest_loss(problem(demands, law), 10**log_budget)
    at_loss = lowest_cost(problem(demands, law), law.E + 0.3)
    for falling in (on_budget.sizes.parameters, at_loss.sizes.parameters, 1 / at_loss.tokens):
        ratios = np.asarray(falling)[1:] / np.asarray(falling)[:-1]
        assert np.all(ratios <= 1 + 1e-9)  # demands too small to matter change nothing but rounding
    matters = 0.01 * np.asarray(on_budget.tokens)[0] < 1e14
    assert (
        np.asarray(on_budget.sizes.parameters)[-1] < np.asarray(on_budget.sizes.parameters)[0] or not matters
    )


def test_draws_are_solved_together_as_they_are_alone() -> None:
    draws = drawn_fit().draws
    assert draws is not None
    for family in (SixNDFamily(), ExactFamily(convention="total", context=2048)):
        asked = problem(1e12, draws, family=family)
        together = lowest_loss(asked, 1e24)
        for index in (0, 17, 199):
            alone = lowest_loss(asked.with_law(draws.at(index)), 1e24)
            assert np.asarray(together.sizes.parameters)[index] == pytest.approx(
                float(alone.sizes.parameters), rel=1e-5
            )


def repeated(law: ScalingLaw) -> RepeatedDataLaw:
    return RepeatedDataLaw(law=law, unique_tokens=1e11)


@pytest.mark.parametrize(
    "law_of",
    [repeated, lambda law: QuantisedLaw(trained=repeated(law), penalty=Penalty(bits=4))],
    ids=["repeated", "quantised"],
)
def test_many_demands_of_many_draws_are_each_their_own_question(law_of: Any) -> None:
    draws = drawn_fit().draws
    assert draws is not None
    demands = np.geomspace(1e9, 1e15, 6)
    assert demands.size * np.size(draws.E) > MOST_TOGETHER
    together = np.asarray(lowest_loss(problem(demands[:, None], law_of(draws)), 1e24).sizes.parameters)
    for index, demand in enumerate(demands):
        alone = lowest_loss(problem(demand, law_of(draws)), 1e24).sizes.parameters
        np.testing.assert_allclose(together[index], alone, rtol=1e-5)


def test_impossible_losses_are_nan() -> None:
    for family in (SixNDFamily(), ExactFamily(convention="total", context=2048)):
        solution = lowest_cost(problem(1e12, family=family), np.array([1.5, 1.69, 1.95]))
        assert np.isnan(solution.tokens).tolist() == [True, True, False]


def test_cheap_range_is_where_the_cost_is_within_its_excess() -> None:
    for family in (SixNDFamily(), ExactFamily(convention="total", context=2048)):
        asked = problem(2e12, family=family)
        cheapest = lowest_cost(asked, 1.947)
        least, about = float(asked.cost(*cheapest)), float(cheapest.sizes.parameters)
        excesses = (0.01, 0.05)
        found = cheap_ranges(asked, Objective("loss", 1.947), excesses, about)
        for excess, edges in zip(excesses, found, strict=True):
            for edge in edges:
                x = np.linspace(math.log(edge) - 3, math.log(edge) + 3, 100_001)
                sizes = family.sizes(x)
                costs = asked.cost(sizes, asked.law.tokens_for_loss(1.947, sizes.parameters))
                at_edge = np.interp(edge, np.asarray(sizes.parameters), np.asarray(costs))
                assert at_edge / least - 1 == pytest.approx(excess, rel=0.03)


@pytest.mark.parametrize("count", [3, 40], ids=["few", "many"])
@pytest.mark.parametrize("about", [None, math.log(1e9)], ids=["anywhere", "near"])
def test_a_lowest_point_is_found_to_within_1e_7_wherever_it_lies(count: int, about: float | None) -> None:
    """Also where `about` is far from those of some questions."""
    low, high = LOG_SIZES
    for least in (np.linspace(low + 1, high - 1, count), math.log(1e9) + np.linspace(-1, 1, count)):
        found = minimise(lambda x, at=least: np.abs(x - at), (count,), about=about)
        np.testing.assert_allclose(found, least, rtol=0, atol=1e-7)


@pytest.mark.parametrize("side", [-1, 1])
def test_a_lowest_point_just_outside_where_it_was_looked_for_is_found(side: int) -> None:
    about = math.log(1e9)
    for beyond in (0.02, 0.1, 8.0):
        least = about + side * (WINDOW + beyond)
        assert minimise(lambda x, at=least: (x - at) ** 2, (), about=about) == pytest.approx(least, abs=1e-6)


def test_what_is_possible_between_two_points_of_the_grid_is_found_at_an_edge() -> None:
    low, high = LOG_SIZES
    step = (high - low) / (COARSE_POINTS - 1)
    edge = np.array([low + 100.5 * step, low + 300 * step])

    def objective(x: Array) -> Array:
        """Falls up to the edge, and can be had for a hundredth of a step before it: by the first alone."""
        return np.where((x <= edge) & (x > edge - np.array([step / 100, 1.0])), -x, np.nan)

    assert np.isnan(minimise(objective, (2,))[0])
    np.testing.assert_allclose(minimise(objective, (2,), edges=[edge]), edge, rtol=0, atol=1e-7)
    assert np.isnan(minimise(lambda x: np.full_like(x, np.nan), (), edges=[edge[0]]))
