"""Every form that can be fitted: known laws come back, weights count, narrower forms fit no better."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import sweep

from llama_scale.fitting.candidates import points_of
from llama_scale.fitting.forms import FITTED, Form
from llama_scale.fitting.newton import NAMES
from llama_scale.fitting.noise import log_prediction
from llama_scale.fitting.points import Points
from llama_scale.laws import FormName, ScalingLaw

TRUTHS: dict[FormName, ScalingLaw] = {
    "chinchilla": ScalingLaw(E=1.6, A=0.9 * 6e4**0.35, B=0.7 * 2e6**0.45, alpha=0.35, beta=0.45),
    "skaling": ScalingLaw(E=1.0, A=0.9 * 6e4**0.6, B=0.7 * 2e6**0.6, alpha=0.6, beta=0.6, k=0.45),
    "tied": ScalingLaw(E=1.6, A=0.9 * 6e4**0.4, B=0.7 * 2e6**0.4, alpha=0.4, beta=0.4),
    "kaplan": ScalingLaw(E=0.0, A=1.2 * 6e4**0.7, B=1.5 * 2e6, alpha=0.7, beta=1.0, k=0.2),
}
CASES = [pytest.param(form, TRUTHS[name], id=name) for name, form in FITTED.items()]


@pytest.mark.parametrize(("form", "truth"), CASES)
def test_a_law_without_noise_is_recovered(form: Form, truth: ScalingLaw) -> None:
    runs = sweep(0, law=truth, trunk_noise=0.0, own_noise=0.0)
    found = form.solve(points_of(runs), delta=1e-3)
    assert found.objective < 1e-10
    assert found.law.is_of(form.name)
    for name in form.layout.free:
        assert getattr(found.law, name) == pytest.approx(getattr(truth, name), rel=0.02)


@pytest.mark.parametrize(("form", "truth"), CASES)
def test_noisy_sweeps_bring_the_law_back_on_average(form: Form, truth: ScalingLaw) -> None:
    laws = []
    for seed in range(12):
        runs = sweep(seed, law=truth, trunk_noise=0.0, own_noise=0.002, held_out=True)
        laws.append(form.solve(points_of(runs), delta=1e-2, quick=True).law)
    ahead = sweep(0, law=truth, held_out=True).held_out
    assert ahead is not None
    guesses = np.array([law.loss(ahead.parameters, ahead.tokens) for law in laws])
    assert np.median(guesses, axis=0) == pytest.approx(truth.loss(ahead.parameters, ahead.tokens), rel=3e-3)
    assert np.median([law.exponent_a for law in laws]) == pytest.approx(truth.exponent_a, abs=0.03)


@pytest.mark.parametrize(("form", "truth"), CASES)
def test_weights_count_rows_in_solves_and_refits(form: Form, truth: ScalingLaw) -> None:
    runs = sweep(1, law=truth)
    generator = np.random.default_rng(0)
    counts = generator.integers(1, 4, 36).astype(np.intp)
    repeated = points_of(runs.take(np.repeat(np.arange(36), counts)))
    weighted = Points.of(runs.parameters, runs.tokens, runs.loss, counts.astype(float))
    one, other = (form.solve(points, delta=1e-2) for points in (repeated, weighted))
    assert one.objective == pytest.approx(other.objective, rel=1e-9)
    resamples = generator.integers(0, 3, (3, 36)).astype(float)
    alone = points_of(runs)
    plain = form.refit(alone, alone.constants(one.law), delta=1e-2, weights=resamples * counts.astype(float))
    within = form.refit(weighted, other.constants, delta=1e-2, weights=resamples)
    assert plain.objective == pytest.approx(within.objective, rel=1e-9)


@pytest.mark.parametrize(("form", "truth"), CASES)
def test_the_design_has_a_column_for_each_constant(form: Form, truth: ScalingLaw) -> None:
    points = points_of(sweep(0, law=truth))
    constants = points.constants(truth)
    design = form.design(points, constants)
    assert design.shape == (36, form.constants)
    for column, name in enumerate(form.layout.free):
        step = form.layout.spread[: len(constants), column] * 1e-6
        rise = log_prediction(points, constants + step) - log_prediction(points, constants - step)
        assert design[:, column] == pytest.approx(rise / 2e-6, abs=1e-7)
        assert NAMES[form.layout.rows[column]] == name


def test_a_narrower_form_never_fits_better() -> None:
    for seed in range(3):
        points = points_of(sweep(seed))
        found = {name: form.solve(points, delta=1e-3).objective for name, form in FITTED.items()}
        assert found["skaling"] <= found["chinchilla"] * (1 + 1e-9) <= found["tied"] * (1 + 2e-9)
        assert found["skaling"] <= found["kaplan"] * (1 + 1e-9)
