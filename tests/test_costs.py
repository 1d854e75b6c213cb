from __future__ import annotations

import math

import pytest

from llama_scale.costs import (
    DEFAULT_INPUT_SHARE,
    Demand,
    Economics,
    Serving,
    Training,
    rental,
)
from llama_scale.errors import InputError


def sardana_economics() -> Economics:
    """Training on A100-80 in bf16, serving on A100-40 in int8, as in the dollars row of Sardana & Frankle."""
    return Economics(
        training=Training(
            rental=rental("a100-80", precision="bf16", price_usd_per_hour=1.40), mfu=0.5, goodput=1.0
        ),
        serving=Serving(
            rental=rental("a100-40", precision="int8", price_usd_per_hour=0.60),
            prefill_mfu=0.4,
            decode_mfu=0.2,
        ),
        demand=Demand(serve_tokens=1.25e13),
    )


def test_rates_in_flops_hours_and_dollars() -> None:
    economics = sardana_economics()
    assert economics.rates("flops") == (1.0, 1.0)
    hours = economics.rates("gpu_hours")
    assert hours.train == pytest.approx(1 / (312e12 * 0.5 * 3600))
    assert hours.serve == pytest.approx((0.8 / 0.4 + 0.2 / 0.2) / (624e12 * 3600))
    dollars = economics.rates("usd")
    assert dollars.train == pytest.approx(1.40 * hours.train)
    assert dollars.serve == pytest.approx(0.60 * hours.serve)


def test_the_dollars_of_published_models() -> None:
    """The two totals of ACCEPTANCE's dollars row, from N and D alone."""
    economics = sardana_economics()
    for parameters, tokens, usd in ((3.4081e10, 1.8103e12, 1_605_532), (2.0527e10, 3.3021e12, 1_425_060)):
        cost = economics.lifetime(6 * parameters * tokens, 2 * parameters * 1.25e13)
        assert cost.total_usd == pytest.approx(usd, rel=1e-4)
        assert cost.total("usd") == cost.total_usd


def test_llama_65b_hours() -> None:
    """One MFU of .471 on 6ND: within 4 % of the GPU-hours of Touvron et al. 2023, table 15."""
    training = Training(rental=rental("A100-80", precision="bf16"), mfu=0.471, goodput=1.0)
    hours = 6 * 65.2e9 * 1.4e12 * training.gpu_hours_per_flop
    assert hours == pytest.approx(1_022_362, rel=0.04)


def test_idle_hours_are_paid() -> None:
    chip = rental("H100", precision="bf16")
    busy, idle = Serving(rental=chip), Serving(rental=chip, utilisation=0.25)
    share = DEFAULT_INPUT_SHARE.value
    assert idle.gpu_hours_per_flop(share) == pytest.approx(4 * busy.gpu_hours_per_flop(share))
    assert Training(rental=chip, mfu=0.4, goodput=0.5).gpu_hours_per_flop == pytest.approx(
        2 * Training(rental=chip, mfu=0.4, goodput=1.0).gpu_hours_per_flop
    )


def test_what_is_computed_again_takes_hours_and_is_not_useful() -> None:
    chip = rental("H100", precision="bf16")
    usual = Training(rental=chip, mfu=0.4, goodput=0.8)
    assert usual.gpu_hours_per_flop == pytest.approx(1 / (989.4e12 * 3600 * 0.4 * 0.8), rel=1e-3)
    again = Training(rental=chip, mfu=0.4, goodput=0.8, recomputed=0.3)
    assert again.gpu_hours_per_flop == pytest.approx(1.3 * usual.gpu_hours_per_flop)


def test_without_a_price_there_are_hours_but_no_dollars() -> None:
    chip = rental("MI300X", precision="bf16")
    economics = Economics(
        training=Training(rental=chip, mfu=0.4),
        serving=Serving(rental=chip),
        demand=Demand(serve_tokens=1e12),
    )
    cost = economics.lifetime(1e24, 1e23)
    assert cost.total_usd is None
    assert math.isnan(cost.total("usd"))
    assert cost.total_gpu_hours is not None and cost.total_gpu_hours > 0
    assert "usd" not in economics.units
    with pytest.raises(InputError, match="no price for MI300X") as refused:
        economics.rates("usd")
    assert "--price" in refused.value.hint


def test_a_price_of_the_table_carries_its_date_and_source() -> None:
    quoted = rental("H100", precision="fp8")
    assert (quoted.price_usd_per_hour, quoted.price_date) == (2.95, "2026-05")
    assert "median of 37 providers" in quoted.price_source
    assert rental("H100", precision="bf16", price_usd_per_hour=2.0).price_source == "given"
