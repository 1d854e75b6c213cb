"""Rates, MFU and the peak behind it; how often a run is looked at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llama_scale.errors import InputError
from llama_scale.hardware import accelerator
from llama_scale.runs import RunConfig
from llama_scale.single import SingleSpec, single_run
from llama_scale.training.loop import Glance
from llama_scale.training.meter import MEMORY_SECONDS, Meter
from llama_scale.training.peak import Peak, peak_of
from llama_scale.training.trainer import Step

CPU = torch.device("cpu")


def config() -> RunConfig:
    return single_run(SingleSpec(model="2x64", steps=1000), "corpus")


def glance(first: int, count: int, seconds: float, loss: float = 2.0) -> Glance:
    steps = (
        Step(step=first + i, loss_nats=loss, gradient_norm=1.0, learning_rate=1e-3) for i in range(count)
    )
    return Glance(steps=tuple(steps), seconds=seconds)


def test_rates_follow_from_the_steps_and_their_seconds() -> None:
    run = config()
    peak = 1e12
    meter = Meter(run, last_step=1000, peak_flops_per_second=peak)
    reading = meter.read(glance(1, 100, 2.0))
    assert reading.tokens_per_second == pytest.approx(50 * run.tokens_per_step)
    assert reading.mfu == pytest.approx(run.train_flops(50) / peak)
    assert reading.remaining_seconds == pytest.approx(900 / 50)
    assert Meter(run, last_step=1000, peak_flops_per_second=None).read(glance(1, 1, 1.0)).mfu is None


def test_a_rate_forgets_what_is_long_past() -> None:
    run = config()
    meter = Meter(run, last_step=1000, peak_flops_per_second=None)
    meter.read(glance(1, 10, 10.0))
    slow = meter.read(glance(11, 1, MEMORY_SECONDS)).tokens_per_second
    assert slow == pytest.approx(run.tokens_per_step / MEMORY_SECONDS)


def test_a_peak_is_what_was_asked_for_or_the_tables() -> None:
    assert peak_of(CPU, wanted="990 TFLOP/s") == Peak(flops_per_second=9.9e14, source="as given")
    named = peak_of(CPU, wanted="h100")
    assert named and named.flops_per_second == accelerator("H100-SXM").peak("bf16")
    with pytest.raises(InputError, match="unknown accelerator"):
        peak_of(CPU, wanted="H9000")


def test_accelerators_without_bf16_and_with_numbers_for_names_have_a_peak_too() -> None:
    assert peak_of(CPU, wanted="T4") == Peak(flops_per_second=6.5e13, source="T4, fp16 dense")
    assert peak_of(CPU, wanted="4090") == Peak(flops_per_second=1.65e14, source="RTX-4090, bf16 dense")


@pytest.mark.parametrize("rate", ["0 TFLOP/s", "-3e12", "990 tokens"])
def test_what_is_no_rate_is_no_peak(rate: str) -> None:
    with pytest.raises(InputError, match=r"no rate to measure|negative|expected"):
        peak_of(CPU, wanted=rate)


def test_a_smoothed_loss_begins_as_the_mean_and_forgets_later() -> None:
    meter = Meter(config(), last_step=1000, peak_flops_per_second=None)
    assert meter.read(glance(1, 1, 1.0, loss=6.0)).smooth_loss_nats == 6.0
    assert meter.read(glance(2, 3, 1.0, loss=2.0)).smooth_loss_nats == pytest.approx(3.0)
    assert meter.read(glance(5, 500, 1.0, loss=1.0)).smooth_loss_nats == pytest.approx(1.0, abs=1e-3)


def test_a_cpus_peak_is_measured_once_and_a_torn_cache_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = peak_of(CPU)
    assert first and 1e8 < first.flops_per_second < 1e15 and "measured" in first.source
    cache = tmp_path / "llama-scale" / "peaks.json"
    assert peak_of(CPU) == first
    key, entry = next(iter(json.loads(cache.read_text()).items()))
    cache.write_text(json.dumps({key: entry | {"flops_per_second": 5e9}}))
    read = peak_of(CPU)
    assert read and read.flops_per_second == 5e9
    for harm in ("{", "[]", json.dumps({key: entry | {"flops_per_second": -1}})):
        cache.write_text(harm)
        again = peak_of(CPU)
        assert again and again.flops_per_second > 1e8 and again.flops_per_second != 5e9
