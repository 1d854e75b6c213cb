"""SciPy's opinion on fits: it finds nothing better than a global one, and says so of one that is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import sweep

from llama_scale.fitting import gather
from llama_scale.fitting.forms import FITTED
from llama_scale.fitting.polish import cross_check
from llama_scale.fitting.uncertainty import points_of
from llama_scale.laws import FormName


@pytest.mark.parametrize("name", list(FITTED))
@pytest.mark.parametrize("delta", [1e-3, 1e-2])
def test_nothing_better_is_found(name: FormName, delta: float) -> None:
    points, form = points_of(sweep(0)), FITTED[name]
    solution = form.solve(points, delta=delta)
    found = cross_check(points, solution, form, delta=delta)
    assert found.gap > -1e-9
    assert found.lowest == pytest.approx(solution.objective, rel=1e-4)
    assert found.constants is None


def test_a_fit_that_stopped_early_is_found_out() -> None:
    points, form = points_of(sweep(0)), FITTED["chinchilla"]
    solution = form.solve(points, delta=1e-2)
    early = replace(solution, constants=solution.constants * 1.05, objective=solution.objective * 1.2)
    found = cross_check(points, early, form, delta=1e-2)
    assert found.gap == pytest.approx(1 / 1.2 - 1, rel=1e-3)
    assert found.constants == pytest.approx(solution.constants, rel=0.05)


def test_besiroglus_data(shared_data: Path) -> None:
    points = points_of(gather(shared_data / "chinchilla.csv", where=["excluded_by_besiroglu = 0"]))
    for form in FITTED.values():
        solution = form.solve(points, delta=1e-3)
        found = cross_check(points, solution, form, delta=1e-3, starts=4)
        assert found.gap > -1e-9
        assert found.gap < 1e-2
        assert np.isfinite(found.lowest)
