"""One law for several candidates: their mean at the runs and beyond, in the narrowest form for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from synthetic import LAW, sweep

from llama_scale.fitting import Observations, Settings, fit
from llama_scale.fitting.candidates import Candidate, points_of, solve_all
from llama_scale.fitting.consensus import (
    Heard,
    consensus,
    led_by,
    log_losses,
    targets,
)
from llama_scale.fitting.forms import CHINCHILLA, FITTED, SKALING
from llama_scale.fitting.selection import choose
from llama_scale.laws import ScalingLaw

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
def test_bounds_that_a_form_allows_are_asked_of_most_and_others_of_the_nearest(
    share: float, rests: bool
) -> None:
    runs, endless = sweep(0), replace(BENT, E=0.0)
    laws, weights = {STRAIGHT: LAW, CURVED: endless}, {STRAIGHT: 1 - share, CURVED: share}
    heard = heard_on(runs, weights, laws)
    nearest = replace(CHINCHILLA.solve(points_of(runs), delta=1e-2), at_bound=("E", "alpha"))
    found = led_by(nearest, heard)
    assert found.law == consensus(heard)
    assert found.law.E > 0
    assert (found.starts, found.agreed) == (nearest.starts, nearest.agreed)
    assert found.at_bound == (("alpha", "E") if rests else ("alpha",))


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
