"""Approach 2: parabolas, their verdicts, and the published Llama 3 numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import BUDGETS, LAW, independent_runs, sweep

from llama_scale.fitting import gather
from llama_scale.fitting.isoflop import isoflop
from llama_scale.fitting.noise import Noise


def test_llama3s_published_exponent_and_its_outliers(shared_data: Path) -> None:
    # ../shared/data/README.md, item 3: D* = 0.2994 C^0.5368, N* 393.3B at 3.8e25; .500 without outliers
    path = shared_data / "llama3_isoflop.csv"
    found = isoflop(gather(path))
    assert found is not None
    assert found.line is not None
    assert 1 - found.line.exponent == pytest.approx(0.5368, abs=5e-5)
    assert np.exp(-found.line.log_coefficient) / 6 == pytest.approx(0.2994, abs=5e-5)
    assert found.line.at(3.8e25) == pytest.approx(393.3e9, rel=2e-4)
    clean = isoflop(gather(path, where=["outlier = 0"]))
    assert clean is not None
    assert clean.line is not None
    assert clean.line.exponent == pytest.approx(0.500, abs=5e-4)
    interval = found.line.exponent_range(0.9)
    assert interval is not None
    assert interval.low < found.line.exponent < interval.high < clean.line.exponent


def test_a_sweep_around_its_optima_finds_them() -> None:
    found = isoflop(sweep(0, trunk_noise=0.0, own_noise=0.0005))
    assert found is not None
    assert found.line is not None
    assert [p.verdict for p in found.profiles] == ["interior"] * len(BUDGETS)
    for profile in found.profiles:
        assert profile.parameters == pytest.approx(LAW.compute_optimum(profile.budget).parameters, rel=0.12)
    # sizes reach 15 times, where a parabola is no longer the profile's shape: its known bias
    exact = isoflop(sweep(0, trunk_noise=0.0, own_noise=0.0))
    assert exact is not None
    assert exact.line is not None
    assert found.line.exponent == pytest.approx(exact.line.exponent, abs=0.01)
    assert exact.line.exponent == pytest.approx(LAW.exponent_a, abs=0.08)


def test_a_budget_whose_sizes_are_all_on_one_side_has_no_minimum() -> None:
    whole = sweep(0, trunk_noise=0.0, own_noise=0.0)
    small = isoflop(whole.take(whole.parameters < 65_000))
    large = isoflop(whole.take(whole.parameters > 55_000))
    assert small is not None
    assert large is not None
    assert small.profiles[-1].parameters is None
    assert {p.verdict for p in small.profiles} == {"too few sizes"}
    assert large.profiles[0].verdict == "below the sizes"


def test_a_bent_down_profile_is_called_so() -> None:
    runs = sweep(0, trunk_noise=0.0, own_noise=0.0)
    upside_down = runs.take(np.arange(len(runs)))
    upside_down.loss[:] = 8 - upside_down.loss
    found = isoflop(upside_down)
    assert found is not None
    assert {p.verdict for p in found.profiles} == {"not convex"}
    assert found.line is None


def test_repeats_of_two_sizes_make_no_profile() -> None:
    runs = sweep(0)
    sizes = np.unique(runs.parameters)
    lowest = runs.budgets == runs.budgets.min()
    kept = np.flatnonzero(~lowest | (runs.parameters <= sizes[1]))
    doubled = runs.take(np.concatenate([kept, np.flatnonzero(lowest & (runs.parameters == sizes[0]))]))
    found = isoflop(doubled)
    assert found is not None
    assert len(found.profiles) == len(BUDGETS) - 1


def test_scattered_runs_form_no_budgets() -> None:
    assert isoflop(independent_runs(0, count=25)) is None


def test_a_minimum_that_the_scatter_lets_out_has_an_open_interval() -> None:
    sharp, blunt = (isoflop(sweep(4, trunk_noise=0.0, own_noise=noise)) for noise in (0.0005, 0.06))
    assert sharp is not None
    assert blunt is not None
    assert all(None not in p.interval for p in sharp.profiles)
    assert any(None in p.interval for p in blunt.profiles)


def test_tokens_follow_budgets_that_are_not_6nd() -> None:
    runs = sweep(0, trunk_noise=0.0, own_noise=0.0)
    dearer = replace(runs, train_flops=1.3 * runs.train_flops, budgets=1.3 * runs.budgets)
    plain, found = isoflop(runs), isoflop(dearer)
    assert plain is not None
    assert found is not None
    for one, other in zip(plain.profiles, found.profiles, strict=True):
        assert (other.parameters, other.tokens) == pytest.approx((one.parameters, one.tokens))
        assert one.parameters is not None
        assert one.tokens == pytest.approx(one.budget / 6 / one.parameters)


def test_intervals_of_independent_runs_are_students() -> None:
    """Scatter pooled over three budgets of five sizes has 6 degrees of freedom; the rest by propagation."""
    generator, budgets = np.random.default_rng(1), (1e18, 1e19, 1e20)
    u = np.log(2) * np.arange(-2, 3)
    rows = []
    for budget in budgets:
        sizes = 1e7 * (budget / 1e18) ** 0.5 * np.exp(u)
        losses = 3 + 0.05 * (u - 0.2) ** 2 + 1e-4 * generator.standard_normal(5)
        runs = zip(sizes, losses, strict=True)
        rows += [{"parameters": n, "tokens": budget / 6 / n, "loss": x, "budget": budget} for n, x in runs]
    found = isoflop(gather(rows), draws=20_000)
    assert found is not None
    fits = [np.polyfit(u, profile.losses, 2) for profile in found.profiles]
    residuals = [
        np.polyval(fit, u) - profile.losses for fit, profile in zip(fits, found.profiles, strict=True)
    ]
    scatter = np.sqrt(np.sum(np.square(residuals)) / (15 - 9))
    inverse = np.linalg.inv(np.vander(u, 3).T @ np.vander(u, 3))
    for (bend, slope, _), profile in zip(fits, found.profiles, strict=True):
        by_coefficient = np.array([slope / (2 * bend**2), -1 / (2 * bend), 0])
        half = 1.943 * scatter * np.sqrt(by_coefficient @ inverse @ by_coefficient)  # t of 6, 5 % above
        low, high = np.log(np.array(profile.interval, float)) - np.log(profile.parameters or np.nan)
        assert (-low, high) == pytest.approx((half, half), rel=0.06)


def test_intervals_know_the_noise_that_trunks_share() -> None:
    # the parabolas' own exponent, without noise: 90 % intervals hold it in 94 of 100 sweeps
    exact = isoflop(sweep(0, trunk_noise=0.0, own_noise=0.0))
    assert exact is not None
    assert exact.line is not None
    noise = Noise(trunk=np.full(200, 0.003), own=np.full(200, 0.0015))
    inside = []
    for seed in range(20):
        found = isoflop(sweep(seed), noise=noise, seed=seed)
        assert found is not None
        assert found.line is not None
        interval = found.line.exponent_range(0.9)
        assert interval is not None
        inside.append(interval.low <= exact.line.exponent <= interval.high)
    assert np.mean(inside) >= 0.8
