from __future__ import annotations

import math

import numpy as np
import pytest

from llama_scale.costs import Demand, Economics, Serving, Spread, Training, rental
from llama_scale.costs.demand import total_of_months


def test_one_request_reads_its_prompt_once_and_writes_every_sample() -> None:
    demand = Demand(serve_tokens=1e12, input_tokens=1000, output_tokens=250, samples=8)
    assert demand.tokens_per_request == 1000 + 8 * 250
    assert demand.requests == pytest.approx(1e12 / 3000)
    assert demand.input_share == pytest.approx(1 / 3)
    assert Demand(serve_tokens=0.0).input_share == 0.8


def test_a_spread_is_log_normal_with_its_central_90_percent_between_its_ends() -> None:
    spread = Spread(1e11, 1e13)
    assert spread.median == pytest.approx(1e12)
    draws = np.random.default_rng(0).lognormal(math.log(spread.median), spread.log_deviation, 400_000)
    assert np.mean((draws > 1e11) & (draws < 1e13)) == pytest.approx(0.9, abs=0.003)
    assert np.mean(draws) == pytest.approx(spread.mean, rel=0.02)


def test_growth_spreads_the_tokens_and_changes_nothing_of_their_sum() -> None:
    demand = Demand(serve_tokens=1e12, months=36, growth=0.05)
    shares = demand.monthly_shares
    assert len(shares) == 36
    assert math.fsum(shares) == pytest.approx(1)
    assert shares[12] / shares[0] == pytest.approx(1.05**12)
    assert total_of_months(2e9, 0.05, 36) == pytest.approx(2e9 * (1.05**36 - 1) / 0.05)


def test_discounting_makes_later_dollars_smaller_and_growth_makes_them_later() -> None:
    plain = Demand(serve_tokens=1e12, months=36)
    assert plain.serve_factor == pytest.approx(1)
    level = Demand(serve_tokens=1e12, months=36, discount=0.1)
    grown = Demand(serve_tokens=1e12, months=36, discount=0.1, growth=0.05)
    middles = (np.arange(36) + 0.5) / 12
    assert level.serve_factor == pytest.approx(float(np.mean(1.1**-middles)))
    assert grown.serve_factor < level.serve_factor < 1
    assert level.train_factor == 1  # training is paid today


def test_retraining_splits_a_life_into_generations() -> None:
    demand = Demand(serve_tokens=1e12, months=30, growth=0.02, discount=0.1, retrain_months=12)
    first, second, third = demand.generations
    assert (first.first_month, second.first_month, third.first_month) == (1, 13, 25)
    assert (first.months, second.months, third.months) == (12, 12, 6)
    assert math.fsum(part.share for part in demand.generations) == pytest.approx(1)
    assert demand.trainings == 3
    assert second.train_factor == pytest.approx(1 / 1.1)
    assert demand.train_factor == pytest.approx(1 + 1 / 1.1 + 1 / 1.1**2)
    assert demand.serve_factor == pytest.approx(
        Demand(serve_tokens=1e12, months=30, growth=0.02, discount=0.1).serve_factor
    )


def test_a_life_is_discounted_in_dollars_alone() -> None:
    chip = rental("H100", precision="bf16", price_usd_per_hour=2.0)

    def cost(**words: float) -> tuple[float | None, ...]:
        demand = Demand(serve_tokens=1e12, **words)  # pyright: ignore[reportArgumentType]
        economics = Economics(
            training=Training(rental=chip, mfu=0.4), serving=Serving(rental=chip), demand=demand
        )
        life = economics.lifetime(1e23, 1e22)
        rates = economics.rates("usd")
        assert life.total_usd == pytest.approx(rates.train * 1e23 + rates.serve * 1e22)
        return life.train_usd, life.serve_usd, life.train_gpu_hours, life.serve_gpu_hours, life.train_flops

    plain, cheap, twice = (
        cost(),
        cost(months=24, discount=0.1),
        cost(months=24, discount=0.1, retrain_months=12),
    )
    assert plain[0] == cheap[0]
    assert (cheap[1] or 0) < (plain[1] or 0)
    assert plain[2:] == cheap[2:]
    assert twice[0] == pytest.approx((plain[0] or 0) * (1 + 1 / 1.1))
    assert twice[2] == pytest.approx(2 * (plain[2] or 0))
    assert twice[4] == 2e23
