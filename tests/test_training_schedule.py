"""Learning rates at the steps where they must have a known value."""

from __future__ import annotations

import math

import pytest

from llama_scale.runs import ScheduleConfig
from llama_scale.training.schedule import learning_rate_factor


def wsd(**changes: object) -> ScheduleConfig:
    fields = {"kind": "wsd", "total_steps": 100, "warmup_steps": 10, "decay_steps": 20, **changes}
    return ScheduleConfig(**fields)  # pyright: ignore[reportArgumentType]


def test_wsd_warms_up_stays_and_decays_to_nothing() -> None:
    schedule = wsd()
    assert learning_rate_factor(schedule, 0) == pytest.approx(0.1)
    assert learning_rate_factor(schedule, 9) == 1.0
    assert learning_rate_factor(schedule, 79) == 1.0
    assert learning_rate_factor(schedule, 84) == pytest.approx(1 - math.sqrt(5 / 20))
    assert learning_rate_factor(schedule, 99) == 0.0


def test_a_linear_decay_is_half_way_in_the_middle() -> None:
    assert learning_rate_factor(wsd(decay_shape="linear"), 89) == pytest.approx(0.5)


def test_cosine_falls_to_its_floor_from_the_end_of_the_warm_up() -> None:
    schedule = wsd(kind="cosine", final_fraction=0.1)
    assert learning_rate_factor(schedule, 54) == pytest.approx(0.55)
    assert learning_rate_factor(schedule, 99) == pytest.approx(0.1)


def test_linear_falls_to_its_floor_from_the_end_of_the_warm_up() -> None:
    schedule = wsd(kind="linear", final_fraction=0.2)
    assert learning_rate_factor(schedule, 4) == pytest.approx(0.5)
    assert learning_rate_factor(schedule, 54) == pytest.approx(0.6)
    assert learning_rate_factor(schedule, 99) == pytest.approx(0.2)


def test_constant_stays_after_its_warm_up() -> None:
    schedule = wsd(kind="constant")
    assert learning_rate_factor(schedule, 4) == pytest.approx(0.5)
    assert {learning_rate_factor(schedule, step) for step in range(9, 100)} == {1.0}


def test_a_trunk_never_decays() -> None:
    trunk = wsd(total_steps=None)
    assert learning_rate_factor(trunk, 10**9) == 1.0


@pytest.mark.parametrize("step", range(0, 80))
def test_a_trunk_and_its_branch_agree_up_to_the_branch_point(step: int) -> None:
    assert learning_rate_factor(wsd(total_steps=None), step) == learning_rate_factor(wsd(), step)


@pytest.mark.parametrize("changes", [{"decay_steps": 0}, {"kind": "cosine", "warmup_steps": 100}])
def test_a_schedule_without_a_decay_stays_at_its_peak(changes: dict[str, object]) -> None:
    assert [learning_rate_factor(wsd(**changes), step) for step in (99, 100, 101)] == [1.0, 1.0, 1.0]
