"""Which inputs move the bill: every case equals the plan asked anew."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llama_scale import plan
from llama_scale.costs.constants import Accuracy
from llama_scale.laws import published
from llama_scale.planning import Plan
from llama_scale.planning.reasons import reasons
from llama_scale.planning.sensitivity import Sensitivity, inputs
from llama_scale.quantities import format_count


def table(answer: Plan) -> dict[str, Sensitivity]:
    return {row.input: row for row in answer.sensitivity}


def test_inputs_are_sorted_by_the_dollars_that_they_move() -> None:
    rows = list(table(plan(serve_tokens=1e12)).values())
    moved = [row.moved_usd for row in rows]
    assert moved == sorted(moved, reverse=True)
    assert {row.input for row in rows} >= {"price", "training MFU", "utilisation", "demand", "law"}
    assert all(row.low.usd <= row.high.usd and row.source for row in rows)


@pytest.mark.parametrize("budget", ["$2M", "1e24", "500K GPU-hours"])
def test_a_case_is_the_plan_asked_anew(budget: str) -> None:
    words: dict[str, Any] = {"serve_tokens": 1e13, "budget": budget, "serve_mfu": "0.5/0.2", "goodput": "90%"}
    rows = table(plan(**words))
    for factor, case in ((1 / 3, rows["demand"].low), (3, rows["demand"].high)):
        asked: dict[str, Any] = words | {"serve_tokens": 1e13 * factor}
        anew = plan(**asked).optimum
        assert case.parameters == pytest.approx(anew.parameters, rel=1e-4)
        assert case.tokens == pytest.approx(anew.tokens, rel=1e-4)
        assert case.loss_nats == pytest.approx(anew.loss_nats, rel=1e-7)
    price = rows["price"]
    anew = plan(**words, price=price.high.label).optimum
    assert price.high.parameters == pytest.approx(anew.parameters, rel=1e-4)
    mfu = rows["training MFU"].high
    assert mfu.parameters == pytest.approx(plan(**words, mfu=mfu.label).optimum.parameters, rel=1e-2)


def test_dollars_are_the_least_that_reach_the_plans_quality() -> None:
    words: dict[str, Any] = {"serve_tokens": 1e13, "cost_in": "usd", "serve_mfu": "0.5/0.2"}
    answer = plan(**words, target_loss=2.0)
    rows = table(answer)
    loss = answer.recommended.loss_nats
    anew = plan(**words, target_loss=loss, price=rows["price"].low.label)
    assert rows["price"].low.usd == pytest.approx(anew.optimum.lifetime.total_usd, rel=1e-5)
    used = plan(**words, target_loss=loss, utilisation=rows["utilisation"].high.label)
    assert rows["utilisation"].high.usd == pytest.approx(used.optimum.lifetime.total_usd, rel=1e-5)
    assert rows["law"].high.usd >= rows["law"].low.usd


def test_nothing_served_has_no_demand_and_no_price_no_dollars() -> None:
    alone = table(plan(serve_tokens=0))
    assert not alone.keys() & {"demand", "utilisation"}
    assert not table(plan(serve_tokens=1e12, accelerator="MI300X", budget="1M GPU-hours"))


def test_different_chips_have_different_prices() -> None:
    rows = table(plan(serve_tokens=1e12, serve_accelerator="L40S", budget="$1M", serve_price="$1/h"))
    assert rows["serving price"].source == "a quarter each way"
    assert (rows["serving price"].low.label, rows["serving price"].high.label) == ("$0.80/h", "$1.25/h")
    assert rows["training price"].source.startswith("quotes of ")


def test_the_form_of_the_law_is_an_input() -> None:
    labels = {table(plan(serve_tokens=1e12))["form of the law"].low.label}
    assert labels <= {"chinchilla", "skaling", "tied"}


def test_a_deadline_moves_with_the_mfu() -> None:
    words: dict[str, Any] = {"serve_tokens": 1e12, "accelerators": 512, "deadline": "30d", "goodput": "90%"}
    case = table(plan(**words))["training MFU"].high
    anew = plan(**words, mfu=case.label).optimum
    assert case.parameters == pytest.approx(anew.parameters, rel=1e-2)
    assert case.loss_nats == pytest.approx(anew.loss_nats, rel=1e-4)


def test_a_loss_is_another_quality_under_another_law() -> None:
    answer = plan(serve_tokens=1e12, target_loss=1.85, cost_in="usd")  # below the floor of muennighoff-2023
    for name in ("law", "form of the law"):
        for case in (table(answer)[name].low, table(answer)[name].high):
            assert case.parameters > 0
            assert case.usd > 0


def test_an_error_of_the_roofline_is_a_factor_each_way() -> None:
    request = plan(serve_tokens=1e12, budget="$2M").request
    deployment = request.economics.deployment
    assert deployment is not None
    poor = replace(deployment.calibration, accuracy=(Accuracy("a model", 9, 1.5, 0.1),))
    economics = replace(request.economics, deployment=replace(deployment, calibration=poor))
    asked = inputs(replace(request, economics=economics), request.problem())
    changes = next(entry.changes for entry in asked if entry.name == "serving model")
    assert [(change.label, change.hours_serve) for change in changes] == [("-60%", 0.4), ("+150%", 2.5)]


@pytest.mark.parametrize("budget", ["1e24", "$2M"])
def test_the_bill_starts_from_what_the_plan_costs_whatever_is_counted(budget: str) -> None:
    """In FLOPs too it is that of the continuum through the shape: usual proportions were 0.2 % cheaper."""
    answer = plan(serve_tokens=1e12, budget=budget)
    assert table(answer)["utilisation"].low.label == "100%"
    bill = answer.recommended.lifetime.total("usd") / (1 + answer.gap.cost)
    assert table(answer)["utilisation"].low.usd == pytest.approx(bill, rel=1e-4)


def test_a_shape_wide_enough_for_a_latency_has_a_bill_in_dollars() -> None:
    """At the usual proportions its size is too slow: of a plan in FLOPs every case was impossible."""
    answer = plan(serve_tokens=3e9, target_loss=2.04, time_per_output_token="2.5ms", kv_heads=8)
    rows = table(answer)
    bill = answer.recommended.lifetime.total("usd")
    assert rows["utilisation"].low.usd <= bill
    assert rows["price"].low.usd < bill
    assert answer.intervals is not None
    assert answer.intervals.ranges["total_usd"].low < bill < answer.intervals.ranges["total_usd"].high


def test_another_form_is_told_from_the_laws_own_though_both_have_one_name() -> None:
    fit = published()
    others = {fit.law.form: fit.evidence["other_forms"]["skaling"]}
    answer = plan(serve_tokens=1e12, law=replace(fit, evidence={"other_forms": others}))
    row = table(answer)["form of the law"]
    assert {row.low.label, row.high.label} == {"chinchilla", "chinchilla (the law's own)"}
    other = row.low if row.low.other_law else row.high
    assert other.label == "chinchilla"
    said = next(reason.text for reason in reasons(answer) if reason.heading == "other laws")
    assert f"another form: chinchilla {format_count(other.parameters)} on" in said
    assert "own)" not in said
