"""The run that would identify a law: best among its candidates by the refitted covariance itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic import Array, sweep

from llama_scale.fitting.candidates import points_of
from llama_scale.fitting.forms import CHINCHILLA, FITTED, Form
from llama_scale.fitting.informative import candidates, most_informative, most_telling, relative_design
from llama_scale.fitting.noise import log_prediction
from llama_scale.fitting.points import Points


def sd_along(points: Points, constants: Array, form: Form, direction: Array, noise: float) -> float:
    design = relative_design(points, constants, form)
    return noise * float(np.sqrt(direction @ np.linalg.inv(design.T @ design) @ direction))


def with_run(points: Points, x: float | Array, y: float | Array) -> Points:
    return Points(
        x=np.append(points.x, x),
        y=np.append(points.y, y),
        z=np.append(points.z, np.zeros(np.size(x))),
        weights=np.append(points.weights, np.ones(np.size(x))),
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


def test_candidates_are_all_pairs_within_twice_the_ranges_for_four_times_the_flops() -> None:
    runs = sweep(0).take(np.arange(0, 36, 5))
    n, d = runs.parameters, runs.tokens
    ratios = d / n
    pairs = [
        (size, tokens)
        for size in np.geomspace(n.min() / 2, n.max() * 2, 31)
        for tokens in np.geomspace(d.min() / 2, d.max() * 2, 31)
        if size * tokens <= 4 * (n * d).max() and ratios.min() / 2 <= tokens / size <= ratios.max() * 2
    ]
    made = candidates(points_of(runs))
    found = np.exp([made.x + made.log_n, made.y + made.log_d]).T
    assert 400 < len(pairs) < 31**2
    assert found == pytest.approx(np.array(pairs), rel=1e-9)


@pytest.mark.parametrize("floor", [1.6, 0.0])
@pytest.mark.parametrize("name", ["chinchilla", "skaling"])
def test_the_design_is_what_relative_changes_do_to_log_losses(name: str, floor: float) -> None:
    """By central differences: of A and B under an outer power k by those of A^k and B^k."""
    form = next(form for key, form in FITTED.items() if key == name)
    points = points_of(sweep(0))
    constants = np.array([floor, 0.9, 0.7, 0.35, 0.45, 0.8][: 6 if name == "skaling" else 5])
    k = 0.8 if name == "skaling" else 1.0
    design, step = relative_design(points, constants, form), 1e-5
    for column in range(len(constants)):
        ends = []
        for sign in (-1, 1):
            moved = constants.copy()
            if column == 0:  # of a floor of 0, by what stands above it in the middle of the runs
                moved[0] += sign * step * (floor or (0.9 + 0.7) ** k)
            else:
                moved[column] *= (1 + sign * step) ** (1 / k if column in (1, 2) else 1)
            ends.append(log_prediction(points, moved))
        assert design[:, column] == pytest.approx((ends[1] - ends[0]) / (2 * step), rel=1e-4, abs=1e-7)


def test_a_run_that_weighs_as_much_as_two_tells_as_much() -> None:
    points = points_of(sweep(0))
    constants = CHINCHILLA.solve(points, delta=1e-2).constants
    twice = np.arange(len(points.x)) % 3 == 0
    weighted = replace(points, weights=1.0 + twice)
    copied = with_run(points, points.x[twice], points.y[twice])
    one, two = (
        most_informative(runs, constants, CHINCHILLA, noise=0.003, direction=np.eye(5)[3])
        for runs in (weighted, copied)
    )
    assert (one.parameters, one.tokens) == pytest.approx((two.parameters, two.tokens))
    assert (one.sd_before, one.sd_after) == pytest.approx((two.sd_before, two.sd_after), rel=1e-6)


def test_the_run_really_sharpens_a_fit() -> None:
    # 40 sweeps of few sizes, with and without the run that was asked for: alpha is known better with it
    few = sweep(0, trunk_noise=0, own_noise=0)
    few = few.take((few.parameters > 30_000) & (few.parameters < 200_000))
    points = points_of(few)
    best = CHINCHILLA.solve(points, delta=1e-2).constants
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
    one = CHINCHILLA.solve(points, delta=1e-2).constants
    other = one * np.array([1.1, 0.9, 0.9, 1.1, 1.0])
    found = most_telling(points, one, other)
    runs = candidates(points)
    gap = np.abs(log_prediction(runs, one) - log_prediction(runs, other))
    assert found.gap == pytest.approx(gap.max())
    assert found.sd_before is None
