"""The penalty of quantising after training: its published values, and the law that counts it."""

from __future__ import annotations

import numpy as np
import pytest

from llama_scale.errors import InputError
from llama_scale.laws import ScalingLaw, published
from llama_scale.laws.repeated import RepeatedDataLaw, Repetition
from llama_scale.planning.quantisation import Penalty, QuantisedLaw

LAW = published().law


@pytest.mark.parametrize(
    ("parameters", "bits", "tokens", "nats"),
    [  # Ouyang et al. 2024, table 1, whose fit is another one: alike up to 7B, a third lower at 405B
        (1e9, 4, 1.4424e12, 0.2),
        (7e9, 4, 4.5066e12, 0.2),
        (7e9, 3, 1.1860e12, 0.5),
    ],
)
def test_the_published_table(parameters: float, bits: float, tokens: float, nats: float) -> None:
    assert Penalty(bits=bits).loss(parameters, tokens) == pytest.approx(nats, rel=0.12)


def test_over_trained_small_models_suffer_more_and_16_bits_nothing() -> None:
    penalty = Penalty(bits=4)
    assert penalty.loss(7e9, 2e12) > penalty.loss(7e9, 1e12) > penalty.loss(70e9, 1e12) > 0
    assert Penalty(bits=8).loss(7e9, 1e12) < penalty.loss(7e9, 1e12) / 40
    assert Penalty(bits=16).loss(7e9, 1e12) == 0
    with pytest.raises(InputError):
        Penalty(bits=0.5)


def test_beyond_the_runs_is_said() -> None:
    assert Penalty(bits=3).extrapolation(1e9, 1e11) == {"parameters": 1.0, "tokens": 1.0, "bits": 1.0}
    beyond = Penalty(bits=8).extrapolation(24e9, 412e9)
    assert beyond == {"parameters": 2.0, "tokens": 2.0, "bits": 2.0}


TRAINED = [
    LAW,
    ScalingLaw(E=1.757, A=2305.0, B=9957.0, alpha=0.424, beta=0.431, k=0.774),
    RepeatedDataLaw(law=LAW, unique_tokens=1e11),
    RepeatedDataLaw(
        law=LAW, unique_tokens=3e12, repetition=Repetition(tokens_decay=2.0, parameters_decay=1.0)
    ),
]


@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("loss", [2.2, 2.4, 3.0])
def test_the_fewest_tokens_reach_the_loss_and_brute_force_agrees(
    trained: ScalingLaw | RepeatedDataLaw, loss: float
) -> None:
    law = QuantisedLaw(trained=trained, penalty=Penalty(bits=4))
    sizes = np.array([1e8, 1e9, 7e9, 30e9, 70e9, 1e12])
    tokens = np.asarray(law.tokens_for_loss(loss, sizes))
    grid = np.logspace(8, 15, 60_001)
    for size, found in zip(sizes, tokens, strict=True):
        reached = grid[law.loss(size, grid) <= loss]
        if reached.size:
            assert found == pytest.approx(reached[0], rel=3e-4)
            assert law.loss(size, found) == pytest.approx(loss, abs=1e-12)
        else:
            assert np.isnan(found)
    assert np.isnan(tokens[0]) == (loss < 3)


@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("bits", [2, 3, 3.5])
def test_the_best_number_of_tokens_is_that_of_a_fine_grid(
    trained: ScalingLaw | RepeatedDataLaw, bits: float
) -> None:
    law = QuantisedLaw(trained=trained, penalty=Penalty(bits=bits))
    for size in (1e8, 7e9):
        best = float(law.best_tokens(size))
        grid = best * np.geomspace(0.5, 2, 4001)
        assert best == pytest.approx(grid[np.argmin(law.loss(size, grid))], rel=1e-3)


@pytest.mark.parametrize("trained", TRAINED[:3])
def test_more_data_hurt_beyond_the_best(trained: ScalingLaw | RepeatedDataLaw) -> None:
    law = QuantisedLaw(trained=trained, penalty=Penalty(bits=3))
    best = float(law.best_tokens(7e9))
    reached = law.loss(7e9, best / 3)
    assert law.loss(7e9, law.tokens_for_loss(reached, 7e9)) == pytest.approx(float(reached), abs=1e-9)
    assert law.tokens_for_loss(reached, 7e9) == pytest.approx(best / 3, rel=1e-6)
    assert law.loss(7e9, best) < min(law.loss(7e9, best * 1.3), law.loss(7e9, best / 1.3))


def test_without_a_penalty_the_law_is_itself() -> None:
    law = QuantisedLaw(trained=LAW, penalty=Penalty(bits=16))
    assert law.tokens_for_loss(2.0, 7e10) == pytest.approx(LAW.tokens_for_loss(2.0, 7e10), rel=1e-9)
    assert law.loss(7e9, 1e12) == LAW.loss(7e9, 1e12)


def test_draws_are_solved_together() -> None:
    draws = published().draws
    assert draws is not None
    law = QuantisedLaw(trained=draws, penalty=Penalty(bits=4))
    together = np.asarray(law.tokens_for_loss(2.1, 4e10))
    assert np.shape(together) == np.shape(draws.E)
    assert law.at(3).tokens_for_loss(2.1, 4e10) == pytest.approx(together[3], nan_ok=True)
