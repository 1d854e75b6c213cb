"""Approach 1: known laws recovered from ends and from curves, its intervals' coverage, its refusals."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import BUDGETS, LAW, sweep

from llama_scale.fitting import gather
from llama_scale.fitting.envelope import Envelope, bias_under, envelope
from llama_scale.fitting.noise import Noise
from llama_scale.fitting.observations import Observations, Row, Rows, observe
from llama_scale.fitting.rows import TrainingCurve
from llama_scale.fitting.size_curves import has_ends, smooth
from llama_scale.laws import ScalingLaw, published
from llama_scale.runs import load_records

RESULTS = Path(__file__).parents[1] / "sweeps" / "results"
WIDE = published().law
SIZES = np.exp(np.linspace(np.log(5e7), np.log(1.6e10), 16))


def wide_sweep(seed: int, noise: float) -> Observations:
    """Independent runs of 16 sizes at up to 14 budgets."""
    generator = np.random.default_rng(seed)
    rows = []
    for size in SIZES:
        for budget in np.exp(np.linspace(np.log(1e18), np.log(3e21), 14)):
            tokens = budget / 6 / size
            if 1 < tokens / size < 400:
                loss = float(WIDE.loss(size, tokens) * np.exp(noise * generator.standard_normal()))
                name = f"r{len(rows)}"
                rows.append(Row(name=name, place=name, parameters=size, tokens=tokens, loss=loss))
    return observe([Rows(source="synthetic", rows=tuple(rows), convention="total")])


def found_in(runs: Observations, **words: object) -> Envelope:
    found = envelope(runs, **words)  # pyright: ignore[reportArgumentType]
    assert found is not None
    assert found.of_parameters is not None, found.reason
    return found


def exponents(found: Envelope) -> tuple[float, float]:
    assert found.of_parameters is not None
    assert found.of_tokens is not None
    return found.of_parameters.exponent, found.of_tokens.exponent


def test_a_known_law_is_recovered_from_many_sizes_and_from_few() -> None:
    many, few = found_in(wide_sweep(0, 0.0)), found_in(sweep(0, trunk_noise=0.0, own_noise=0.0))
    assert many.kind == few.kind == "ends"
    assert exponents(many) == pytest.approx((WIDE.exponent_a, 1 - WIDE.exponent_a), abs=2e-3)
    assert exponents(few) == pytest.approx((LAW.exponent_a, 1 - LAW.exponent_a), abs=2e-3)
    assert few.of_parameters is not None
    assert few.of_parameters.at(BUDGETS[-1]) == pytest.approx(
        LAW.compute_optimum(BUDGETS[-1]).parameters, rel=0.01
    )


def test_every_point_lies_between_sizes_and_on_its_budget() -> None:
    runs = wide_sweep(1, 0.003)
    found = found_in(runs)
    assert len(found.flops) > 1000
    assert (found.parameters > SIZES[0]).all()
    assert (found.parameters < SIZES[-1]).all()
    assert 6 * found.parameters * found.tokens == pytest.approx(found.flops, rel=1e-6)


def test_intervals_of_independent_runs_cover_the_law() -> None:
    # 90 % nominal; of 60 sweeps with these settings 92 % are covered (benchmarked on 60 seeds)
    inside = []
    for seed in range(20):
        line = found_in(wide_sweep(seed + 1, 0.003), draws=100, seed=seed).of_parameters
        assert line is not None
        interval = line.exponent_range(0.9)
        assert interval is not None
        inside.append(interval.low <= WIDE.exponent_a <= interval.high)
    assert 0.75 <= np.mean(inside) <= 1


def test_intervals_of_shared_trunks_cover_the_law() -> None:
    # 90 % nominal; 95 % of 100 sweeps
    noise = Noise(trunk=np.full(100, 0.003), own=np.full(100, 0.0015))
    inside = []
    for seed in range(20):
        line = found_in(sweep(seed), noise=noise, seed=seed).of_parameters
        assert line is not None
        interval = line.exponent_range(0.9)
        assert interval is not None
        inside.append(interval.low <= LAW.exponent_a <= interval.high)
    assert np.mean(inside) >= 0.8


def test_its_bias_under_a_law_is_what_made_up_runs_of_that_law_show(shared_data: Path) -> None:
    # Llama 3's design points, .5 % noise: over 30 seeds a is .088 too low, and 13 of 30 intervals hold it.
    runs = gather(shared_data / "llama3_isoflop.csv")
    law = ScalingLaw(E=0.594, A=38.3, B=160.2, alpha=0.2835, beta=0.3157)
    exact = np.asarray(law.loss(runs.parameters, runs.tokens))
    made_up = [
        exponents(found_in(replace(runs, loss=exact * np.exp(0.005 * generator.standard_normal(len(runs))))))[
            0
        ]
        for generator in map(np.random.default_rng, range(20))
    ]
    noise = Noise(trunk=np.zeros(100), own=np.full(100, 0.005))
    bias = bias_under(runs, law, noise=noise)
    assert bias is not None
    assert bias == pytest.approx(np.mean(made_up) - law.exponent_a, abs=0.02)
    assert bias < -0.05
    sound = bias_under(wide_sweep(0, 0.0), WIDE, noise=replace(noise, own=np.full(100, 0.003)))
    assert sound == pytest.approx(0, abs=0.01)


def test_curves_along_runs_have_no_bias_that_a_law_could_tell() -> None:
    rows = [
        Row(name=f"r{n}", place="", parameters=n, tokens=200 * n, loss=float(WIDE.loss(n, 200 * n)))
        for n in SIZES
    ]
    ends = observe([Rows(source="synthetic", rows=tuple(rows), convention="total")])
    noise = Noise(trunk=np.zeros(10), own=np.full(10, 0.003))
    assert bias_under(replace(ends, curves=curves(SIZES)), WIDE, noise=noise) is None


def curves(sizes: np.ndarray, burn_in: float = 1.0, excess: float = 1.0) -> tuple[TrainingCurve, ...]:
    """Noisy losses along runs of 20 tokens a parameter and more, `excess` times those of finished runs."""
    generator = np.random.default_rng(0)
    made = []
    for size in sizes:
        tokens = np.linspace(burn_in, 200, 400) * size
        loss = np.asarray(WIDE.loss(size, tokens)) * excess
        made.append(
            TrainingCurve(
                run=f"{size:.3g}",
                parameters=float(size),
                flops_per_token=6 * float(size),
                tokens=tokens,
                loss=loss * np.exp(0.01 * generator.standard_normal(400)),
            )
        )
    return tuple(made)


def test_curves_stand_in_where_sizes_have_one_end_each() -> None:
    rows = [
        Row(name=f"r{n}", place="", parameters=n, tokens=200 * n, loss=float(WIDE.loss(n, 200 * n)))
        for n in SIZES
    ]
    ends = observe([Rows(source="synthetic", rows=tuple(rows), convention="total")])
    assert not has_ends(ends)
    assert envelope(ends) is None
    found = found_in(replace(ends, curves=curves(SIZES)), draws=50)
    assert found.kind == "curves"
    assert exponents(found)[0] == pytest.approx(WIDE.exponent_a, abs=0.03)
    assert found.of_parameters is not None
    assert found.of_parameters.exponent_range(0.9) is None  # a bias is no scatter


def test_ends_are_preferred_to_curves() -> None:
    runs = sweep(0)
    assert found_in(replace(runs, curves=curves(SIZES))).kind == "ends"


def test_too_few_best_sizes_are_refused_with_the_reason() -> None:
    runs = sweep(0, trunk_noise=0.0, own_noise=0.0)
    large = envelope(runs.take(runs.parameters > 55_000))
    assert large is not None
    assert large.of_parameters is None
    assert "no size is ever best between a smaller and a larger one" in str(large.reason)
    assert envelope(runs.take(runs.budgets == BUDGETS[0])) is None


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_default_sweep_has_an_envelope(seed: int) -> None:
    found = found_in(gather(load_records(RESULTS / f"default-seed{seed}.json")))
    assert exponents(found)[0] == pytest.approx(0.51, abs=0.05)


def test_published_runs(shared_data: Path) -> None:
    """Hoffmann et al. 2022, table 2: Approach 1 gives a = .50, b = .50 on curves that are not public."""
    runs = gather(shared_data / "chinchilla.csv", where=["excluded_by_besiroglu = 0"])
    found = found_in(runs, draws=100)
    assert exponents(found) == pytest.approx((0.50, 0.50), abs=0.03)
    assert found.of_parameters is not None
    interval = found.of_parameters.exponent_range(0.9)
    assert interval is not None
    assert interval.low < 0.50 < interval.high


def test_smoothing_many_logged_steps_takes_no_square_of_them() -> None:
    """A window laid about each of 4,000 steps takes 128 MB an array."""
    generator = np.random.default_rng(0)
    log_flops = np.log(6e7 * 65536 * np.arange(1, 4001))
    truth = np.log(2.5 + 3e4 * np.exp(log_flops) ** -0.28)
    noisy = truth + 0.01 * generator.standard_normal(4000)
    tracemalloc.start()
    try:
        smoothed = smooth(log_flops, noisy)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 100e6
    assert np.abs(smoothed - truth)[200:].max() < 2e-3
    few = slice(None, None, 10)  # of so few steps each has a line of its own
    assert np.abs(smooth(log_flops[few], truth[few]) - smooth(log_flops, truth)[few])[20:].max() < 2e-4
