"""Profiles: their derivatives, what an end of theirs costs, what a threshold means, how often they cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student_t
from synthetic import LAW, independent_runs, sweep

from llama_scale.fitting.candidates import points_of
from llama_scale.fitting.descent import Problems, descend
from llama_scale.fitting.forms import CHINCHILLA, FITTED
from llama_scale.fitting.minima import ladder
from llama_scale.fitting.noise import jacobian
from llama_scale.fitting.profile import (
    QUANTITIES,
    Pull,
    Units,
    _crossings,
    _readable,
    error_scale,
    measure,
    profile,
    student,
)
from llama_scale.fitting.skaling import SixMoves
from llama_scale.fitting.surface import centre_of, to_chart, to_constants

LEAST_SQUARES = 10.0


def test_quantities_have_their_derivatives() -> None:
    constants = np.tile(np.array([[0.8], [0.9], [0.7], [0.5], [0.6], [0.7]]), len(QUANTITIES))
    chart, units, rows = to_chart(constants), Units(2.0, 10.0, 14.0), np.arange(len(QUANTITIES))
    at, slope, bend = measure(rows, chart, units)
    logs = [np.log(0.9) + 5, np.log(0.7) + 8.4, np.log(0.5), np.log(0.6), np.log(0.7), np.log(0.6 / 0.5)]
    assert at == pytest.approx([0.4, *logs])
    chart[0] += centre_of(chart).excess  # T, of which E is what the excess leaves
    for i in range(6):
        step = np.zeros((6, 1))
        step[i] = 1e-5
        ends = []
        for sign in (1, -1):
            moved = chart + sign * step
            moved[0] -= centre_of(moved).excess
            ends.append(measure(rows, moved, units))
        assert (ends[0][0] - ends[1][0]) / 2e-5 == pytest.approx(slope[i], abs=1e-8)
        assert (ends[0][1] - ends[1][1]) / 2e-5 == pytest.approx(bend[i], abs=1e-8)


def test_students_t_is_scipys() -> None:
    for freedom in (5, 31, 235):
        assert student(0.9, freedom) == pytest.approx(student_t.ppf(0.95, freedom), rel=5e-3)
    for level in (0.5, 0.8, 0.99):
        assert student(level, 31) == pytest.approx(student_t.ppf((1 + level) / 2, 31), rel=3e-4)


def test_a_pull_has_its_derivatives_and_none_along_a_floor() -> None:
    """Each is r/2 (g - target)^2; by the chart's first coordinate T, of which E is what the excess leaves."""
    count = len(QUANTITIES)
    chart = to_chart(np.tile(np.array([[0.8], [0.9], [0.7], [0.5], [0.6], [0.7]]), count))
    rows, targets, strengths = np.arange(count), np.linspace(-1, 1, count), np.linspace(1, 3, count)
    pull = Pull(rows, targets, strengths, Units(2.0, 10.0, 14.0))
    free, resting = (pull.expand(chart, np.full(count, floor)) for floor in (False, True))
    assert free.value == pytest.approx(strengths / 2 * (measure(rows, chart, pull.units)[0] - targets) ** 2)
    assert free.rise[0] == pytest.approx(strengths[0] * (0.8 / 2 - targets[0]) / 2)  # by E itself, of 2 nats
    assert not free.rise[1:].any()
    whole = chart.copy()
    whole[0] += centre_of(chart).excess
    for i in range(6):
        ends = []
        for sign in (1, -1):
            moved = whole.copy()
            moved[i] += sign * 1e-5
            moved[0] -= centre_of(moved).excess
            ends.append(pull.expand(moved, np.zeros(count, bool)))
        assert (ends[0].value - ends[1].value) / 2e-5 == pytest.approx(free.gradient[i], abs=1e-7)
        assert (ends[0].gradient - ends[1].gradient) / 2e-5 == pytest.approx(free.hessian[i], abs=1e-7)
    assert not resting.gradient[0].any()
    assert not resting.gradient[:, 0].any()
    assert resting.gradient[1:, 1:] == pytest.approx(free.gradient[1:, 1:])
    assert resting.rise == pytest.approx(free.rise)


def test_by_least_squares_a_profile_is_the_usual_interval_where_the_law_is_nearly_linear() -> None:
    runs = sweep(0, trunk_noise=0.0, own_noise=1e-4)
    points = points_of(runs)
    solution = CHINCHILLA.solve(points, delta=LEAST_SQUARES)
    found = profile(points, solution, CHINCHILLA, delta=LEAST_SQUARES)
    design = jacobian(points, solution.constants)
    variance = 2 * solution.objective / (36 - 5)
    covariance = variance * np.linalg.inv(design.T @ design)
    _, a, b, alpha, beta = solution.constants
    by_hand = {  # derivatives by E, a, b, alpha and beta, where A = a exp(alpha log n), B likewise
        "E": np.array([1, 0, 0, 0, 0]),
        "A": solution.law.A * np.array([0, 1 / a, 0, points.log_n, 0]),
        "B": solution.law.B * np.array([0, 0, 1 / b, 0, points.log_d]),
        "alpha": np.array([0, 0, 0, 1, 0]),
        "beta": np.array([0, 0, 0, 0, 1]),
        "exponent_a": np.array([0, 0, 0, -beta, alpha]) / (alpha + beta) ** 2,
    }
    assert set(found.intervals) == set(by_hand)
    for name, slope in by_hand.items():
        low, high = found.intervals[name]
        assert low is not None
        assert high is not None
        sd = float(np.sqrt(slope @ covariance @ slope))
        assert high - low == pytest.approx(2 * student(0.9, 31) * sd, rel=0.02)
        assert (low + high) / 2 == pytest.approx(float(getattr(solution.law, name)), abs=0.1 * sd)
    assert found.threshold == pytest.approx(0.5 * variance * student(0.9, 31) ** 2, rel=1e-6)
    assert found.lower is None


