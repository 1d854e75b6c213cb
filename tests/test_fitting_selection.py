"""The form is chosen by what it predicts beyond the runs, and by nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic import independent_runs, sweep

from llama_scale.fitting import Settings, fit
from llama_scale.fitting.selection import choose_form
from llama_scale.laws import ScalingLaw, fit_to_json, read_fit, write_fit

BENT = ScalingLaw(E=0.0, A=700 * 6e4**0.92, B=1000 * 2e6**0.93, alpha=0.92, beta=0.93, k=0.164)


@pytest.mark.parametrize("seed", range(3))
def test_a_bent_law_is_fitted_by_the_form_that_bends(seed: int) -> None:
    choice = choose_form(sweep(seed, law=BENT), delta=1e-2, named=None)
    assert choice.form.name == "skaling"
    errors = {c.form: c.mean_error for c in choice.candidates}
    assert errors["skaling"] < errors["chinchilla"]


def test_a_chinchilla_law_mostly_is_fitted_by_its_own() -> None:
    chosen = [choose_form(sweep(seed), delta=1e-2, named=None).form.name for seed in range(6)]
    assert sum(name in ("chinchilla", "tied") for name in chosen) >= 4
    assert choose_form(independent_runs(0), delta=1e-3, named=None).form.name in ("chinchilla", "tied")


def test_too_few_runs_or_a_name_leave_nothing_to_choose() -> None:
    few = choose_form(sweep(0).take(np.arange(0, 36, 5)), delta=1e-2, named=None)
    assert (few.form.name, few.candidates) == ("chinchilla", ())
    named = choose_form(sweep(0), delta=1e-2, named="skaling")
    assert (named.form.name, named.candidates) == ("skaling", ())


def test_held_out_runs_have_no_say() -> None:
    runs = sweep(0, law=BENT, held_out=True)
    assert runs.held_out is not None
    spoiled = replace(runs, held_out=replace(runs.held_out, loss=runs.held_out.loss * 1.5))
    one, other = (choose_form(r, delta=1e-2, named=None) for r in (runs, spoiled))
    assert one.candidates == other.candidates


def test_the_chosen_form_goes_through_every_part_of_a_fit(tmp_path) -> None:
    found = fit(sweep(0, law=BENT, held_out=True), settings=Settings(draws=60))
    content = fit_to_json(found, draws=False)
    assert content["form"] == content["selection"]["form"] == "skaling"
    assert content["selection"]["form_chosen_by"] == "backtest"
    assert {"k", "E"} <= set(content["parameters"])
    assert {"k", "exponent_a"} <= set(content["standard_errors"])
    assert all(abs(row["relative_error"]) < 0.02 for row in content["held_out"])
    back = read_fit(write_fit(tmp_path / "law.json", found))
    assert back.draws is not None
    assert np.shape(back.draws.k) == (60,)
    assert back.predict(2e5, 1e7).loss == pytest.approx(found.predict(2e5, 1e7).loss)
    assert back.optimum(1e14).parameters == pytest.approx(found.optimum(1e14).parameters)


def test_a_floor_of_zero_is_said_and_not_refused() -> None:
    found = fit(sweep(0, law=BENT), settings=Settings(form="skaling", draws=0))
    assert found.evidence["selection"]["form_chosen_by"] == "user"
    assert found.evidence["selection"]["delta"] == 1e-3
    if found.law.E == 0:
        assert any("irreducible" in text for text in found.evidence["warnings"])
