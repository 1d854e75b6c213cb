"""The six-constant objective: its chart, and exact derivatives, on the floor and above it."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import sweep

from llama_scale.fitting.candidates import points_of
from llama_scale.fitting.descent import Array, Batch
from llama_scale.fitting.skaling import starts_of
from llama_scale.fitting.surface import centre_of, expand, to_chart, to_constants

CONSTANTS = np.array([[0.8, 0.0], [0.9, 1.1], [0.7, 0.9], [0.5, 0.4], [0.6, 0.7], [0.7, 0.3]])
FLOOR = np.array([False, True])


def batch() -> Batch:
    points, generator = points_of(sweep(0)), np.random.default_rng(0)
    z = np.stack([points.z, points.z])
    # delta large: no row crosses the kink within the step of the difference
    return Batch(points.x[None], points.y[None], z, generator.random(z.shape), 10.0)


def at_level(chart: Array) -> Array:
    """The chart whose first row is T, with E in its place; on the floor E stays 0."""
    moved = chart.copy()
    moved[0] = np.where(FLOOR, 0.0, chart[0] - centre_of(chart).excess)
    return moved


def test_the_chart_turns_into_constants_and_back() -> None:
    starts = starts_of(points_of(sweep(0)))
    assert to_constants(to_chart(starts)) == pytest.approx(starts, rel=1e-9)
    _, a, b, _, _, k = starts
    assert centre_of(to_chart(starts)).excess == pytest.approx((a + b) ** k)


def test_a_term_that_sank_to_0_has_a_place_in_the_chart() -> None:
    sunk = CONSTANTS.copy()
    sunk[2, 0] = sunk[1, 1] = 0.0
    chart = to_chart(sunk)  # warnings are errors here
    assert np.isfinite(chart).all()
    assert to_constants(chart) == pytest.approx(sunk, rel=1e-9, abs=1e-200)


def test_gradient_and_hessian_are_the_derivatives() -> None:
    problem, chart = batch(), to_chart(CONSTANTS)
    chart[0] += centre_of(chart).excess
    here = expand(problem, at_level(chart), FLOOR)
    assert (here.gradient[0, 1], here.hessian[0, :, 1].any()) == (0, False)  # on the floor T is no coordinate
    for i in range(6):
        step = np.zeros((6, 1))
        step[i] = 1e-5
        up, down = (expand(problem, at_level(chart + sign * step), FLOOR) for sign in (1, -1))
        assert (up.value - down.value) / 2e-5 == pytest.approx(here.gradient[i], rel=1e-6, abs=1e-8)
        assert (up.gradient - down.gradient) / 2e-5 == pytest.approx(here.hessian[i], rel=1e-6, abs=1e-8)


def test_rise_is_what_a_larger_floor_would_cost() -> None:
    problem, chart = batch(), to_chart(CONSTANTS)
    step = np.zeros((6, 1))
    step[0] = 1e-6
    slope = (expand(problem, chart + step, FLOOR).value - expand(problem, chart, FLOOR).value) / 1e-6
    assert expand(problem, chart, FLOOR).rise == pytest.approx(slope, rel=1e-4)
