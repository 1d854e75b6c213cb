"""The Skaling form: known laws come back, k = 1 is the Chinchilla fit, SciPy finds nothing better."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize
from synthetic import sweep

from llama_scale.fitting.newton import FIVE, Array
from llama_scale.fitting.noise import jacobian, log_prediction
from llama_scale.fitting.skaling import (
    Batch,
    centre_excess,
    expand,
    likes,
    minimise,
    refit,
    solve,
    starts_of,
    to_chart,
    to_constants,
)
from llama_scale.fitting.solver import Points
from llama_scale.fitting.solver import solve as solve_chinchilla
from llama_scale.fitting.uncertainty import points_of
from llama_scale.laws import ScalingLaw

TRUTH = ScalingLaw(E=1.0, A=0.9 * 6e4**0.6, B=0.7 * 2e6**0.6, alpha=0.6, beta=0.6, k=0.45)
DELTA = 1e-2


def test_a_law_without_noise_is_recovered() -> None:
    runs = sweep(0, law=TRUTH, trunk_noise=0.0, own_noise=0.0)
    found = solve(points_of(runs), delta=DELTA)
    assert found.objective < 1e-9
    assert found.law.form == "skaling"
    assert found.law.k == pytest.approx(0.45, abs=0.02)
    assert pytest.approx(1.0, abs=0.05) == found.law.E


def test_a_noisy_sweep_predicts_four_times_its_compute() -> None:
    runs = sweep(1, law=TRUTH, held_out=True)
    law, ahead = solve(points_of(runs), delta=DELTA).law, runs.held_out
    assert ahead is not None
    truth = np.asarray(TRUTH.loss(ahead.parameters, ahead.tokens))
    assert np.asarray(law.loss(ahead.parameters, ahead.tokens)) == pytest.approx(truth, rel=0.015)


def test_with_k_held_at_one_it_is_the_chinchilla_fit() -> None:
    points = points_of(sweep(2))
    for delta in (1e-3, 1e-2):
        chinchilla = solve_chinchilla(points, delta=delta)
        start = np.append(chinchilla.constants * 1.1, 1.0)[:, None]
        found = minimise(points, start, delta=delta, layout=FIVE)
        assert found.objective[0] == pytest.approx(chinchilla.objective, rel=1e-5)
        assert found.constants[5, 0] == 1.0
        assert solve(points, delta=delta).objective <= chinchilla.objective * (1 + 1e-9)


def test_the_chart_turns_into_constants_and_back() -> None:
    points = points_of(sweep(0))
    starts = starts_of(points)
    assert to_constants(to_chart(starts)) == pytest.approx(starts, rel=1e-9)
    _, a, b, _, _, k = starts
    assert centre_excess(to_chart(starts)) == pytest.approx((a + b) ** k)


def test_likes_share_the_level_and_the_slopes() -> None:
    points = Points.of(np.exp(np.linspace(-1e-4, 1e-4, 9)), np.ones(9), np.ones(9))
    constants = np.array([0.4, 3.0, 2.0, 0.6, 0.5, 0.45])
    others = likes(constants)
    expected = log_prediction(points, constants)
    for other in others.T:
        assert log_prediction(points, other) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("floor", [0.0, 0.8])
def test_the_gradient_is_the_objectives_derivative(floor: float) -> None:
    points = points_of(sweep(0, law=TRUTH))
    chart = to_chart(np.array([floor, 3.0, 2.0, 0.5, 0.6, 0.7])[:, None])
    batch = Batch(points, points.z[None], points.weights[None])
    gradient = expand(batch, chart, DELTA).gradient[:, 0]

    def moved(row: int, size: float) -> float:
        other = chart.copy()
        if row:
            other[row] += size
        if not on_floor:
            level = chart[0] + centre_excess(chart) + (size if row == 0 else 0.0)
            other[0] = level - centre_excess(other)
        return float(expand(batch, other, DELTA).value[0])

    on_floor = bool(expand(batch, chart, DELTA).on_floor[0])
    for row in range(1 if on_floor else 0, 6):
        slope = (moved(row, 1e-6) - moved(row, -1e-6)) / 2e-6
        assert gradient[row] == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_the_design_has_a_column_for_k() -> None:
    points = points_of(sweep(0))
    constants = np.array([0.8, 3.0, 2.0, 0.5, 0.6, 0.7])
    design = jacobian(points, constants)
    assert design.shape == (36, 6)
    for i in range(6):
        step = np.zeros(6)
        step[i] = 1e-6
        slope = (log_prediction(points, constants + step) - log_prediction(points, constants - step)) / 2e-6
        assert design[:, i] == pytest.approx(slope, abs=1e-7)


def test_scipy_finds_nothing_better() -> None:
    points = points_of(sweep(3, law=TRUTH))
    ours = solve(points, delta=DELTA)

    def objective(theta: Array) -> float:
        constants = np.append(theta[0] ** 2, np.exp(np.clip(theta[1:], -20, 20)))
        size = np.abs(log_prediction(points, constants) - points.z)
        return float(np.where(size <= DELTA, size**2 / 2, DELTA * (size - DELTA / 2)).sum()) * 1e3

    start = np.append(np.sqrt(ours.constants[0]), np.log(ours.constants[1:]))
    generator = np.random.default_rng(0)
    options = {"maxiter": 4000, "maxfev": 4000, "fatol": 1e-12, "xatol": 1e-9}
    for spread in (0.0, 0.1, 0.2):
        away = start * (1 + spread * generator.standard_normal(6))
        found = scipy_minimize(objective, away, method="Nelder-Mead", options=options)
        assert ours.objective * 1e3 <= found.fun * (1 + 1e-5)


def test_resamples_end_no_higher_than_where_they_start() -> None:
    runs = sweep(4, law=TRUTH)
    points, generator = points_of(runs), np.random.default_rng(0)
    best = solve(points, delta=DELTA)
    counts = generator.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=10).astype(float)
    found = refit(points, best.constants, delta=DELTA, weights=counts)
    batch = Batch(points, np.broadcast_to(points.z, (10, 36)), counts)
    at_start = expand(batch, to_chart(np.tile(best.constants[:, None], 10)), DELTA).value
    assert found.converged.all()
    assert (found.objective <= at_start).all()


def test_losses_without_a_floor_end_at_zero() -> None:
    law = ScalingLaw(E=0.0, A=700 * 6e4**0.92, B=1000 * 2e6**0.93, alpha=0.92, beta=0.93, k=0.164)
    found = solve(points_of(sweep(0, law=law)), delta=DELTA)
    assert found.law.E >= 0
    assert found.objective < 1e-3
    assert set(found.at_bound) <= {"E"}
