"""Fits that should not be used are refused, with the estimate at hand and the runs that would help."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import sweep

from llama_scale.errors import UnidentifiedError
from llama_scale.fitting import Settings, UnidentifiedFitError, fit, gather
from llama_scale.fitting.candidates import Candidate, points_of
from llama_scale.fitting.diagnostics import check_identified, diagnose, warnings_of
from llama_scale.fitting.forms import CHINCHILLA
from llama_scale.fitting.informative import most_informative
from llama_scale.fitting.noise import log_prediction
from llama_scale.fitting.uncertainty import draw_laws
from llama_scale.laws import ScalingLaw

AXES = ("x", "y", "z", "weights")
QUICK = Settings(form="chinchilla", draws=40, backtest=False)


def test_a_good_fit_is_measured_and_not_complained_of() -> None:
    runs = sweep(0)
    points = points_of(runs)
    found = diagnose(points, runs.names, CHINCHILLA.solve(points, delta=1e-2), None)
    assert found.starts_agreed == found.starts
    assert found.at_bound == ()
    assert 0.001 < found.residual_rms < 0.006
    assert found.worst_run in runs.names
    assert sum(part**2 for part in found.weakest.values()) == pytest.approx(1, abs=1e-2)
    assert warnings_of(found) == []


def test_the_weakest_direction_is_the_one_that_the_design_stretches_least() -> None:
    """By eigenvalues of J'J, J the derivatives of log losses by relative changes of E, A, B, alpha, beta."""
    runs = sweep(0)
    points = points_of(runs)
    solution = CHINCHILLA.solve(points, delta=1e-2)
    found = diagnose(points, runs.names, solution, None)
    design, step = np.empty((len(runs), 5)), 1e-5
    for column in range(5):
        factor = np.where(np.arange(5) == column, step, 0.0)
        up, down = (log_prediction(points, solution.constants * (1 + sign * factor)) for sign in (1, -1))
        design[:, column] = (up - down) / (2 * step)
    rising, axes = np.linalg.eigh(design.T @ design)
    assert found.condition == pytest.approx(np.sqrt(rising[-1] / rising[0]), rel=1e-3)
    assert found.weakest_sd == pytest.approx(found.residual_rms / np.sqrt(rising[0]), rel=1e-3)
    direction = axes[:, 0] * np.sign(axes[np.abs(axes[:, 0]).argmax(), 0])
    assert list(found.weakest.values()) == pytest.approx(direction, abs=2e-3)


def test_runs_weigh_in_the_weakest_direction_as_often_as_they_count() -> None:
    runs = sweep(0)
    points = points_of(runs)
    twice = np.arange(len(runs)) % 3 == 0
    both = runs.take(np.concatenate([np.arange(len(runs)), np.flatnonzero(twice)]))
    solution = CHINCHILLA.solve(points, delta=1e-2)
    weighted = diagnose(replace(points, weights=1.0 + twice), runs.names, solution, None)
    copied = replace(points, **{axis: np.append(one := getattr(points, axis), one[twice]) for axis in AXES})
    repeated = diagnose(copied, both.names, solution, None)
    assert weighted.condition == pytest.approx(repeated.condition, rel=1e-9)
    assert weighted.weakest == repeated.weakest
    each = (found.weakest_sd / found.residual_rms for found in (weighted, repeated))
    assert next(each) == pytest.approx(next(each), rel=1e-9)
    assert weighted.own_noise == weighted.residual_rms  # where no draws say more
    assert (weighted.trunk_noise, weighted.draws_at_bound) == (0.0, 0.0)


def test_the_next_run_of_a_fit_on_a_bound_tells_the_constant_that_lies_there() -> None:
    runs = sweep(0)
    points = points_of(runs)
    solution = CHINCHILLA.solve(points, delta=1e-2)
    found = [
        diagnose(points, runs.names, replace(solution, at_bound=bound), None)
        for bound in ((), ("alpha",), ("beta",))
    ]
    for one, at in zip(found[1:], (3, 4), strict=True):
        told = most_informative(
            points, solution.constants, CHINCHILLA, noise=one.residual_rms, direction=np.eye(5)[at]
        )
        assert one.next_run == told
        assert one.next_run != found[0].next_run


