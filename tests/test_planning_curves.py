"""Curves around a plan go through the plan, and agree with plans asked for one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llama_scale.errors import InputError
from llama_scale.planning import Plan, plan
from llama_scale.planning.curves import (
    best_by_demand,
    cost_by_size,
    cost_over_time,
    loss_by_size,
)
from llama_scale.planning.families import coordinate_of

QUESTIONS: dict[str, dict[str, Any]] = {
    "FLOPs": {"serve_tokens": 1e12},
    "dollars": {"serve_tokens": 1e12, "budget": "$5M"},
    "a target": {"serve_tokens": 2e12, "match": "llama-13b", "accelerator": "h100"},
    "exact": {"serve_tokens": 1e12, "flops": "exact"},
}


@pytest.fixture(scope="module", params=list(QUESTIONS.values()), ids=list(QUESTIONS))
def answer(request: pytest.FixtureRequest) -> Plan:
    return plan(**request.param)


def test_cost_by_size_goes_through_the_plan_and_is_lowest_at_its_optimum(answer: Plan) -> None:
    curve = cost_by_size(answer)
    at = int(np.argmin(np.abs(np.log(curve.parameters / answer.recommended.parameters))))
    assert curve.total[at] == pytest.approx(answer.recommended.lifetime.total(curve.unit), rel=1e-8)
    least = int(np.nanargmin(curve.total))
    # the sizes lie 3 % apart
    assert curve.parameters[least] == pytest.approx(answer.optimum.parameters, rel=0.03)
    assert curve.loss_nats == answer.recommended.loss_nats
    law = answer.request.law
    reached = np.isfinite(curve.tokens)
    losses = law.loss(curve.parameters[reached], curve.tokens[reached])
    np.testing.assert_allclose(losses, curve.loss_nats, rtol=1e-9)


@pytest.mark.parametrize(
    "limits",
    [{"budget": "$3M", "deadline": "30d", "accelerators": 512}, {"max_parameters": "10B"}],
    ids=["deadline", "size"],
)
def test_sizes_beyond_the_limits_have_their_costs_and_are_told_apart(limits: dict[str, Any]) -> None:
    answer = plan(serve_tokens=1e12, **limits)
    curve = cost_by_size(answer)
    assert curve.band is not None
    assert min(np.isfinite(curve.total).sum(), np.isfinite(curve.band.low).sum()) > 100
    most = answer.request.limits
    family = answer.request.problem().through(answer.shape).family
    at = int(np.argmin(np.abs(np.log(curve.parameters / answer.recommended.parameters))))
    assert curve.allowed[at]
    assert 0 < curve.allowed.sum() < 120
    assert (curve.parameters[curve.allowed] <= most.parameters * (1 + 1e-9)).all()
    sizes = family.sizes(coordinate_of(family, curve.parameters))
    spent = sizes.train_flops_per_token * curve.tokens
    assert (spent[curve.allowed] <= most.train_flops * (1 + 1e-9)).all()


def test_sizes_reach_beyond_a_rival_that_is_far_larger() -> None:
    flat = "E=1.7,A=20,B=20,alpha=0.1,beta=0.1"
    answer = plan(serve_tokens=1e12, budget=1e24, max_parameters="100M", law=flat)
    curve = cost_by_size(answer)
    assert curve.compute_optimal.parameters > 100 * curve.chosen.parameters
    assert curve.parameters[-1] == pytest.approx(2 * curve.compute_optimal.parameters)


def test_sizes_are_about_the_plan_alone_where_no_rival_is_known() -> None:
    answer = plan(serve_tokens=0, unique_tokens=1e10, budget=1e27)
    assert np.isnan(answer.compute_optimal.parameters)
    curve = cost_by_size(answer)
    assert curve.parameters[[0, -1]] == pytest.approx(curve.chosen.parameters * np.array([1 / 30, 30]))
    assert np.isclose(curve.parameters, curve.chosen.parameters, rtol=1e-9).any()


def test_the_ranges_are_where_the_curve_is_within_an_excess(answer: Plan) -> None:
    curve = cost_by_size(answer)
    for excess, (low, high) in curve.ranges:
        inside = curve.total <= np.nanmin(curve.total) * (1 + excess)
        np.testing.assert_allclose(curve.parameters[inside][[0, -1]], [low, high], rtol=0.06)


def test_bands_close_where_quality_is_compared(answer: Plan) -> None:
    """Under every law the chosen size is as good as itself, for its own cost."""
    curve = cost_by_size(answer)
    assert curve.band is not None
    at = int(np.argmin(np.abs(np.log(curve.parameters / answer.recommended.parameters))))
    assert curve.band.low[at] == pytest.approx(curve.total[at], rel=1e-6)
    assert curve.band.high[at] == pytest.approx(curve.total[at], rel=1e-6)
    wider = curve.band.high[at + 15] - curve.band.low[at + 15]
    assert wider > 1e-3 * curve.total[at]


def test_loss_by_size_spends_what_the_plan_spends(answer: Plan) -> None:
    curve = loss_by_size(answer)
    at = int(np.argmin(np.abs(np.log(curve.parameters / answer.recommended.parameters))))
    assert curve.loss_nats[at] == pytest.approx(answer.recommended.loss_nats, rel=1e-9)
    least = int(np.nanargmin(curve.loss_nats))
    assert curve.parameters[least] == pytest.approx(answer.optimum.parameters, rel=0.03)
    assert curve.compute_optimal.value >= np.nanmin(curve.loss_nats) - 1e-9
    assert curve.band is not None
    known = np.isfinite(curve.loss_nats)
    assert (curve.band.low[known] < curve.loss_nats[known]).all()
    assert (curve.band.high[known] > curve.loss_nats[known]).all()


def asked(words: dict[str, Any], serve_tokens: float) -> Plan:
    """The same question at another demand."""
    changed: Any = words | {"serve_tokens": serve_tokens}
    return plan(**changed)


@pytest.mark.parametrize("question", ["FLOPs", "exact"])
def test_best_by_demand_is_the_plan_of_each_demand(question: str) -> None:
    words = QUESTIONS[question]
    curve = best_by_demand(plan(**words))
    for at in (10, 40):
        other = asked(words, float(curve.serve_tokens[at]))
        assert curve.parameters[at] == pytest.approx(other.optimum.parameters, rel=2e-3)
    assert curve.unserved.parameters == pytest.approx(asked(words, 0).optimum.parameters, rel=2e-3)
    assert curve.parameters_band is not None
    assert curve.ratio_band is not None
    known = np.isfinite(curve.parameters_band.high)
    assert (curve.parameters_band.low <= curve.parameters_band.high)[known].all()


def test_the_band_of_the_best_size_keeps_to_its_line_where_that_bends() -> None:
    curve = best_by_demand(plan(serve_tokens=1e12, budget="$5M"))
    assert curve.parameters_band is not None
    assert curve.ratio_band is not None
    for band, line in (
        (curve.parameters_band, curve.parameters),
        (curve.ratio_band, curve.tokens_per_parameter),
    ):
        assert (band.low <= line).all()
        assert (line <= band.high).all()


def test_a_break_even_is_where_two_lines_cross() -> None:
    answer = plan(serve_tokens=2e12, match="llama-13b", accelerator="h100")
    found = cost_over_time(answer)
    ours, theirs = answer.recommended.lifetime, answer.compute_optimal.lifetime
    token = ((theirs.serve_usd or 0) - (ours.serve_usd or 0)) / 2e12
    dearer = (ours.train_usd or 0) - (theirs.train_usd or 0)
    assert found.break_even == pytest.approx(dearer / token, rel=1e-9)
    assert found.clock == "tokens served"
    assert found.chosen[-1] == pytest.approx(ours.total_usd, rel=1e-12)
    assert found.break_even is not None
    assert found.break_even_interval is not None
    assert found.break_even_interval.low < found.break_even < found.break_even_interval.high


def test_months_discount_and_retraining_add_up_to_the_bill() -> None:
    answer = plan(serve_tokens="1T", months=24, growth="5%", discount="10%", retrain_every=12, budget="$5M")
    found = cost_over_time(answer)
    assert found.clock == "months"
    assert found.chosen[-1] == pytest.approx(answer.recommended.lifetime.total_usd, rel=1e-9)
    first, second = answer.generations
    assert found.chosen[0] == pytest.approx(first.train_usd, rel=1e-9)
    before, after = (int(np.flatnonzero(found.at == moment)[0]) for moment in (11, 13))
    spent = found.chosen[after] - found.chosen[before]
    assert second.train_usd is not None
    assert spent > second.train_usd
    half = int(np.flatnonzero(found.at == 12)[0])
    assert found.chosen[half - 1] == pytest.approx((first.train_usd or 0) + (first.serve_usd or 0), rel=1e-6)


def test_nothing_served_has_no_break_even() -> None:
    with pytest.raises(InputError, match="no break-even"):
        cost_over_time(plan(serve_tokens=0))


def test_a_law_without_draws_has_no_band() -> None:
    answer = plan(serve_tokens=1e12, law="hoffmann-2022")
    assert cost_by_size(answer).band is None
    assert loss_by_size(answer).band is None
    assert best_by_demand(answer).parameters_band is None
    assert cost_over_time(answer).band is None
