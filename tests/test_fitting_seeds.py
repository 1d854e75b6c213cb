"""Noise of seeds is measured from repeats, and weighs runs only as far as the law itself is true there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import LAW, independent_runs, sweep

from llama_scale.fitting import Settings, gather
from llama_scale.fitting.candidates import weights_of
from llama_scale.fitting.forms import CHINCHILLA
from llama_scale.fitting.observations import Observations
from llama_scale.fitting.points import Points
from llama_scale.fitting.seeds import repeat_groups, seed_noise


def repeated(seed: int, noise: np.ndarray, copies: int = 3, misfit: float = 0.0) -> Observations:
    """A sweep's runs under several seeds, each a family of its own; what the law misses they share."""
    generator = np.random.default_rng(seed)
    runs = sweep(0, trunk_noise=0, own_noise=0)
    many = runs.take(np.tile(np.arange(36), copies))
    shared = np.tile(misfit * generator.standard_normal(36), copies)
    error = shared + np.tile(noise, copies) * generator.standard_normal(36 * copies)
    return replace(
        many,
        families=tuple(str(i) for i in range(len(many))),
        loss=np.asarray(LAW.loss(many.parameters, many.tokens)) * np.exp(error),
    )


def test_repeats_measure_the_noise() -> None:
    found = [seed_noise(repeated(seed, np.full(36, 0.004))) for seed in range(8)]
    assert all(one is not None and (one.groups, one.degrees) == (36, 72) for one in found)
    assert np.median([one.sd for one in found if one]) == pytest.approx(0.004, rel=0.1)
    assert np.median([one.misfit for one in found if one]) < 0.001
    assert np.median([abs(one.slope) for one in found if one]) < 0.2
    assert "36 points were run with several seeds" in str(found[0] and found[0].note)


def test_noise_that_falls_with_compute_weighs_dear_runs_more() -> None:
    flops = sweep(0).train_flops
    noise = 0.006 * (flops / flops.min()) ** -0.5
    runs = repeated(1, noise)
    found = seed_noise(runs)
    assert found is not None
    weights = found.weights
    assert weights.mean() == pytest.approx(1)
    dear = runs.train_flops > np.median(runs.train_flops)
    assert weights[dear].mean() > 1.5 * weights[~dear].mean()


def test_weights_bring_constants_nearer() -> None:
    flops = sweep(0).train_flops
    noise = 0.01 * (flops / flops.min()) ** -1.0
    plain, weighted = [], []
    for seed in range(12):
        runs = repeated(seed, noise)
        found = seed_noise(runs)
        assert found is not None
        for errors, use in ((plain, None), (weighted, found.weights)):
            points = Points.of(runs.parameters, runs.tokens, runs.loss, use)
            errors.append(CHINCHILLA.solve(points, delta=1e-2).law.alpha - LAW.alpha)
    assert np.std(weighted) < np.std(plain)


def test_five_seeds_where_the_law_is_wrong_count_as_one_run() -> None:
    runs = repeated(0, np.full(36, 0.001), copies=2, misfit=0.02)
    keep = np.r_[np.arange(36), 36:48]  # twelve points were run twice
    found = seed_noise(runs.take(keep))
    assert found is not None
    assert found.misfit == pytest.approx(0.02, rel=0.35)
    assert found.weights[0] == pytest.approx(0.5 * found.weights[20], rel=0.05)


def test_runs_that_repeat_less_text_are_no_seeds() -> None:
    runs = repeated(0, np.full(36, 0.004), copies=2)
    text = np.where(np.arange(72) < 36, runs.tokens, runs.tokens / 4)
    assert len(set(repeat_groups(replace(runs, unique_tokens=text)))) == 72
    assert len(set(repeat_groups(replace(runs, unique_tokens=4 * text)))) == 36


def test_a_grid_of_settings_measures_no_noise_of_seeds(shared_data: Path) -> None:
    runs = gather(shared_data / "misfitting_sweep.csv")  # a grid of learning rates
    assert len(set(repeat_groups(runs))) < len(runs)
    assert seed_noise(runs) is None


def test_published_fits_are_of_runs_that_all_weigh_alike(shared_data: Path) -> None:
    runs = gather(shared_data / "chinchilla.csv", where=["excluded_by_besiroglu = 0"])
    assert (weights_of(runs, Settings(form="chinchilla").candidates[0]) == 1).all()


def test_without_repeats_there_are_no_weights() -> None:
    assert seed_noise(independent_runs(0)) is None
    runs = sweep(0)
    assert seed_noise(runs) is None
    copies = runs.take(np.tile(np.arange(36), 2))  # rows written twice are one run, not two seeds
    assert seed_noise(copies) is None
    assert len(set(repeat_groups(copies))) == 72