def test_a_fit_on_a_bound_is_refused_but_can_be_looked_at() -> None:
    runs = sweep(0)
    law = ScalingLaw(E=-0.5, A=1.5 * 6e4**0.1, B=1.5 * 2e6**0.15, alpha=0.1, beta=0.15)
    runs.loss[:] = law.loss(runs.parameters, runs.tokens)
    with pytest.raises(UnidentifiedFitError, match="bound of E") as caught:
        fit(runs, settings=QUICK)
    assert isinstance(caught.value, UnidentifiedError)
    assert caught.value.estimate.law.E == 0
    assert "parameters on" in caught.value.hint


def test_starts_that_disagree_are_refused() -> None:
    runs = sweep(0)
    points = points_of(runs)
    estimate = fit(runs, settings=QUICK)
    lonely = replace(diagnose(points, runs.names, CHINCHILLA.solve(points), None), starts_agreed=1)
    with pytest.raises(UnidentifiedFitError, match=r"1 of \d+ starts"):
        check_identified(lonely, estimate)


def test_a_flat_valley_is_warned_of_with_its_direction_and_the_run_to_make() -> None:
    runs = sweep(0, trunk_noise=0.0, own_noise=0.02)
    one_octave = runs.take((runs.parameters > 35_000) & (runs.parameters < 120_000))
    points = points_of(one_octave)
    found = diagnose(points, one_octave.names, CHINCHILLA.solve(points, delta=1e-2), None)
    assert found.weakest_sd > 1
    assert found.next_run.sd_after is not None
    assert found.next_run.sd_before is not None
    assert found.next_run.sd_after < found.next_run.sd_before
    assert found.next_run.train_flops == pytest.approx(6 * found.next_run.parameters * found.next_run.tokens)
    said = warnings_of(found)[0]
    assert "hardly resist a joint change of" in said
    assert "parameters on" in said
    assert "FLOPs" in said
    left = found.next_run.sd_after / found.next_run.sd_before
    assert left < 0.95
    assert f"which would leave {left:.0%} of the uncertainty, would help most" in said
    useless = replace(found, next_run=replace(found.next_run, sd_after=0.96 * found.next_run.sd_before))
    assert "of the uncertainty" not in warnings_of(useless)[0]


def test_starts_that_part_are_said_with_the_run_that_decides() -> None:
    runs = sweep(0)
    points = points_of(runs)
    solution = CHINCHILLA.solve(points, delta=1e-2)
    rival = solution.constants * np.array([1.1, 0.9, 0.9, 1.1, 1.0])
    parted = replace(solution, agreed=solution.starts // 4, rival=rival)
    found = diagnose(points, runs.names, parted, None)
    assert found.next_run.gap is not None
    assert "others at higher minima" in warnings_of(found)[0]
    assert "the two best minima differ by" in warnings_of(found)[0]


def test_draws_on_a_bound_are_said() -> None:
    runs = sweep(0)
    points = points_of(runs)
    found = fit(runs, settings=QUICK)
    assert found.evidence["diagnostics"]["unidentified"] == []
    assert set(found.evidence["diagnostics"]["next_run"]) >= {"parameters", "tokens", "train_flops"}
    candidate = Candidate(form="chinchilla", delta=1e-2)
    draws = draw_laws(runs, candidate, CHINCHILLA.solve(points, delta=1e-2).constants, draws=20)
    some = replace(draws, at_bound=0.2)
    said = warnings_of(diagnose(points, runs.names, CHINCHILLA.solve(points, delta=1e-2), some))
    assert "20% of the draws" in said[0]


def test_weakly_identified_public_data_are_warned_of(shared_data: Path) -> None:
    runs = gather(shared_data / "misfitting_sweep.csv")
    order = np.argsort(runs.loss)
    pairs = np.stack([runs.parameters, runs.tokens], axis=1)[order]
    best = runs.take(order[np.unique(pairs, axis=0, return_index=True)[1]])
    found = fit(best, settings=replace(QUICK, draws=100))
    assert any("weakly identified" in warning for warning in found.evidence["warnings"])
