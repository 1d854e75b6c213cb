"""The curves that the page of a plan draws: those of Python, with their bands, limits and break-evens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import QUESTIONS, opened

from llama_scale import plan
from llama_scale.laws import central_range
from llama_scale.planning import Plan, PlanOptions
from llama_scale.planning.curves import cost_over_time, problem_of, schedule_of
from llama_scale.planning.optimum import best
from llama_scale.report import write_report

SWEEP = Path(__file__).parents[1] / "sweeps" / "results" / "default-seed0-fit.json"

# The curves of a page at the settings of its plan, all draws in their bands.
CURVES = """
const base = answers.prepare(JSON.parse(document.getElementById("data").textContent).problem);
const found = { ...answers.solve(base, base.settings), isMoving: false };
return { cost: answers.costCurve(base, found, 40), demand: answers.demandCurve(base, found) };
"""


@pytest.fixture
def curves_of(browser: Any, tmp_path: Path) -> Callable[[Plan], dict[str, Any]]:
    def drawn(made: Plan) -> dict[str, Any]:
        opened(browser, write_report(made, tmp_path / "plan.html").as_uri())
        return browser.execute_script(CURVES)

    return drawn


@pytest.mark.parametrize(
    "words",
    [
        {"serve_tokens": "1e12"},
        {"serve_tokens": "1e15", "budget": "$50M"},
        {"serve_tokens": "1e12", "unique_tokens": "200B"},
        {"serve_tokens": "1e12", "law": str(SWEEP)},
    ],
    ids=lambda words: "-".join(words.values()),
)
def test_the_band_of_the_best_size_is_that_of_the_draws_at_every_demand(
    curves_of: Callable[[Plan], dict[str, Any]], words: PlanOptions
) -> None:
    made = plan(**words)
    curve = curves_of(made)["demand"]
    draws = made.request.draws(200)
    assert draws is not None
    problem, objective = problem_of(made).with_law(draws), made.request.objective(draws)
    for place in range(0, len(curve["few"]), 6):
        best_sizes = best(replace(problem, serve_tokens=curve["few"][place]), objective).sizes.parameters
        low, high = central_range(best_sizes, made.request.level)
        assert curve["band"]["low"][place] == pytest.approx(low, rel=0.04)
        assert curve["band"]["high"][place] == pytest.approx(high, rel=0.04)


def test_a_band_keeps_its_lower_edge_where_some_draws_reach_nothing(
    browser: Any, curves_of: Callable[[Plan], dict[str, Any]]
) -> None:
    band = curves_of(plan(serve_tokens="1e12", law=str(SWEEP)))["cost"]["band"]
    endless = [low for low, high in zip(band["low"], band["high"], strict=True) if high is None]
    assert endless
    assert all(low is not None for low in endless)
    drawn = "return ['path.fill.t-ink', '.grid'].map((one) => $(one).getBBox().x)"
    grey, frame = browser.execute_script(
        f"const $ = (one) => document.querySelector('#cost-chart ' + one); {drawn}"
    )
    assert grey <= frame


def test_a_deadline_is_marked_on_the_curve_and_cuts_nothing_off(
    browser: Any, curves_of: Callable[[Plan], dict[str, Any]]
) -> None:
    made = plan(serve_tokens="2T", deadline="30d", accelerators=512)
    cost = curves_of(made)["cost"]
    assert sum(value is not None for value in cost["total"]) > 60
    assert sum(cost["inTime"]) <= 1  # as good as the best that it allows
    dashed = "return document.querySelectorAll('#cost-chart .line[stroke-dasharray]').length"
    assert browser.execute_script(dashed) == 1
    assert "Dashed: " in caption(browser, "cost")


def test_curves_end_at_the_largest_size_that_is_allowed(curves_of: Callable[[Plan], dict[str, Any]]) -> None:
    drawn = curves_of(plan(serve_tokens="10T", budget="$5M", max_parameters="10B"))
    assert drawn["cost"]["parameters"][-1] == pytest.approx(10e9)
    assert drawn["cost"]["total"][-1] == pytest.approx(5e6, rel=1e-6)
    assert len(drawn["cost"]["band"]["low"]) == len(drawn["cost"]["total"])
    assert max(drawn["demand"]["parameters"]) == 10e9


@pytest.mark.parametrize("name", QUESTIONS)
def test_sizes_within_a_percent_are_those_of_the_plan(
    browser: Any, plans: dict[str, Plan], pages: dict[str, str], name: str
) -> None:
    opened(browser, pages[name])
    found = browser.execute_script("return llamaScale.answer().ranges")
    for mine, near in zip(found, plans[name].flatness, strict=True):
        assert mine["excess"] == near.excess
        assert (mine["low"], mine["high"]) == pytest.approx((near.low, near.high), rel=1e-6)


def caption(browser: Any, name: str) -> str:
    return browser.execute_script(f"return document.getElementById('{name}-caption').textContent")


def test_a_break_even_counts_every_training_when_it_starts(
    browser: Any, plans: dict[str, Plan], pages: dict[str, str]
) -> None:
    made = plans["latency-months"]
    opened(browser, pages["latency-months"])
    found = browser.execute_script("return llamaScale.answer()")
    schedule = schedule_of(made.request.economics.demand, made.request.unit)
    ours, theirs = (
        schedule.trained * model["cost"]["usd"]["train"] + schedule.served * model["cost"]["usd"]["serve"]
        for model in (found, found["rival"])
    )
    at = np.linspace(0, 24, 24_001)
    behind = np.interp(at, schedule.at, theirs) <= np.interp(at, schedule.at, ours)
    assert found["even"] == {"is": "later", "at": pytest.approx(at[np.flatnonzero(behind)[-1]], abs=2e-3)}
    assert f"after {found['even']['at']:.2g} months" in caption(browser, "even")
    built = cost_over_time(made).break_even
    assert built is not None
    assert f"earns its own back after {built:.2g} months" in caption(browser, "even")


@pytest.mark.parametrize(
    ("words", "verdict", "said"),
    [
        ({"serve_tokens": "2T", "deadline": "30d", "accelerators": 512}, "same", "is that model"),
        ({"serve_tokens": "1e11", "unique_tokens": "1B"}, "never", "which is never earned back"),
        ({"serve_tokens": "1e12"}, "later", "before the demand is served"),
    ],
)
def test_a_break_even_that_never_comes_is_no_gain(
    browser: Any, tmp_path: Path, words: PlanOptions, verdict: str, said: str
) -> None:
    opened(browser, write_report(plan(**words), tmp_path / "plan.html").as_uri())
    assert browser.execute_script("return llamaScale.answer().even.is") == verdict
    assert said in caption(browser, "even")


def test_ticks_tell_apart_what_little_is_served(browser: Any, tmp_path: Path) -> None:
    opened(browser, write_report(plan(serve_tokens="1e10"), tmp_path / "plan.html").as_uri())
    find = "document.querySelectorAll('#even-chart .tick[text-anchor=end]')"
    ticks = browser.execute_script(f"return [...{find}].map((one) => one.textContent)")
    assert len(set(ticks)) == len(ticks) > 2
