from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llama_scale import plan
from llama_scale.errors import InputError
from llama_scale.planning import best_sizes


@pytest.mark.parametrize("unit", ["flops", "usd", "gpu-hours"])
@pytest.mark.parametrize("flops", ["6nd", "exact"])
def test_a_grid_of_plans_is_the_plans_one_by_one(unit: str, flops: str) -> None:
    budgets = {"flops": (1e22, 1e24), "usd": (1e5, 5e6), "gpu-hours": (1e5, 2e6)}[unit]
    suffix = {"flops": "", "usd": "$", "gpu-hours": " GPU-hours"}[unit]
    demands = [0.0, 1e11, 1e13]
    grid = best_sizes(
        "besiroglu-2024", np.array(budgets)[:, None], demands, unit=unit, flops=flops, kv_heads=8
    )
    assert grid.parameters.shape == (2, 3)
    assert np.allclose(grid.cost, np.broadcast_to(np.array(budgets)[:, None], (2, 3)), rtol=1e-9)
    text = f"${budgets[1]}" if suffix == "$" else f"{budgets[1]}{suffix}"
    for column, demand in enumerate(demands):
        alone = plan(serve_tokens=demand, budget=text, flops=flops, kv_heads=8)
        assert grid.parameters[1, column] == pytest.approx(alone.optimum.parameters, rel=0.05)
        assert grid.loss_nats[1, column] == pytest.approx(alone.optimum.loss_nats, rel=5e-4)
    assert np.all(np.diff(grid.parameters, axis=1) < 0)


def test_a_grid_in_dollars_shares_heads_as_a_plan_does() -> None:
    words: dict[str, Any] = {"budgets": 3e6, "demands": 1e13, "unit": "usd"}
    chosen = plan(serve_tokens=1e13, budget="$3M").shape.kv_heads
    assert best_sizes(**words).loss_nats == best_sizes(**words, kv_heads=chosen).loss_nats
    assert best_sizes(**words).loss_nats < best_sizes(**words, kv_heads=128).loss_nats


def test_a_grid_serves_all_samples_of_a_demand() -> None:
    request: dict[str, Any] = {"input_tokens": 1000, "output_tokens": 250}
    asked = best_sizes(budgets=1e24, demands=[0.0, 1e12], samples=3, **request)
    served = best_sizes(budgets=1e24, demands=[0.0, 1.4e12], **request)  # (1000 + 3 x 250) / 1250
    assert asked.parameters == pytest.approx(served.parameters, rel=1e-9)


def test_a_grid_of_losses_finds_the_cheapest() -> None:
    losses = np.array([2.0, 2.1, 1.5])
    grid = best_sizes(None, losses=losses, demands=1e12)
    assert np.isnan(grid.parameters).tolist() == [False, False, True]
    back = best_sizes(None, grid.cost[:2], 1e12)
    assert back.loss_nats == pytest.approx(losses[:2])
    assert back.parameters == pytest.approx(grid.parameters[:2])


def test_ten_thousand_plans_are_one_call() -> None:
    budgets, demands = np.geomspace(1e4, 1e9, 100)[:, None], np.geomspace(1e9, 1e15, 100)
    grid = best_sizes(None, budgets, demands, unit="usd", unique_tokens="1T")
    assert grid.parameters.shape == (100, 100)
    assert np.isfinite(grid.loss_nats).all()
    assert np.all(np.diff(grid.loss_nats, axis=0) < 0)


def test_a_grid_may_say_that_nothing_is_recomputed() -> None:
    assert best_sizes(budgets=1e24, recompute="none").cost == best_sizes(budgets=1e24).cost


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "needs budgets or losses"),
        ({"budgets": 1e24, "losses": 2.0}, "needs budgets or losses"),
        ({"budgets": [1e24, float("nan")]}, "budgets must be finite"),
        ({"losses": [2.0, float("inf")]}, "losses must be finite"),
        ({"budgets": 1e24, "demands": -1.0}, "demands must be finite and not negative"),
        ({"budgets": 1e24, "unit": "euros"}, "not counted in 'euros'"),
        ({"budgets": 1e24, "match": "llama-13b"}, "has its own match"),
        ({"budgets": 1e24, "recompute": "full"}, "knows no share of FLOPs that recompute adds"),
        ({"budgets": 1e24, "law": "besirogl"}, "no published law"),
    ],
)
def test_grids_that_cannot_be_meant(words: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        best_sizes(**words)  # pyright: ignore[reportArgumentType]
