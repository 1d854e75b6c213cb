"""One law for several candidates: their mean at the runs and beyond, in the narrowest form for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from synthetic import LAW, sweep

from llama_scale.fitting import Observations, Settings, fit, gather
from llama_scale.fitting.candidates import Candidate, points_of, solve_all
from llama_scale.fitting.consensus import (
    Heard,
    consensus,
    led_by,
    log_losses,
    targets,
)
from llama_scale.fitting.document import spread_json
from llama_scale.fitting.forms import CHINCHILLA, FITTED, SKALING
from llama_scale.fitting.newton import EXPONENT_BOUNDS
from llama_scale.fitting.selection import choose
from llama_scale.fitting.uncertainty import draw_mixtures
from llama_scale.laws import ScalingLaw, central_range
from llama_scale.laws.evidence import check_evidence

BENT = ScalingLaw(E=0.9, A=700 * 6e4**0.92, B=1000 * 2e6**0.93, alpha=0.92, beta=0.93, k=0.164)
STRAIGHT, CURVED, TIED = (Candidate(form=form, delta=1e-2) for form in ("chinchilla", "skaling", "tied"))
CANDIDATES = Settings(delta=1e-2, weights=0.0).candidates


def heard_on(
    runs: Observations, weights: dict[Candidate, float], laws: Mapping[Candidate, ScalingLaw]
) -> Heard:
    return Heard(observations=runs, weights=weights, laws=laws, directions=("compute",))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_the_law_is_the_weighted_mean_at_the_runs_and_beyond(share: float) -> None:
    runs = sweep(0, law=BENT)
    laws = solve_all(runs, [STRAIGHT, CURVED])
    heard = heard_on(runs, {STRAIGHT: share, CURVED: 1 - share}, laws)
    beyond = targets(runs, ["compute"])
    straight, curved = (log_losses(laws[one], beyond) for one in (STRAIGHT, CURVED))
    apart = np.abs(straight - curved).max()
    assert apart > 0.05
    found = consensus(heard)
    for where in ((runs.parameters, runs.tokens), beyond):
        wanted = heard.mean(where)
        off = np.abs(log_losses(found, where) - wanted)
        assert off.max() < apart / 10 and off.mean() < 2e-3
    assert heard.mean(beyond) == pytest.approx(share * straight + (1 - share) * curved)


def test_a_mean_of_one_law_is_that_law() -> None:
    runs = sweep(0)
    for law, one, other in ((LAW, STRAIGHT, TIED), (BENT, CURVED, STRAIGHT)):
        both = heard_on(runs, {one: 0.7, other: 0.3}, {one: law, other: law})
        assert consensus(both).constants == pytest.approx(law.constants, rel=1e-3)
        assert consensus(replace(both, weights={one: 1.0})) is law


def test_the_form_is_the_narrowest_that_holds_all() -> None:
    heavier, runs = replace(TIED, power=0.5), sweep(0)
    for both, form in (
        ((TIED, heavier), FITTED["tied"]),
        ((TIED, STRAIGHT), CHINCHILLA),
        ((CURVED, TIED), SKALING),
    ):
        heard = heard_on(runs, dict.fromkeys(both, 0.5), solve_all(runs, both))
        assert heard.form is form
        assert consensus(heard).is_of(form.name)


@pytest.mark.parametrize(("share", "rests"), [(0.4, False), (0.6, True)])
def test_bounds_are_asked_of_most_and_starts_of_the_nearest(share: float, rests: bool) -> None:
    runs, endless = sweep(0), replace(BENT, E=0.0)
    laws, weights = {STRAIGHT: LAW, CURVED: endless}, {STRAIGHT: 1 - share, CURVED: share}
    heard = heard_on(runs, weights, laws)
    nearest = replace(CHINCHILLA.solve(points_of(runs), delta=1e-2), at_bound=("E", "alpha"))
    found = led_by(nearest, heard)
    assert found.law == consensus(heard)
    assert found.law.E > 0
    assert (found.starts, found.agreed) == (nearest.starts, nearest.agreed)
    assert found.at_bound == (("E",) if rests else ())


@pytest.mark.parametrize("share", [0.4, 0.6])
def test_what_lies_on_a_bound_in_most_of_what_is_heard_does_so_in_the_law(share: float) -> None:
    runs, steeper = sweep(0), replace(STRAIGHT, power=0.5)
    nearest = CHINCHILLA.solve(points_of(runs), delta=1e-2)
    assert nearest.at_bound == ()
    flat = replace(LAW, A=0.9 * 6e4 ** EXPONENT_BOUNDS[0], alpha=EXPONENT_BOUNDS[0])
    some = heard_on(runs, {STRAIGHT: 1 - share, steeper: share}, {STRAIGHT: LAW, steeper: flat})
    assert led_by(nearest, some).at_bound == (("alpha",) if share > 0.5 else ())


def test_a_law_that_lies_on_a_bound_itself_says_so() -> None:
    runs, steeper = sweep(0), replace(STRAIGHT, power=0.5)
    nearest = CHINCHILLA.solve(points_of(runs), delta=1e-2)
    bent, free = (replace(LAW, B=0.7 * 2e6**beta, beta=beta) for beta in (EXPONENT_BOUNDS[1], 3.9955))
    half = heard_on(runs, {STRAIGHT: 0.5, steeper: 0.5}, {STRAIGHT: bent, steeper: free})
    assert half.at_bound == ()
    assert led_by(nearest, half).at_bound == ("beta",)


def budgets(*counts: int) -> list[dict[str, float]]:
    """Runs of a made-up law at budgets eight times apart, so many at each."""
    noise, rows = np.random.default_rng(0), []
    for step, count in enumerate(counts):
        flops = 2e11 * 8.0**step
        for size in float(LAW.compute_optimum(flops).parameters) * np.exp(np.linspace(-1.2, 1.2, count)):
            tokens = flops / 6 / size
            loss = float(LAW.loss(size, tokens)) * np.exp(0.002 * noise.standard_normal())
            rows.append({"params": size, "tokens": tokens, "loss": loss, "flops": flops, "budget": flops})
    return rows


@pytest.mark.parametrize("counts", [(10, 10), (20, 3), (8, 8, 8)])
def test_runs_that_tie_at_the_cheapest_budget_are_fitted(counts: tuple[int, ...]) -> None:
    """No known run of a backtest then lies farther than others, or none of the nearest four fifths."""
    found = fit(budgets(*counts), settings=Settings(draws=40, delta=1e-2))
    assert found.evidence["selection"]["heard"] > 1
    assert found.predict(1e5, 1e7).low is not None


def test_where_all_runs_tie_all_of_them_are_moved_out() -> None:
    runs = gather(budgets(6))
    sizes, tokens = targets(runs, ["compute"])
    assert sizes * tokens == pytest.approx(10 * runs.parameters * runs.tokens)


def test_a_constant_that_no_refit_has_keeps_its_place_beside_the_law() -> None:
    """Of 40 draws a candidate that weighs a thousandth has none, though it widens the form of the law."""
    runs = sweep(0, law=BENT)
    heard = heard_on(runs, {STRAIGHT: 0.999, CURVED: 0.001}, solve_all(runs, [STRAIGHT, CURVED]))
    (refits,) = draw_mixtures([heard], draws=40)
    law = consensus(heard)
    assert law.has_outer_power and not refits.law.has_outer_power
    found = spread_json(law, refits, 0.9)
    assert found["standard_errors"]["k"] == 0.0
    assert found["intervals"]["k"] == pytest.approx(sorted([1.0, law.k]))
    assert set(found["intervals"]) == {*law.constants, "exponent_a", "level"}


def test_an_interval_reaches_to_the_law_where_hardly_any_refit_does() -> None:
    """Of 40 refits 39 are tied, and have a = .5; the mean with one that is not has another."""
    runs = sweep(0, law=BENT)
    heard = heard_on(runs, {TIED: 0.97, CURVED: 0.03}, solve_all(runs, [TIED, CURVED]))
    (refits,) = draw_mixtures([heard], draws=40)
    law = consensus(heard)
    found = spread_json(law, refits, 0.9)["intervals"]
    for name, value in {**law.constants, "exponent_a": law.exponent_a}.items():
        assert found[name][0] <= value <= found[name][1]
    assert law.exponent_a != 0.5 and 0.5 in found["exponent_a"]
    assert found["E"] == pytest.approx(central_range(refits.law.E, 0.9))


@pytest.mark.parametrize("said", [{}, {"heard": None}, {"heard": 1}])
def test_a_file_that_does_not_say_how_many_are_heard_is_of_one_fit(said: dict[str, int | None]) -> None:
    found = fit(sweep(0, law=BENT), settings=Settings(draws=0, delta=1e-2))
    assert "nearest to it" in found._repr_markdown_()
    older = {name: value for name, value in found.evidence["selection"].items() if name != "heard"} | said
    evidence = {**found.evidence, "selection": older}
    check_evidence(evidence)
    shown = replace(found, evidence=evidence)._repr_markdown_()
    assert "nearest to it" not in shown and "cannot be read" not in shown


def test_the_forms_beside_a_mean_are_all_but_its_own() -> None:
    """Else `plan` would tell two laws by one name."""
    found = fit(sweep(0, law=BENT), settings=Settings(draws=0, delta=1e-2))
    assert found.evidence["selection"]["heard"] > 1
    assert found.law.form == "skaling"
    assert set(found.evidence["other_forms"]) == {"chinchilla", "tied"}


def test_the_best_size_far_beyond_noisy_runs_errs_less_than_by_the_candidate_nearest() -> None:
    """Chosen by what forward predictions say of each, as `fit` does; the same sweeps for both."""
    far, by_mean, by_one = 100 * 2e11 * 2**2.5, [], []
    true = float(LAW.compute_optimum(far).parameters)
    for seed in range(12):
        runs = sweep(seed, trunk_noise=0.008, own_noise=0.004)
        choice = choose(runs, CANDIDATES, direction="compute")
        together = consensus(choice.heard_on(runs, choice.laws))
        for law, errors in ((together, by_mean), (choice.laws[choice.candidate], by_one)):
            errors.append(np.log(float(law.compute_optimum(far).parameters) / true))
    assert np.std(by_mean) < np.std(by_one)
    assert np.sqrt(np.mean(np.square(by_mean))) < np.sqrt(np.mean(np.square(by_one)))


def test_a_fit_of_several_candidates_says_so_and_is_predicted_with_their_draws() -> None:
    found = fit(sweep(0, law=BENT), settings=Settings(draws=80, delta=1e-2))
    selection = found.evidence["selection"]
    heard = [one for one in selection["candidates"] if one["weight"] > 0]
    assert selection["heard"] == len(heard) > 1
    assert f"the mean of {len(heard)} of 12 candidates" in selection["note"]
    nearest = min(heard, key=lambda one: one["distance"])
    assert nearest["chosen"] and nearest["form"] == selection["form"]
    assert set(found.law.constants) <= set(found.evidence["intervals"])
    for name, value in found.law.constants.items():
        low, high = found.evidence["intervals"][name]
        assert low <= value <= high
    guess = found.predict(2e5, 2e7)
    assert guess.low is not None and guess.high is not None
    assert guess.low < guess.loss < guess.high
