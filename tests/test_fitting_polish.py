"""SciPy's opinion on fits: it finds nothing better than a global one, and says so of one that is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import independent_runs, sweep

from llama_scale.fitting import fit, gather
from llama_scale.fitting.forms import FITTED
from llama_scale.fitting.polish import _at, cross_check, polished
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


def test_nothing_is_better_than_a_fit_to_rounding() -> None:
    points, form = points_of(sweep(0, trunk_noise=0.0, own_noise=0.0)), FITTED["chinchilla"]
    solution = form.solve(points, delta=1e-3)
    assert solution.objective < 1e-20
    assert cross_check(points, solution, form, delta=1e-3).constants is None


def test_a_fit_that_stopped_early_is_found_out() -> None:
    points, form = points_of(sweep(0)), FITTED["chinchilla"]
    solution = form.solve(points, delta=1e-2)
    early = replace(solution, constants=solution.constants * 1.05, objective=solution.objective * 1.2)
    found = cross_check(points, early, form, delta=1e-2)
    assert found.gap == pytest.approx(1 / 1.2 - 1, rel=1e-3)
    assert found.constants == pytest.approx(solution.constants, rel=0.05)
    better, _ = polished(points, early, form, delta=1e-2)
    assert better.objective == pytest.approx(solution.objective, rel=1e-3)
    assert better.law.alpha == pytest.approx(solution.law.alpha, rel=0.05)
    assert (better.agreed, better.starts) == (1, early.starts + 1)
    assert polished(points, solution, form, delta=1e-2)[0] is solution


def test_where_losses_vanish_a_search_is_sent_back() -> None:
    vanished = np.array([0.0, -1e15, -8e14, 1.4, 1.4, 0.0])
    value, gradient = _at(points_of(sweep(0)), vanished, 1e-3)
    assert value == np.inf and not gradient.any()


def test_scipy_is_asked_where_starts_disagree() -> None:
    """On twelve noisy runs most starts end higher."""
    agreed = fit(sweep(0), form="chinchilla", delta=1e-2, draws=0).evidence
    assert agreed["diagnostics"]["starts"] == agreed["diagnostics"]["starts_agreed"]
    assert agreed["scipy"] is None
    found = fit(independent_runs(0, count=12, noise=0.05), form="chinchilla", draws=0).evidence
    assert found["diagnostics"]["starts"] > 2 * found["diagnostics"]["starts_agreed"]
    assert found["scipy"]["gap"] == pytest.approx(0, abs=1e-3)


def test_besiroglus_data(shared_data: Path) -> None:
    points = points_of(gather(shared_data / "chinchilla.csv", where=["excluded_by_besiroglu = 0"]))
    for form in FITTED.values():
        solution = form.solve(points, delta=1e-3)
        found = cross_check(points, solution, form, delta=1e-3, starts=4)
        assert found.gap > -1e-9
        assert found.gap < 1e-2
        assert np.isfinite(found.lowest)
