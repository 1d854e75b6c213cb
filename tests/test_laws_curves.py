"""The law of a loss curve against its plain double sum, step by step."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from llama_scale.laws.curves import LearningRates, MultiPowerLaw, changes_of, rates_between, rates_by_step

Array = NDArray[np.float64]

# Luo et al. 2025, github thu-yao-01-luo/MultiPowerLaw, README: the law of their 25M model.
LAW = MultiPowerLaw(L0=3.04, A=0.525, alpha=0.508, B=363.788, C=2.066, beta=0.583, gamma=0.641)
PEAK, WARM, STEPS = 3e-4, 200, 3000


def shapes() -> dict[str, Array]:
    """Learning rates of steps 1 to STEPS, warm-up first."""
    step = np.arange(1, STEPS + 1)
    warm = np.minimum(1.0, step / WARM)
    progress = np.clip((step - WARM) / (STEPS - WARM), 0, 1)
    tail = np.clip((step - 2400) / 600, 0, 1)
    return {
        "cosine": PEAK * warm * (0.55 + 0.45 * np.cos(np.pi * progress)),
        "jump": PEAK * warm * np.where(step < 1500, 1.0, 0.3),
        "wsd": PEAK * warm * (1 - 0.95 * tail),
        "1-sqrt": PEAK * warm * (1 - 0.95 * np.sqrt(tail)),
        "constant": PEAK * warm,
    }


def double_sum(law: MultiPowerLaw, rates: Array, step: int) -> float:
    """The law as printed: a sum over every step after the warm-up."""
    after = rates[WARM - 1 : step]
    sums = np.concatenate([[0.0], np.cumsum(after[1:])])
    reach = sums[-1] - sums[:-1]
    gained = 1 - (1 + law.C * after[1:] ** -law.gamma * reach) ** -law.beta
    drop = law.B * float((-np.diff(after) * gained).sum())
    return law.L0 + law.A * float(rates[:step].sum()) ** -law.alpha - drop


@pytest.mark.parametrize("shape", shapes())
def test_the_law_is_its_double_sum(shape: str) -> None:
    rates = shapes()[shape]
    steps = np.array([201, 260, 700, 1499, 1500, 1501, 1510, 1700, 2400, 2410, 2700, 2999, 3000])
    exact = [double_sum(LAW, rates, int(step)) for step in steps]
    found = LAW.loss_at(rates_by_step(rates, warmup_steps=WARM), steps)
    assert found == pytest.approx(exact, rel=1e-4)
    assert LAW.final_loss(rates_by_step(rates, warmup_steps=WARM)) == pytest.approx(exact[-1], rel=1e-4)


@pytest.mark.parametrize("shape", shapes())
def test_rates_logged_at_some_steps_give_nearly_the_same_curve(shape: str) -> None:
    rates = shapes()[shape]
    logged = np.arange(WARM, STEPS + 1, 50)
    found = LAW.loss_at(rates_between(logged, rates[logged - 1]), logged[5:])
    exact = [double_sum(LAW, rates, int(step)) for step in logged[5:]]
    assert found == pytest.approx(exact, rel=1e-3)


def test_a_rate_that_falls_once_is_a_jump_at_the_later_step() -> None:
    rates = rates_between([100, 200, 300, 400, 500], [3e-4, 3e-4, 1e-4, 1e-4, 1e-4])
    assert rates.steps.tolist() == [100, 200, 299, 300, 400, 500]
    assert rates.rates.tolist() == [3e-4, 3e-4, 3e-4, 1e-4, 1e-4, 1e-4]


def test_logged_warm_up_steps_count_in_their_sum_alone() -> None:
    steps = np.arange(10, 301, 10)
    rates = rates_between(steps, 1e-3 * np.minimum(1, steps / 100))
    assert rates.steps[0] == 100
    assert rates.warmup_sum == pytest.approx(0.05, rel=0.01)
    assert rates_between([200, 300], [1e-3, 1e-3], warmup_sum=0.2).warmup_sum == 0.2


def test_sums_of_rates_are_exact() -> None:
    rates = shapes()["wsd"]
    knots = rates_by_step(rates, warmup_steps=WARM)
    assert knots.sums[-1] + knots.warmup_sum == pytest.approx(rates.sum(), rel=1e-12)


def test_a_law_in_other_units_of_the_rate_is_the_same_law() -> None:
    knots = rates_by_step(shapes()["cosine"], warmup_steps=WARM)
    assert LAW.rescaled(1e3).loss(knots.scaled(1e3)) == pytest.approx(LAW.loss(knots))


def test_a_rate_of_zero_at_the_end_has_a_loss() -> None:
    knots = LearningRates(
        steps=np.array([100.0, 800.0, 1000.0]), rates=np.array([1e-3, 1e-3, 0.0]), warmup_sum=0.05
    )
    ends = [LAW.final_loss(knots), LAW.final_loss(knots.until(950.0))]
    assert np.isfinite(ends).all()
    assert ends[0] < ends[1]


def test_steps_beyond_the_schedule_have_no_loss() -> None:
    with pytest.raises(ValueError, match="within 200 and 3000"):
        LAW.loss_at(rates_by_step(shapes()["cosine"], warmup_steps=WARM), [3001])


def test_more_nodes_change_nothing() -> None:
    knots = rates_by_step(shapes()["cosine"], warmup_steps=WARM).finer()
    few, many = (LAW.loss_of(changes_of(knots, nodes=nodes)) for nodes in (3, 8))
    assert few == pytest.approx(many, rel=1e-5)
