"""What single runs and budgets do to the exponent of Approach 2: closed forms against plain refits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic import BUDGETS, LAW, independent_runs, sweep

from llama_scale.fitting import gather
from llama_scale.fitting.isoflop import isoflop
from llama_scale.fitting.observations import Observations
from llama_scale.fitting.sensitivity import sensitivity


def exponent(runs: Observations) -> float:
    found = isoflop(runs, draws=0)
    assert found is not None
    assert found.line is not None
    return found.line.exponent


def named(runs: Observations) -> dict[str, float | None]:
    return {variation.name: variation.exponent_a for variation in sensitivity(runs)}


def test_each_budget_in_turn_as_a_plain_refit() -> None:
    runs = sweep(0)
    found = [value for name, value in named(runs).items() if name.startswith("without the budget")]
    plain = [exponent(runs.take(runs.budgets != budget)) for budget in BUDGETS]
    assert found == pytest.approx(plain, rel=1e-9)
    assert not runs.flagged.any()
    assert not any("flags" in name for name in named(runs))
    three = named(runs.take(runs.budgets >= BUDGETS[-3]))
    assert not any(name.startswith("without the budget") for name in three)
    four = named(runs.take(runs.budgets >= BUDGETS[-4]))
    assert sum(name.startswith("without the budget") for name in four) == 4


def test_the_run_that_moves_it_most_is_that_of_plain_refits() -> None:
    runs = sweep(3)
    whole = exponent(runs)
    each = {runs.names[i]: exponent(runs.take(np.arange(len(runs)) != i)) for i in range(len(runs))}
    worst = max(each, key=lambda name: abs(each[name] - whole))
    assert named(runs)[f"without {worst}, which moves it most"] == pytest.approx(each[worst], rel=1e-6)


def test_robust_fits_resist_a_wild_run() -> None:
    runs = sweep(0, trunk_noise=0.0, own_noise=0.0002)
    clean = exponent(runs)
    wild = runs.take(np.arange(len(runs)))
    at = int(np.flatnonzero((wild.budgets == BUDGETS[-1]) & (wild.parameters > 9e4))[0])
    wild.loss[at] *= 1.05
    robust = named(wild)["robustly (Huber parabolas, Theil-Sen line)"]
    assert robust is not None
    assert abs(robust - clean) < 0.3 * abs(exponent(wild) - clean)
    assert clean == pytest.approx(LAW.exponent_a, abs=0.08)  # the parabolas' own bias


def test_nothing_is_said_where_there_is_no_line() -> None:
    assert sensitivity(independent_runs(0, count=25)) == ()


def test_llama3s_exponent_hangs_on_its_flagged_runs(shared_data: Path) -> None:
    # ../shared/data/README.md, item 3
    runs = gather(shared_data / "llama3_isoflop.csv")
    assert int(runs.flagged.sum()) == 17
    found = named(runs)
    assert found["without the 17 runs that the source flags"] == pytest.approx(0.500, abs=5e-4)
    budgets = [value for name, value in found.items() if name.startswith("without the budget")]
    assert len(budgets) == 10
    assert all(value is not None and 0.44 < value < 0.49 for value in budgets)
