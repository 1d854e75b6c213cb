"""Noise of trunks and of runs: both parts are recovered, and constants cost degrees of freedom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic import sweep

from llama_scale.fitting import gather
from llama_scale.fitting.candidates import Candidate, points_of
from llama_scale.fitting.candidates import solve as solve_candidate
from llama_scale.fitting.forms import CHINCHILLA, FITTED
from llama_scale.fitting.noise import Noise, Shared, estimate_noise, jacobian, log_prediction
from llama_scale.fitting.uncertainty import model_noise, noise_of

RESULTS = Path(__file__).parent.parent / "sweeps" / "results"


def test_both_parts_of_the_noise_are_recovered() -> None:
    found = []
    for seed in range(30):
        runs = sweep(seed, trunk_noise=0.006, own_noise=0.002)
        noise = model_noise(
            points_of(runs), runs.family_codes, draws=200, generator=np.random.default_rng(seed)
        )
        found.append((np.median(noise.trunk), np.median(noise.own)))
    trunk, own = np.median(found, axis=0)
    assert own == pytest.approx(0.002, rel=0.15)
    assert trunk == pytest.approx(0.006, rel=0.3)


def test_weights_by_compute_make_no_run_quieter() -> None:
    """The noise that every run was given comes back whatever the fit weighs them by."""
    medians = []
    for power in (0.0, 1.0):
        candidate = Candidate(form="chinchilla", power=power)
        totals = []
        for seed in range(20):
            runs = sweep(seed, trunk_noise=0.003, own_noise=0.003)
            constants = solve_candidate(runs, candidate).constants
            generator = np.random.default_rng(seed)
            totals.append(
                np.median(noise_of(runs, candidate, constants, draws=200, generator=generator).total)
            )
        medians.append(float(np.median(totals)))
    assert medians[1] == pytest.approx(medians[0])
    assert medians[1] == pytest.approx(np.hypot(0.003, 0.003), rel=0.15)


def test_trunks_that_repeat_each_other_closely_are_not_noisy() -> None:
    """Linear in the constants, the likelihood took E below zero and gave these trunks 2.7 % of noise."""
    runs = gather(RESULTS / "twenty-minutes-seed23.json")
    by_size = {
        size: [
            np.log(runs.loss[(runs.parameters == size) & (runs.family_codes == family)]).mean()
            for family in set(runs.family_codes[runs.parameters == size].tolist())
        ]
        for size in set(runs.parameters.tolist())
    }
    apart = [np.ptp(levels) for levels in by_size.values() if len(levels) == 2]
    assert len(apart) == 3
    assert max(apart) < 0.005
    for form in FITTED.values():
        noise = model_noise(
            points_of(runs), runs.family_codes, draws=400, generator=np.random.default_rng(0), form=form
        )
        assert np.quantile(noise.trunk, 0.9) < 0.01


def test_products_are_those_over_the_covariance() -> None:
    generator = np.random.default_rng(0)
    families, columns = np.array([0, 1, 0, 2, 1, 0]), generator.normal(size=(6, 2))
    ratios = np.array([0.0, 0.5, 9.0])
    shared = Shared.of(families, ratios)
    for ratio, product, volume in zip(ratios, shared.products(columns, columns), shared.volume, strict=True):
        covariance = np.eye(6) + ratio * (families[:, None] == families)
        assert product == pytest.approx(columns.T @ np.linalg.solve(covariance, columns))
        assert volume == pytest.approx(np.linalg.slogdet(covariance)[1])


def test_constants_cost_degrees_of_freedom() -> None:
    runs = sweep(0, trunk_noise=0.0, own_noise=0.003)
    points = points_of(runs)
    least = CHINCHILLA.solve(points, delta=10.0).constants
    generator = np.random.default_rng(0)
    noise = estimate_noise(
        points, least, CHINCHILLA.layout, runs.family_codes, draws=4000, generator=generator
    )
    # five constants were fitted: without trunks' part the sum of squares has 31 degrees of freedom, not 36
    calm = noise.own[noise.trunk == 0]
    expected = np.sqrt(((points.z - log_prediction(points, least)) ** 2).sum() / 31)
    assert np.median(calm) == pytest.approx(expected, rel=0.04)
    assert np.std(calm) > 0.05 * expected


def test_losses_of_a_law_itself_have_no_noise() -> None:
    runs = sweep(0, trunk_noise=0.0, own_noise=0.0)
    noise = model_noise(points_of(runs), runs.family_codes, draws=50, generator=np.random.default_rng(0))
    assert np.isfinite(noise.total).all()
    assert noise.total.max() < 1e-6


def test_simulated_noise_is_shared_by_a_trunk() -> None:
    noise = Noise(trunk=np.full(4000, 0.02), own=np.full(4000, 0.01))
    families = np.array([0, 0, 1])
    made = noise.simulate(families, np.random.default_rng(0))
    correlation = np.cov(made.T) / np.hypot(0.02, 0.01) ** 2
    assert made.std(axis=0) == pytest.approx(np.full(3, np.hypot(0.02, 0.01)), rel=0.05)
    assert correlation[0, 1:] == pytest.approx([0.8, 0.0], abs=0.05)
    assert noise.total == pytest.approx(np.full(4000, np.hypot(0.02, 0.01)))


def test_the_design_is_the_derivative_of_the_prediction() -> None:
    points = points_of(sweep(0))
    constants = CHINCHILLA.solve(points).constants
    design = jacobian(points, constants)
    for i in range(5):
        step = np.zeros(5)
        step[i] = 1e-6
        slope = (log_prediction(points, constants + step) - log_prediction(points, constants - step)) / 2e-6
        assert design[:, i] == pytest.approx(slope, abs=1e-7)
    both = np.stack([constants, constants * 1.1], axis=1)
    assert np.array_equal(jacobian(points, both)[0], design)
