"""The law of repeated data: published worths, limits, inverses, and its optimum against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llama_scale.laws import (
    MUENNIGHOFF_REPETITION,
    Numbers,
    RepeatedDataLaw,
    Repetition,
    ScalingLaw,
    central_range,
    published,
    published_decays,
)

LAW = published("muennighoff-2023").law
UNIQUE = 100e9
REPEATED = RepeatedDataLaw(law=LAW, unique_tokens=UNIQUE)

LAWS = st.builds(
    RepeatedDataLaw,
    law=st.builds(
        ScalingLaw,
        E=st.floats(0.5, 3),
        A=st.floats(50, 3000),
        B=st.floats(50, 3000),
        alpha=st.floats(0.2, 0.7),
        beta=st.floats(0.2, 0.7),
        k=st.one_of(st.just(1.0), st.floats(0.3, 1.5)),
    ),
    unique_tokens=st.floats(1e8, 1e12),
    repetition=st.builds(Repetition, tokens_decay=st.floats(0.5, 100), parameters_decay=st.floats(0.5, 100)),
)


# Muennighoff et al. 2023: with R_D* = 15.39, what epochs are worth in unique data.
@pytest.mark.parametrize(("epochs", "worth"), [(1, 1.0), (2, 1.97), (4, 3.73), (16, 10.58), (1e6, 16.39)])
def test_epochs_are_worth_what_was_published(epochs: float, worth: float) -> None:
    assert REPEATED.effective_tokens(epochs * UNIQUE) / UNIQUE == pytest.approx(worth, abs=0.005)
    assert REPEATED.epochs(epochs * UNIQUE) == pytest.approx(epochs)


def test_data_without_end_make_it_the_law_itself() -> None:
    endless = RepeatedDataLaw(law=LAW, unique_tokens=np.inf)
    assert endless.loss(7e9, 1e13) == LAW.loss(7e9, 1e13)
    assert endless.tokens_for_loss(2.2, 7e9) == LAW.tokens_for_loss(2.2, 7e9)
    assert endless.parameters_for_loss(2.2, 1e12) == LAW.parameters_for_loss(2.2, 1e12)
    assert endless.compute_optimum(1e24) == LAW.compute_optimum(1e24)


def test_the_worth_of_data_has_a_ceiling_and_so_have_the_losses_that_can_be_reached() -> None:
    ceiling = REPEATED.most_effective_tokens
    assert ceiling == pytest.approx(16.387756 * UNIQUE)
    least = LAW.loss(1e9, ceiling)
    assert np.isfinite(REPEATED.tokens_for_loss(least * 1.0001, 1e9))
    assert np.isnan(REPEATED.tokens_for_loss(least * 0.9999, 1e9))
    assert np.isnan(REPEATED.tokens_for_loss(LAW.E, 1e9))


@given(law=LAWS, log_n=st.floats(15, 26), log_d=st.floats(17, 30))
def test_tokens_and_parameters_for_a_loss_invert_it(law: RepeatedDataLaw, log_n: float, log_d: float) -> None:
    n, d = np.exp(log_n), np.exp(log_d)
    assume(law.epochs(d) < 1 + 5 * law.repetition.tokens_decay)  # beyond, D' is at its ceiling to rounding
    assume(n / law.matched_parameters < 1 + 5 * law.repetition.parameters_decay)
    loss = law.loss(n, d)
    assert np.log(law.tokens_for_loss(loss, n)) == pytest.approx(log_d, abs=1e-4)
    assert np.log(law.parameters_for_loss(loss, d)) == pytest.approx(log_n, abs=1e-4)


@given(law=LAWS, log_n=st.floats(17, 26), log_d=st.floats(20, 30))
def test_the_gradient_is_that_of_the_loss(law: RepeatedDataLaw, log_n: float, log_d: float) -> None:
    n, d = np.exp(log_n), np.exp(log_d)
    slope = law.gradient(n, d)
    step = 1e-5
    for n_side, d_side, found in ((step, 0.0, slope.parameters * n), (0.0, step, slope.tokens * d)):
        ahead = law.loss(n * np.exp(n_side), d * np.exp(d_side))
        behind = law.loss(n * np.exp(-n_side), d * np.exp(-d_side))
        assert found == pytest.approx((ahead - behind) / (2 * step), rel=1e-3, abs=1e-9)


def test_growth_is_the_slope_of_the_worth_of_data() -> None:
    law = RepeatedDataLaw(law=LAW, unique_tokens=1e11)
    tokens, step = np.array([1e10, 2e11, 1e12, 5e12]), 1e-5
    ends = [np.log(law.effective_tokens(tokens * np.exp(sign * step))) for sign in (1, -1)]
    np.testing.assert_allclose(law.growth(tokens), (ends[0] - ends[1]) / (2 * step), rtol=1e-5)


@given(law=LAWS, log_c=st.floats(40, 62))
def test_the_compute_optimum_is_that_of_a_fine_grid(law: RepeatedDataLaw, log_c: float) -> None:
    budget = np.exp(log_c)
    best, tokens = law.compute_optimum(budget)
    assert 6 * best * tokens == pytest.approx(budget)
    others = best * np.geomspace(1e-3, 1e3, 2001)
    assert np.all(law.loss(others, budget / 6 / others) >= law.loss(best, tokens) * (1 - 1e-12))


def test_a_contour_keeps_its_loss_and_ends_where_repeats_no_longer_help() -> None:
    loss = float(REPEATED.loss(1e9, 8 * UNIQUE))
    sizes, tokens = REPEATED.contour(loss, span=30)
    reached = np.isfinite(tokens)
    assert 10 < reached.sum() < len(reached)
    assert np.asarray(REPEATED.loss(sizes, tokens))[reached] == pytest.approx(loss, rel=1e-9)


def test_repeating_data_calls_for_smaller_models_on_more_tokens() -> None:
    """Muennighoff et al. 2023, section 6: excess parameters decay sooner than repeated tokens."""
    budget = 30 * 6 * REPEATED.matched_parameters * UNIQUE
    best, tokens = REPEATED.compute_optimum(budget)
    plain = LAW.compute_optimum(budget)
    assert best < plain.parameters
    assert tokens > plain.tokens > UNIQUE


def batch(values: Numbers) -> ScalingLaw:
    return ScalingLaw(E=1.8 + 0 * values, A=500 * values, B=1500 * values, alpha=0.35, beta=0.36)


def test_a_batch_of_draws_broadcasts_and_gives_its_draws_one_by_one() -> None:
    scale = np.linspace(0.9, 1.1, 7)
    laws = RepeatedDataLaw(
        law=batch(scale),
        unique_tokens=UNIQUE,
        repetition=Repetition(tokens_decay=15 * scale, parameters_decay=5.3),
    )
    sizes = np.array([[1e9], [70e9]])
    losses = laws.loss(sizes, 1e12)
    assert np.shape(losses) == (2, 7)
    one = RepeatedDataLaw(
        law=ScalingLaw(**{name: float(np.broadcast_to(v, 7)[3]) for name, v in laws.law.constants.items()}),
        unique_tokens=UNIQUE,
        repetition=laws.repetition.at(3),
    )
    assert one.loss(sizes[:, 0], 1e12) == pytest.approx(np.asarray(losses)[:, 3])
    assert np.shape(laws.tokens_for_loss(2.5, sizes)) == (2, 7)
    optima = laws.compute_optimum(np.array([[1e23], [1e25]]))
    assert np.shape(optima.parameters) == (2, 7)
    assert np.asarray(optima.parameters)[1, 3] == pytest.approx(float(one.compute_optimum(1e25).parameters))


def test_a_draw_of_a_batch_keeps_what_all_share() -> None:
    draws = published().draws
    assert draws is not None
    laws = RepeatedDataLaw(law=draws, unique_tokens=UNIQUE)
    assert laws.at(5).loss(1e10, 1e12) == pytest.approx(np.asarray(laws.loss(1e10, 1e12))[5])
    assert laws.at(5).repetition == MUENNIGHOFF_REPETITION


def test_the_published_decays_come_with_draws_that_spread_over_their_minima() -> None:
    draws = published_decays()
    assert np.shape(draws.tokens_decay) == np.shape(draws.parameters_decay) == (1000,)
    low, high = central_range(draws.tokens_decay)
    assert low < float(MUENNIGHOFF_REPETITION.tokens_decay) < 95.4 < high
    low, high = central_range(draws.parameters_decay)
    assert low < 1.71 < float(MUENNIGHOFF_REPETITION.parameters_decay) < high


def test_a_law_with_draws_takes_those_of_the_published_decays() -> None:
    drawn = published().repeated_draws(UNIQUE)
    assert drawn is not None
    assert np.shape(drawn.loss(7e9, 4 * UNIQUE)) == (1000,)
    assert np.std(drawn.effective_tokens(16 * UNIQUE)) > UNIQUE
    assert published("muennighoff-2023").repeated_draws(UNIQUE) is None
