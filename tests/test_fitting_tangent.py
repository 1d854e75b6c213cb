"""Tangent problems of resamples: their design is the law's slope, and their minima lie near the law's own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic import independent_runs

from llama_scale.fitting.candidates import points_of
from llama_scale.fitting.forms import CHINCHILLA, TIED, Form
from llama_scale.fitting.newton import FIVE, to_chart, to_constants
from llama_scale.fitting.noise import log_prediction
from llama_scale.fitting.tangent import TangentMoves, tangent_minima


@pytest.mark.parametrize("form", [CHINCHILLA, TIED])
def test_the_design_is_the_slope_of_log_predictions(form: Form) -> None:
    points, layout = points_of(independent_runs(0, count=30)), form.layout
    chart = to_chart(form.solve(points).constants[:, None], True)[:, 0]
    moves = TangentMoves.at(chart, points.x, points.y, layout)

    def predicted(move: np.ndarray) -> np.ndarray:
        return log_prediction(points, to_constants((chart + layout.spread[:5] @ move)[:, None], True)[:, 0])

    assert moves.base == pytest.approx(predicted(np.zeros(len(layout.free))))
    for column, move in zip(moves.design.T, 1e-6 * np.eye(len(layout.free)), strict=True):
        assert (predicted(move) - predicted(-move)) / 2e-6 == pytest.approx(column, rel=1e-5, abs=1e-8)


def test_minima_of_tangent_problems_are_near_those_of_resamples() -> None:
    points = points_of(independent_runs(1))
    start = CHINCHILLA.solve(points).constants
    rows = len(points.x)
    counts = np.random.default_rng(0).multinomial(rows, np.full(rows, 1 / rows), size=40).astype(float)
    problems = points.problems(weights=counts)
    _, near = tangent_minima(problems, start, deltas=(1e-2, 1e-3), layout=FIVE)
    found = CHINCHILLA.refit(points, start, delta=1e-3, weights=counts)
    left, covered = (np.abs(one - found.constants) for one in (near, start[:, None]))
    assert (np.median(left, axis=1) < 0.3 * np.median(covered, axis=1)).all()


def test_a_far_minimum_is_only_approached() -> None:
    points = points_of(independent_runs(0, count=30))
    start = CHINCHILLA.solve(points).constants
    elsewhere = 1.2 - 0.9 * points.x[None]
    problems = points.problems(log_losses=elsewhere)
    (found,) = tangent_minima(problems, start, deltas=(10.0,), layout=FIVE)  # so that every residual pulls
    assert np.isfinite(found).all()
    assert np.abs(found[3:, 0] - start[3:]).max() == pytest.approx(0.3)


def test_where_ways_of_a_resample_part_further_starts_decide() -> None:
    """Twelve noisy rows: without the further starts 10 of these 60 end above their optimum."""
    points = points_of(independent_runs(0, count=12, noise=0.05))
    simulated = points.z + 0.05 * np.random.default_rng(0).standard_normal((60, 12))
    found = CHINCHILLA.refit(points, CHINCHILLA.solve(points).constants, delta=1e-3, log_losses=simulated)
    optima = np.array([CHINCHILLA.solve(replace(points, z=row)).objective for row in simulated])
    assert (found.objective > 1.001 * optima).sum() <= 5
