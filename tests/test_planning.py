from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llama_scale import plan
from llama_scale.architecture import CONVENTIONS, LLAMA_13B, ParameterConvention, nearest_shape
from llama_scale.errors import InfeasibleError, InputError
from llama_scale.laws import Fit, Numbers, ScalingLaw, published
from llama_scale.planning import Plan
from llama_scale.planning.optimum import (
    ExactFamily,
    FlopServing,
    Objective,
    Problem,
    SixNDFamily,
    Solution,
    cheap_range,
    lowest_cost,
    lowest_loss,
    tokens_for,
)
from llama_scale.planning.references import reference_model, reference_models
from llama_scale.quantities import Quantity

SARDANA = ScalingLaw(E=1.69, A=406.4, B=410.7, alpha=0.336, beta=0.283)
BESIROGLU = ScalingLaw(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
SARDANA_LINE = "E=1.69,A=406.4,B=410.7,alpha=.336,beta=.283"


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


def test_the_dollars_row_through_python() -> None:
    answer = plan(
        serve_tokens="12.5T",
        target_loss=1.947,
        law=SARDANA_LINE,
        accelerator="A100-80",
        price="$1.40/h",
        mfu=0.5,
        serve_accelerator="A100-40",
        serve_price="$0.60/h",
        serve_precision="int8",
        serve_mfu=(0.4, 0.2),
        input_share="80%",
    )
    assert answer.request.unit == "usd"
    assert answer.optimum.parameters == pytest.approx(2.053e10, rel=3e-4)
    assert answer.optimum.tokens == pytest.approx(3.302e12, rel=3e-4)
    assert answer.optimum.lifetime.total_usd == pytest.approx(1_425_060, rel=1e-6)
    assert answer.compute_optimal.lifetime.total_usd == pytest.approx(1_605_532, rel=1e-6)


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
@settings(max_examples=200, deadline=None)
def test_every_budget_optimum_equals_brute_force(asked: Problem, log_budget: float) -> None:
    n, d, loss, cost = numbers(asked, lowest_loss(asked, 10**log_budget))
    assume(1e3 < n < 1e16)
    assert cost == pytest.approx(10**log_budget, rel=1e-9)
    found, lowest = brute_force(asked, 10**log_budget, n, budget=True)
    assert loss <= lowest * (1 + 1e-12)
    assert found == pytest.approx(n, rel=1e-3)
    assert d > 0


@given(asked=problems, room=st.floats(0.02, 2))
@settings(max_examples=200, deadline=None)
def test_every_loss_optimum_equals_brute_force_and_its_dual(asked: Problem, room: float) -> None:
    target = float(asked.law.E) + room
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
@settings(max_examples=40, deadline=None)
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
@settings(max_examples=50, deadline=None)
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


def test_impossible_losses_are_nan() -> None:
    for family in (SixNDFamily(), ExactFamily(convention="total", context=2048)):
        solution = lowest_cost(problem(1e12, family=family), np.array([1.5, 1.69, 1.95]))
        assert np.isnan(solution.tokens).tolist() == [True, True, False]


def test_cheap_range_is_where_the_cost_is_within_its_excess() -> None:
    for family in (SixNDFamily(), ExactFamily(convention="total", context=2048)):
        asked = problem(2e12, family=family)
        least = float(asked.cost(*lowest_cost(asked, 1.947)))
        for excess in (0.01, 0.05):
            for edge in cheap_range(asked, 1.947, excess):
                x = np.linspace(math.log(edge) - 3, math.log(edge) + 3, 100_001)
                sizes = family.sizes(x)
                costs = asked.cost(sizes, asked.law.tokens_for_loss(1.947, sizes.parameters))
                at_edge = np.interp(edge, np.asarray(sizes.parameters), np.asarray(costs))
                assert at_edge / least - 1 == pytest.approx(excess, rel=0.03)


# --- the whole plan --------------------------------------------------------------------------------


def ask(**words: Any) -> Plan:
    """`plan` with words that a test makes up."""
    return plan(**words)


def drawn_fit(**changes: Any) -> Fit:
    """The default law with draws of our own making."""
    z = np.random.default_rng(0).normal(size=(3, 200))
    draws = ScalingLaw(
        E=1.8172 + 0.02 * z[0],
        A=482.01 * np.exp(0.2 * z[1]),
        B=2085.43 * np.exp(0.3 * z[2]),
        alpha=0.3478 + 0.01 * z[1],
        beta=0.3658 + 0.0135 * z[2],
    )
    return replace(published(), **{"name": "drawn", "draws": draws, "noise": 0.003, **changes})


def test_a_demand_alone_is_answered() -> None:
    answer = plan(serve_tokens="1e12")
    assert answer.request.fit.name == "besiroglu-2024"
    assert "our default budget" in answer.sentence
    assert answer.recommended.lifetime.total_flops == pytest.approx(1e24, rel=1e-9)
    assert answer.recommended.parameters == answer.shape.parameters.total
    assert answer.recommended.lifetime.total_usd is not None
    assert answer.extrapolation["train_flops"] > 50
    assert any("extrapolates" in warning for warning in answer.warnings)
    assert {other.law for other in answer.other_laws} >= {"hoffmann-2022", "muennighoff-2023"}


@pytest.mark.parametrize("budget", ["1e24", "$2M", "1M GPU-hours", 1e21])
def test_a_budget_is_spent_whole_and_never_beaten(budget: str | float) -> None:
    answer = plan(serve_tokens=1e12, budget=budget, law=SARDANA_LINE)
    spent = answer.request.budget
    assert spent is not None
    assert answer.recommended.lifetime.total(answer.request.unit) == pytest.approx(spent.value, rel=1e-9)
    assert -1e-9 < answer.gap.loss_nats < 2e-3
    assert 0 <= answer.gap.cost < 0.005
    on_budget = answer.compute_optimal_on_budget
    assert on_budget is not None
    assert on_budget.lifetime.total(answer.request.unit) == pytest.approx(spent.value, rel=1e-9)
    assert on_budget.loss_nats > answer.recommended.loss_nats
    assert answer.compute_optimal.loss_nats == pytest.approx(answer.recommended.loss_nats)
    assert answer.saving.share > 0


@pytest.mark.parametrize("flops", ["6nd", "exact"])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_laws_of_every_convention(flops: str, convention: ParameterConvention) -> None:
    fit = replace(published("hoffmann-2022-sardana"), name="mine", convention=convention)
    answer = plan(serve_tokens=1e10, budget=1e21, law=fit, flops=flops)
    shape = answer.shape
    assert answer.recommended.parameters == shape.parameters.by(convention)
    assert abs(answer.gap.parameters) < 0.03
    assert abs(answer.gap.cost) < 0.01
    a_token = shape.train_flops_per_token() if flops == "exact" else 6 * shape.parameters.by(convention)
    assert answer.recommended.lifetime.train_flops == pytest.approx(a_token * answer.recommended.tokens)
    assert answer.recommended.lifetime.total_flops == pytest.approx(1e21)


def test_matching_a_model_means_its_loss_under_the_law() -> None:
    answer = plan(serve_tokens="2T", match="llama-13b", law=SARDANA_LINE)
    assert answer.recommended.loss_nats == pytest.approx(float(SARDANA.loss(13e9, 1e12)))
    assert answer.limits[0].name == "quality of llama-13b"
    assert answer.recommended.parameters < answer.compute_optimal.parameters
    non_embedding = replace(published(), convention="non_embedding")
    other = plan(serve_tokens="2T", match="llama-13b", law=non_embedding)
    expected = BESIROGLU.loss(LLAMA_13B.parameters.non_embedding, 1e12)
    assert other.recommended.loss_nats == pytest.approx(float(expected))


def test_reference_models_are_counted_by_every_convention() -> None:
    assert reference_model("LLaMA 13B").count("matmul") == LLAMA_13B.parameters.matmul
    assert reference_model("gpt-3").name == "gpt-3-175b"
    for model in reference_models():
        total, matmul, body = (model.count(convention) for convention in ("total", "matmul", "non_embedding"))
        assert body < matmul < total * 1.01
        assert model.total == pytest.approx(model.parameters, rel=0.01)
    with pytest.raises(InputError) as refused:
        reference_model("llama-14b")
    assert "llama-13b" in refused.value.hint


def test_intervals_come_from_the_draws() -> None:
    fit = drawn_fit()
    answer = plan(serve_tokens=1e12, law=fit)
    spread = answer.intervals
    assert spread is not None
    assert fit.draws is not None
    solutions = lowest_loss(problem(1e12, fit.draws), 1e24)
    expected = np.quantile(np.asarray(solutions.sizes.parameters), [0.05, 0.95])
    assert list(spread.ranges["parameters"]) == pytest.approx(expected)
    low, high = spread.ranges["loss_nats"]
    assert low < answer.recommended.loss_nats < high
    narrow = plan(serve_tokens=1e12, law=fit, level="50%").intervals
    assert narrow is not None
    assert narrow.ranges["parameters"].high < spread.ranges["parameters"].high
    assert plan(serve_tokens=1e12, law=SARDANA_LINE).intervals is None


def test_draws_that_cannot_reach_a_target_are_left_out_and_counted() -> None:
    fit = drawn_fit()
    answer = plan(serve_tokens=1e12, law=fit, target_loss=1.84)
    spread = answer.intervals
    assert spread is not None
    assert fit.draws is not None
    assert spread.unreached == pytest.approx(float(np.mean(np.asarray(fit.draws.E) >= 1.84)))
    assert any("draws no model reaches" in warning for warning in answer.warnings)
    assert spread.ranges["total_flops"].low < answer.optimum.lifetime.total_flops


@pytest.mark.parametrize("question", [{}, {"match": "llama-13b"}])
def test_best_on_average_is_no_worse_than_any_size_tried(question: dict[str, Any]) -> None:
    answer = ask(serve_tokens=1e12, law=drawn_fit(), **question)
    best = answer.best_on_average
    assert best is not None
    assert best.advantage is not None
    assert best.advantage >= 0
    assert best.unreached == 0
    assert best.parameters == pytest.approx(answer.optimum.parameters, rel=0.3)


def test_a_size_that_may_never_reach_the_target_is_named() -> None:
    answer = plan(serve_tokens=2e12, law=drawn_fit(), target_loss=1.9)
    best = answer.best_on_average
    assert best is not None
    assert best.advantage is None
    assert 0 < best.unreached < 0.2
    assert best.parameters > answer.recommended.parameters
    assert "never reaches the loss under" in answer._repr_markdown_()


def test_a_budget_beside_a_target_is_a_limit() -> None:
    answer = plan(serve_tokens=1e12, target_loss=1.95, law=SARDANA_LINE, budget="1e25")
    binding = {limit.name: limit.binding for limit in answer.limits}
    assert binding == {"target loss": True, "total budget": False}
    with pytest.raises(InfeasibleError, match="times the budget of 1e23 FLOPs") as refused:
        plan(serve_tokens=1e12, target_loss=1.95, law=SARDANA_LINE, budget="1e23")
    enough = refused.value.hint.split("'")[1]
    assert plan(serve_tokens=1e12, target_loss=1.95, law=SARDANA_LINE, budget=enough).limits[0].binding
    affordable = float(refused.value.hint.split("--target-loss ")[1].split(",")[0])
    assert plan(serve_tokens=1e12, target_loss=affordable, law=SARDANA_LINE, budget="1e23").gap.cost < 0.01


@pytest.mark.parametrize(
    ("question", "message", "hint"),
    [
        ({"target_loss": 1.5}, "floor is 1.8172, 0.3172 more", "--target-loss 1.87"),
        ({"target_loss": 1.8173}, "above the law's floor", "--target-loss 1.87"),
        ({"budget": 1e12}, "too few for a law to hold", "serve fewer tokens"),
        ({"serve_tokens": 0, "target_loss": 9}, "nearest LLaMA with a vocabulary of 32,000", "--vocabulary"),
    ],
)
def test_what_cannot_be_is_refused_with_the_nearest_that_can(
    question: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(InfeasibleError, match=message) as refused:
        ask(**{"serve_tokens": 1e12, **question})
    assert hint in refused.value.hint


def test_the_nearest_feasible_budget_is_feasible() -> None:
    with pytest.raises(InfeasibleError) as refused:
        plan(serve_tokens=1e12, budget=1e12, vocabulary=256)
    nearest = refused.value.hint.split("'")[1]
    assert plan(serve_tokens=1e12, budget=nearest, vocabulary=256).recommended.parameters < 2e4


@pytest.mark.parametrize(
    ("question", "message", "hint"),
    [
        ({"budget": 1e40}, "out of all proportion", "1e24"),
        ({"serve_tokens": 1e40}, "out of all proportion", "1e12"),
        ({"accelerator": "h1000"}, "unknown accelerator", "H100-SXM"),
        ({"accelerator": "MI300X"}, "no price", "--price"),
        ({"serve_accelerator": "MI300X"}, "no price", "--serve-price"),
        ({"match": "llama-14b"}, "unknown model", "llama-13b"),
        ({"law": "besirogl"}, "no published law", "besiroglu-2024"),
        ({"mfu": 0}, "not between 0 and 1", "0.4"),
        ({"mfu": 40}, "larger than 1", "40%"),
        ({"price": 0}, "no price for an hour", r"$2.50"),
        ({"serve_mfu": "1/2/3"}, "3 parts", "0.55/0.20"),
        ({"cost_in": "flops", "budget": "$1M"}, "cannot be spent in flops", "--cost-in"),
        ({"cost_in": "euros"}, "unknown", "usd"),
        ({"flops": "7nd"}, "unknown", "exact"),
        ({"target_loss": "low"}, "is no number", "nats"),
        ({"target_loss": -1}, "no loss of a language model", "nats"),
        ({"target_loss": 2, "match": "llama-7b"}, "two targets", "one of them"),
        ({"vocabulary": 1}, "out of all proportion", "from 2"),
        ({"accelerator": "A100", "precision": "fp8"}, "no fp8 rate", "int8"),
        ({"budgets": 1}, "no argument budgets", "budget"),
    ],
)
def test_bad_words_are_refused_with_a_way_out(question: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        ask(**{"serve_tokens": 1e12, **question})
    assert hint in refused.value.hint


def test_a_demand_must_be_given() -> None:
    with pytest.raises(InputError, match="how many tokens") as refused:
        plan()
    assert "--serve-tokens" in refused.value.hint


def test_old_chips_run_in_fp16_and_hours_need_no_price() -> None:
    answer = plan(serve_tokens=1e12, accelerator="V100", price=0.5, budget="1M GPU-hours")
    assert answer.request.economics.training.rental.precision == "fp16"
    unpriced = plan(serve_tokens=1e12, accelerator="MI300X", budget="1M GPU-hours")
    assert unpriced.recommended.lifetime.total_usd is None
    assert unpriced.to_json()["recommended"]["total_usd"] is None


def test_serving_on_another_chip_in_gpu_hours_is_warned_about() -> None:
    answer = plan(serve_tokens=1e12, serve_accelerator="L40S", budget="1M GPU-hours")
    assert any("counted like an hour" in warning for warning in answer.warnings)


def test_the_command_asks_for_the_same_plan() -> None:
    from click.testing import CliRunner

    from llama_scale.cli.plan import command

    answer = plan(serve_tokens=1.5e12, budget=Quantity(value=2e6, kind="usd"), law=SARDANA_LINE, price="$2/h")
    import shlex

    words = shlex.split(answer.to_json()["command"])[2:]
    shown = CliRunner().invoke(command, [*words, "--format", "csv"], catch_exceptions=False)
    line = shown.output.splitlines()[1].split(",")
    assert line[0] == "recommended"
    assert float(line[1]) == answer.recommended.parameters
    assert float(line[2]) == pytest.approx(answer.recommended.tokens)


def test_notebooks_see_the_answer_and_the_table() -> None:
    shown = plan(serve_tokens=1e12)._repr_markdown_()
    assert shown.startswith("**Train ")
    assert "| **recommended** |" in shown
    assert "llama-scale plan --serve-tokens 1e12" in shown
