"""What is fitted is chosen by what it predicts beyond the runs, and by nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic import LAW, independent_runs, sweep

from llama_scale.fitting import Observations, Settings, fit
from llama_scale.fitting.candidates import Candidate, solve, weights_of
from llama_scale.fitting.consensus import log_losses, targets
from llama_scale.fitting.selection import (
    Choice,
    choose,
    directions_of,
    share_heard,
)
from llama_scale.laws import ScalingLaw, fit_to_json, read_fit, write_fit

BENT = ScalingLaw(E=0.0, A=700 * 6e4**0.92, B=1000 * 2e6**0.93, alpha=0.92, beta=0.93, k=0.164)
FEW = Settings(delta=1e-2, weights=0.0).candidates


def pick(runs: Observations, candidates: tuple[Candidate, ...] = FEW) -> Choice:
    return choose(runs, candidates, direction="compute")


@pytest.mark.parametrize("seed", range(3))
def test_a_bent_law_is_fitted_by_the_form_that_bends(seed: int) -> None:
    choice = pick(sweep(seed, law=BENT))
    assert choice.candidate.form == "skaling"
    errors = {one.candidate.form: one.mean_error for one in choice.tried}
    assert errors["skaling"] < min(errors["chinchilla"], errors["tied"])
    assert sum(one.weight for one in choice.tried) == pytest.approx(1)


def test_what_is_chosen_for_a_straight_law_extrapolates_as_that_law() -> None:
    """Noisy runs cannot always tell forms that hold the truth apart: beyond the runs they agree."""
    for seed in range(3):
        runs = sweep(seed)
        law = solve(runs, pick(runs).candidate, quick=True).law
        assert law.loss(1.2e5, 1.5e7) == pytest.approx(float(LAW.loss(1.2e5, 1.5e7)), rel=0.02)
    assert pick(independent_runs(0)).candidate.form in ("chinchilla", "tied")


def test_too_few_runs_or_a_name_leave_nothing_to_choose() -> None:
    few = sweep(0).take(np.arange(0, 36, 5))
    choice = choose(few, FEW, default=Settings().default_for(few))
    assert (choice.candidate.form, choice.tried) == ("chinchilla", ())
    assert choice.candidate.delta == 1e-2  # these runs share trunks
    named = choose(sweep(0), Settings(form="skaling").candidates)
    assert (named.candidate, named.tried) == (Candidate(form="skaling", by_noise=True), ())


def test_a_named_form_means_the_published_objective_unless_said_otherwise() -> None:
    plain = Candidate(form="tied", delta=1e-3, power=0.0)
    assert Settings(form="tied", weights=0.0).candidates == (plain,)
    assert Settings(form="tied").candidates == (replace(plain, by_noise=True),)
    pinned = Settings(form="tied", delta=0.01, weights=0.5).candidates
    assert pinned == (Candidate(form="tied", delta=0.01, power=0.5),)
    assert len(Settings().candidates) == 24
    assert {one.delta for one in Settings(delta=0.02).candidates} == {0.02}
    assert {one.power for one in Settings(weights=0.25).candidates} == {0.25}


def test_held_out_runs_have_no_say_but_for_where_they_lie() -> None:
    runs = sweep(0, law=BENT, held_out=True)
    assert runs.held_out is not None
    spoiled = replace(runs, held_out=replace(runs.held_out, loss=runs.held_out.loss * 1.5))
    one, other = (choose(r, FEW) for r in (runs, spoiled))
    assert one.tried == other.tried


def test_the_direction_is_where_the_question_lies() -> None:
    runs = sweep(0, held_out=True)
    assert runs.held_out is not None
    assert directions_of(runs, "auto")[0] == ("compute",)
    longer = replace(runs.held_out, tokens=runs.held_out.tokens * 50, train_flops=runs.train_flops[:3])
    assert directions_of(replace(runs, held_out=longer), "auto")[0] == ("overtraining",)
    assert directions_of(runs, "overtraining")[0] == ("overtraining",)
    grid = independent_runs(0, count=60)
    sizes, ratios = np.meshgrid(np.geomspace(1e8, 1e10, 10), np.geomspace(5, 640, 6), indexing="ij")
    n, m = sizes.ravel(), ratios.ravel()
    on_grid = replace(grid, parameters=n, tokens=n * m, train_flops=6 * n * n * m)
    assert directions_of(grid, "auto")[0] == ("compute",)
    assert directions_of(on_grid, "auto")[0] == ("compute", "overtraining")


def test_a_candidate_is_heard_by_the_runs_that_it_hears() -> None:
    """On 240 public runs, weights (C/Cmax)^1 leave 33 in effect, and best N that fall to a third."""
    assert share_heard(np.ones(7)) == pytest.approx(1)
    assert share_heard(np.array([1.0, 1.0, 0.0, 0.0])) == pytest.approx(0.5)
    candidates = Settings(form=None, delta=1e-2).candidates
    runs = sweep(0)
    choice = pick(runs, tuple(one for one in candidates if one.form == "tied"))
    for one in choice.tried:
        errors = one.mean_error + 1e-3
        heard = share_heard(weights_of(runs, one.candidate))
        assert one.weight * errors**2 / heard == pytest.approx(
            choice.tried[0].weight * (choice.tried[0].mean_error + 1e-3) ** 2
        )


def test_the_chosen_fit_goes_through_every_part(tmp_path) -> None:
    settings = Settings(draws=60, delta=1e-2, weights=0.0)
    found = fit(sweep(0, law=BENT, held_out=True), settings=settings)
    content = fit_to_json(found, draws=False)
    selection = content["selection"]
    assert content["form"] == selection["form"] == "skaling"
    assert selection["form_chosen_by"] == "backtest"
    assert selection["delta_chosen_by"] == selection["weights_chosen_by"] == "user"
    assert [row["chosen"] for row in selection["candidates"]].count(True) == 1
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


def test_candidates_are_as_far_as_their_losses_beyond_the_runs_from_the_weighted_mean() -> None:
    runs = sweep(0, law=BENT)
    choice = choose(runs, Settings(delta=1e-2).candidates)
    where = targets(runs, choice.directions)
    losses = {one.candidate: log_losses(choice.laws[one.candidate], where) for one in choice.tried}
    mean = np.sum([one.weight * losses[one.candidate] for one in choice.tried], axis=0)
    assert {one.weight > 0 for one in choice.tried} == {True, False}
    for one in choice.tried:
        assert one.distance == pytest.approx(np.abs(losses[one.candidate] - mean).mean())
    heard = [one for one in choice.tried if one.weight]
    assert choice.candidate == min(heard, key=lambda one: one.distance).candidate
