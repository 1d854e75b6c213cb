"""The run that would identify a law: best among its candidates by the refitted covariance itself."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import Array, sweep

from llama_scale.fitting.candidates import points_of
from llama_scale.fitting.forms import CHINCHILLA, FITTED, Form
from llama_scale.fitting.informative import candidates, most_informative, most_telling, relative_design
from llama_scale.fitting.noise import log_prediction
from llama_scale.fitting.points import Points
from llama_scale.fitting.solver import solve


def sd_along(points: Points, constants: Array, form: Form, direction: Array, noise: float) -> float:
    design = relative_design(points, constants, form)
    return noise * float(np.sqrt(direction @ np.linalg.inv(design.T @ design) @ direction))


def with_run(points: Points, x: float, y: float) -> Points:
    return Points(
        x=np.append(points.x, x),
        y=np.append(points.y, y),
        z=np.append(points.z, 0.0),
        weights=np.append(points.weights, 1.0),
        log_n=points.log_n,
        log_d=points.log_d,
    )


@pytest.mark.parametrize("name", ["chinchilla", "tied", "skaling"])
def test_no_candidate_leaves_less_uncertainty(name: str) -> None:
    form = next(form for key, form in FITTED.items() if key == name)
    points = points_of(sweep(0))
    constants = form.solve(points, delta=1e-2).constants
    direction = np.eye(form.constants)[1]
    found = most_informative(points, constants, form, noise=0.003, direction=direction)
    assert found.sd_before == pytest.approx(sd_along(points, constants, form, direction, 0.003), rel=1e-4)
    runs = candidates(points)
    after = [
        sd_along(with_run(points, x, y), constants, form, direction, 0.003)
        for x, y in zip(runs.x[::9], runs.y[::9], strict=True)
    ]
    assert found.sd_after is not None
    assert found.sd_after <= min(after) * (1 + 1e-6)
    x, y = np.log(found.parameters) - points.log_n, np.log(found.tokens) - points.log_d
    there = sd_along(with_run(points, x, y), constants, form, direction, 0.003)
    assert there == pytest.approx(found.sd_after, rel=1e-3)


def test_candidates_lie_within_reach() -> None:
    runs = sweep(0)
    points = points_of(runs)
    made = candidates(points)
    sizes, tokens = np.exp(made.x + points.log_n), np.exp(made.y + points.log_d)
    for values, seen in ((sizes, runs.parameters), (tokens, runs.tokens)):
        assert values.min() >= seen.min() / 2.0001
        assert values.max() <= seen.max() * 2.0001
    assert (6 * sizes * tokens).max() <= 4.0001 * (6 * runs.parameters * runs.tokens).max()
    assert (tokens / sizes).max() <= 2.0001 * (runs.tokens / runs.parameters).max()
    assert len(sizes) > 200


def test_the_run_really_sharpens_a_fit() -> None:
    # 40 sweeps of few sizes, with and without the run that was asked for: alpha is known better with it
    few = sweep(0, trunk_noise=0, own_noise=0)
    few = few.take((few.parameters > 30_000) & (few.parameters < 200_000))
    points = points_of(few)
    best = solve(points, delta=1e-2).constants
    run = most_informative(points, best, CHINCHILLA, noise=0.003, direction=np.eye(5)[3])
    longer = with_run(points, np.log(run.parameters) - points.log_n, np.log(run.tokens) - points.log_d)
    clean, generator = log_prediction(longer, best), np.random.default_rng(0)
    noisy = clean + 0.003 * generator.standard_normal((40, len(clean)))
    spread = []
    for base, rows in ((points, slice(0, len(points.x))), (longer, slice(None))):
        found = CHINCHILLA.refit(base, best, delta=1e-2, log_losses=noisy[:, rows])
        low, high = np.quantile(found.constants[3], [0.1, 0.9])
        spread.append(high - low)
    assert spread[1] < 0.8 * spread[0]


def test_two_minima_are_told_apart_where_they_differ_most() -> None:
    points = points_of(sweep(0))
    one = solve(points, delta=1e-2).constants
    other = one * np.array([1.1, 0.9, 0.9, 1.1, 1.0])
    found = most_telling(points, one, other)
    runs = candidates(points)
    gap = np.abs(log_prediction(runs, one) - log_prediction(runs, other))
    assert found.gap == pytest.approx(gap.max())
    assert found.sd_before is None