@pytest.mark.parametrize("delta", [1e-3, LEAST_SQUARES])
def test_the_ends_of_an_interval_cost_the_threshold(delta: float) -> None:
    # alpha held at the end of its interval, all others free: a descent of its own
    points = points_of(independent_runs(0))
    solution = CHINCHILLA.solve(points, delta=delta)
    found = profile(points, solution, CHINCHILLA, delta=delta)
    held = FITTED["chinchilla"].layout.of("E", "A", "B", "beta")
    for end in found.intervals["alpha"]:
        assert end is not None
        chart = to_chart(np.append(solution.constants, 1.0)[:, None])
        chart[3] = np.log(end)
        problem = Problems(
            points.x[None], points.y[None], points.z[None], points.weights[None], np.zeros(1, np.intp)
        )
        chart, value, _ = descend(problem, chart, SixMoves(layout=held), deltas=ladder((3e-2,), delta))
        assert to_constants(chart)[3, 0] == pytest.approx(end)
        assert value[0] - solution.objective == pytest.approx(found.threshold, rel=0.15)


def test_bounds_lie_where_a_profile_crosses_the_threshold() -> None:
    """Of a parabola exactly, as its root is a line; in no order, and open where it stays below."""
    ends = np.array([3.0, 1.5, 2.5, 1.0, 2.2, 1.8])
    assert _crossings(2.0, ends, 4 * (ends - 2.0) ** 2, 2.0) == pytest.approx((2 - 0.5**0.5, 2 + 0.5**0.5))
    steeper = np.where(ends > 2, 1.0, 9.0) * (ends - 2.0) ** 2
    assert _crossings(2.0, ends, steeper, 1.44) == (pytest.approx(1.6), None)
    assert _readable("E", (0.3, 0.5), np.array([0.0, 0.6]), 2.0) == (0.6, 1.0)
    assert _readable("E", (None, 0.5), np.array([0.0, 0.6]), 2.0) == (0.0, 1.0)  # none lies below
    assert _readable("E", (None, 0.5), np.array([0.1, 0.6]), 2.0) == (None, 1.0)
    assert _readable("A", (None, np.log(7.0)), ends, 2.0) == (None, pytest.approx(7.0))
    assert _readable("exponent_a", (0.0, np.log(3.0)), ends, 2.0) == (0.5, pytest.approx(0.75))


def test_tied_exponents_and_pinned_constants_have_no_interval_of_their_own() -> None:
    for name, expected in (
        ("tied", {"E", "A", "B", "alpha"}),
        ("kaplan", {"A", "B", "alpha", "k", "exponent_a"}),
    ):
        form = next(form for key, form in FITTED.items() if key == name)
        points = points_of(sweep(0))
        found = profile(points, form.solve(points, delta=1e-2), form, delta=1e-2)
        assert set(found.intervals) == expected


def test_what_the_data_leave_open_is_open_and_no_floor_lies_below_zero() -> None:
    law = FITTED["chinchilla"].solve(points_of(sweep(0)), delta=1e-2).law
    runs = sweep(0, trunk_noise=0.0, own_noise=0.03, law=law)
    runs = runs.take((runs.parameters > 35_000) & (runs.parameters < 120_000))
    points = points_of(runs)
    found = profile(points, CHINCHILLA.solve(points, delta=1e-2), CHINCHILLA, delta=1e-2)
    assert found.intervals["E"][0] == 0.0
    assert any(None in bounds for name, bounds in found.intervals.items() if name != "E")


def test_the_scale_is_that_of_the_errors() -> None:
    runs = independent_runs(0, count=4000)
    points = points_of(runs)
    solution = CHINCHILLA.solve(points, delta=1e-2, quick=True)
    wide, _ = error_scale(points, solution.constants, CHINCHILLA, LEAST_SQUARES)
    residuals = np.log(runs.loss) - np.log(solution.law.loss(runs.parameters, runs.tokens))
    assert wide == pytest.approx((residuals**2).mean(), rel=0.01)
    # of a delta far below the noise: E[psi^2] = delta^2, E[psi'] = 2 delta f(0), f Student's at 4 degrees
    narrow, spread = error_scale(points, solution.constants, CHINCHILLA, 1e-4)
    density = 0.375 / 0.01
    assert narrow == pytest.approx(1e-4 / (2 * density), rel=0.15)
    assert spread == pytest.approx(1 / (2 * density), rel=0.15)


def test_intervals_cover_as_often_as_they_say() -> None:
    # 90 % intervals on 40 sweeps of independent runs; over 200 seeds see benchmarks/README.md
    hits = []
    for seed in range(40):
        runs = sweep(seed, trunk_noise=0.0, own_noise=0.004)
        points = points_of(runs)
        found = profile(points, CHINCHILLA.solve(points, delta=1e-2, quick=True), CHINCHILLA, delta=1e-2)
        for name in ("E", "alpha", "beta"):
            low, high = found.intervals[name]
            truth = float(np.asarray(getattr(LAW, name)))
            hits.append((low is None or low <= truth) and (high is None or truth <= high))
    assert 0.8 <= np.mean(hits) <= 0.97
