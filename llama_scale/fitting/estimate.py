"""Observations in, Fit out: the law, its draws, and the evidence that travels with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from llama_scale.canonical import plain
from llama_scale.fitting.approaches import side_by_side
from llama_scale.fitting.backtests import Direction
from llama_scale.fitting.calibration import Calibration, calibrate
from llama_scale.fitting.candidates import Candidate, points_of, solve, solve_all
from llama_scale.fitting.consensus import Heard, led_by
from llama_scale.fitting.diagnostics import check_identified, diagnose, warnings_of
from llama_scale.fitting.document import (
    held_out_json,
    observations_json,
    optima_json,
    provenance_json,
    selection_json,
    spread_json,
)
from llama_scale.fitting.drift import ends_of, turns_of, waver
from llama_scale.fitting.forms import Form
from llama_scale.fitting.minima import Solution
from llama_scale.fitting.observations import Observations, check_design
from llama_scale.fitting.selection import AUTO_FORMS, Choice, choose
from llama_scale.fitting.settings import Settings
from llama_scale.fitting.uncertainty import Draws, doubts_of_resampling, draw_laws, draw_mixtures
from llama_scale.laws import Fit, least_draws, median

PROTOCOL_DRAWS = 400


def estimate(observations: Observations, settings: Settings, *, name: str = "fit") -> Fit:
    """Fit a law to runs.

    Raises UnidentifiedError where the design cannot identify one, and UnidentifiedFitError, which
    carries the fit, where the data turn out not to.
    """
    check_design(observations)
    settings.check_resampling(observations)
    choice = choose(
        observations,
        settings.candidates,
        direction=settings.direction,
        default=settings.default_for(observations),
    )
    candidate, heard = choice.candidate, choice.heard_on(observations, choice.laws)
    solution, checked = _checked(observations, candidate, settings)
    if choice.is_mixed:
        solution = led_by(solution, heard)
    refits = _refits(heard, solution, settings)
    calibration = _calibrated(observations, choice, settings)
    draws = _carried(observations, choice, refits, calibration, settings)
    points = points_of(observations, candidate)
    diagnostics = diagnose(points, observations.names, solution, refits, candidate.fitted_form)
    found = Fit(
        name=name,
        law=solution.law,
        convention=observations.convention,
        source=f"{len(observations)} runs of {', '.join(observations.sources)}",
        flops_accounting=observations.flops_accounting,
        support=observations.support,
        draws=draws.law if draws else None,
        draws_note=_note(draws, calibration),
        noise=median(draws.noise) if draws else diagnostics.residual_rms,
        noise_draws=draws.noise if draws and np.ptp(draws.noise) > 0 else None,
        interval_factor=calibration.factor if calibration else 1.0,
        evidence={
            "objective": solution.objective,
            "scipy": checked,
            "n_observations": len(observations),
            "observations": observations_json(observations),
            **spread_json(solution.law, refits, settings.level),
            "diagnostics": plain(diagnostics) | {"flops_over_6nd": observations.flops_over_6nd},
            "other_forms": _other_forms(observations, candidate, heard.form),
            "selection": selection_json(settings, draws, choice, observations),
            "backtest": _backtest_json(observations, calibration, settings),
            "exclusions": plain(observations.exclusions),
            "warnings": [
                *observations.warnings,
                *warnings_of(diagnostics, heard.form),
                *(doubts_of_resampling(observations, settings.resampling) if draws else ()),
                *(calibration.warnings(choice) if calibration else ()),
            ],
            "provenance": provenance_json(observations, settings),
        },
    )
    found = _with_company(found, heard, choice, settings)
    if settings.profile:
        profiled = _profile_json(observations, candidate, solution, settings)
        found = _with(found, profile=profiled | {"scipy": checked})
    check_identified(diagnostics, found, heard.form)
    return found


def _with_company(fit: Fit, heard: Heard, choice: Choice, settings: Settings) -> Fit:
    """The fit with the other approaches beside it, its optima, and what it makes of the runs held out."""
    observations = heard.observations
    beside = side_by_side(
        observations,
        fit,
        lambda runs: _refitted(runs, choice),
        heard.form,
        budgets=settings.budgets,
        level=settings.level,
        seed=settings.seed,
    )
    fit = _with(fit, **beside)
    fit = _with(fit, optima=optima_json(fit, observations, settings))
    if observations.held_out:
        fit = _with(fit, held_out=held_out_json(fit, observations.held_out, settings.level))
    return fit


def _refitted(observations: Observations, choice: Choice) -> Solution:
    """What the choice makes of other runs, or of the same ones counted otherwise."""
    nearest = solve(observations, choice.candidate, quick=True)
    if not choice.is_mixed:
        return nearest
    return led_by(nearest, choice.heard_on(observations, solve_all(observations, choice.weights)))


def _checked(
    observations: Observations, candidate: Candidate, settings: Settings
) -> tuple[Solution, dict[str, Any] | None]:
    """The global fit, with SciPy's opinion where starts disagree, or where a profile was asked for."""
    solution = solve(observations, candidate)
    if solution.agreed == solution.starts and not settings.profile:
        return solution, None
    from llama_scale.fitting.polish import polished

    points, form = points_of(observations, candidate), candidate.fitted_form
    solution, found = polished(points, solution, form, delta=candidate.delta, seed=settings.seed)
    return solution, {"objective": found.lowest, "gap": found.gap, "starts": found.starts}


def _other_forms(
    observations: Observations, candidate: Candidate, fitted: Form
) -> dict[str, dict[str, float]]:
    """The constants of each form but the law's, fitted alike to all runs: how much hangs on it."""
    found = {}
    for name in AUTO_FORMS:
        other = replace(candidate, form=name)
        form = other.fitted_form
        if form is fitted or len(observations) <= form.constants:
            continue
        solution = solve(observations, other, quick=True)
        if set(solution.at_bound) <= set(form.may_rest):
            found[name] = {word: float(value) for word, value in solution.law.constants.items()}
    return found


def _profile_json(
    observations: Observations, candidate: Candidate, solution: Solution, settings: Settings
) -> dict[str, Any]:
    """Profile intervals of the fitted candidate."""
    from llama_scale.fitting.profile import profile

    points, form = points_of(observations, candidate), candidate.fitted_form
    found = profile(points, solution, form, delta=candidate.delta, level=settings.level)
    return {
        "level": found.level,
        "intervals": plain(found.intervals),
        "threshold": found.threshold,
        "lower_objective": found.lower,
    }


def _backtest_json(
    observations: Observations, calibration: Calibration | None, settings: Settings
) -> dict[str, Any] | None:
    """The backtest that calibrated the intervals, and `protocol`, the outer test, where it was asked for."""
    found = plain(calibration.backtest) if calibration and calibration.backtest else None
    if not settings.protocol:
        return found

    from llama_scale.fitting.protocol import run_protocol  # seldom asked for

    def fit_of(known: Observations, direction: Direction) -> Fit:
        draws = max(PROTOCOL_DRAWS, least_draws(settings.level))
        return estimate(
            known, replace(settings, protocol=False, profile=False, direction=direction, draws=draws)
        )

    verdicts = run_protocol(observations, settings.candidates, fit_of, level=settings.level)
    return (found or {}) | {"protocol": plain(verdicts)}


def _refits(heard: Heard, solution: Solution, settings: Settings) -> Draws | None:
    """Refits of disturbed runs, of every candidate that is heard: what intervals of constants are of."""
    if not settings.draws:
        return None
    asked = {"draws": settings.draws, "seed": settings.seed, "method": settings.resampling}
    first, *others = heard.weights
    if others:
        return draw_mixtures([heard], **asked)[0]
    return draw_laws(heard.observations, first, solution.constants, **asked)


def _calibrated(observations: Observations, choice: Choice, settings: Settings) -> Calibration | None:
    """What backtests make of the draws; None where either is not asked for."""
    if not (settings.draws and settings.backtest):
        return None
    return calibrate(
        observations,
        choice,
        level=settings.level,
        seed=settings.seed,
        method=settings.resampling,
    )


def _carried(
    observations: Observations,
    choice: Choice,
    refits: Draws | None,
    calibration: Calibration | None,
    settings: Settings,
) -> Draws | None:
    """The draws that the fit carries: refits that waver as laws beyond runs do."""
    if refits is None or calibration is None:
        return refits
    ends = ends_of(observations, choice.directions[-1])
    turns = turns_of(calibration.drifts, np.size(refits.law.E), settings.seed)
    return replace(refits, law=waver(refits.law, ends, turns))


def _note(draws: Draws | None, calibration: Calibration | None) -> str:
    if draws is None:
        return "no draws were asked for, so nothing is known of the uncertainty"
    return f"{draws.note}; {calibration.note}" if calibration else draws.note


def _with(fit: Fit, **evidence: Any) -> Fit:
    return replace(fit, evidence={**fit.evidence, **evidence})
