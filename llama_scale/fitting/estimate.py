"""Observations in, Fit out: the law, its draws, and the evidence that travels with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from llama_scale.config import canonical_hash
from llama_scale.errors import InputError
from llama_scale.fitting.approaches import side_by_side
from llama_scale.fitting.diagnostics import Diagnostics, check_identified, diagnose, warnings_of
from llama_scale.fitting.forms import Form
from llama_scale.fitting.observations import Observations, check_design
from llama_scale.fitting.selection import Choice, choose_form
from llama_scale.fitting.solver import DEFAULT_DELTA, Solution
from llama_scale.fitting.uncertainty import Backtest, Draws, Resampling, backtest, draw_laws, points_of
from llama_scale.laws import DEFAULT_LEVEL, FORMS, Fit, central_range

AUTO = "auto"
TRUNK_DELTA = 1e-2
DEFAULT_DRAWS = 1000
FAR = (1.0, 10.0, 100.0)  # times the largest run: where the table of optima looks


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to fit.

    `form` None, or "auto", means the form that predicts dearer runs best (`selection`).
    `delta` None means 1e-3 for a named form or independent runs, and 1e-2 where runs share trunks:
    their noise is near normal, and 1e-3 threw away a sixth of the precision on synthetic sweeps of that
    design. `resampling` None means what `choose_resampling` says.
    """

    form: str | None = None
    delta: float | None = None
    draws: int = DEFAULT_DRAWS
    level: float = DEFAULT_LEVEL
    seed: int = 0
    resampling: Resampling | None = None
    budgets: tuple[float, ...] = ()
    backtest: bool = True

    def __post_init__(self) -> None:
        if self.form not in (None, AUTO, *FORMS):
            raise InputError(
                f"there is no form {self.form!r}", hint=f"use --form {' or '.join((AUTO, *FORMS))}"
            )
        if self.delta is not None and not 0 < self.delta < np.inf:
            raise InputError(f"delta is {self.delta:g}, but must be positive", hint="use --delta 1e-3")
        if not 0 < self.level < 1:
            raise InputError(f"level is {self.level:g}, but must lie between 0 and 1", hint="use --level 0.9")
        if self.draws < 0 or 0 < self.draws < 20:
            raise InputError(
                f"{self.draws} draws make no interval", hint="use --draws 1000, or --draws 0 for none"
            )

    @property
    def named_form(self) -> str | None:
        """The form that the user wants; None where it is to be chosen."""
        return None if self.form == AUTO else self.form

    def delta_for(self, observations: Observations) -> float:
        """The delta that these settings mean for these runs."""
        if self.delta is not None:
            return self.delta
        return TRUNK_DELTA if observations.shares_trunks and self.named_form is None else DEFAULT_DELTA


def estimate(observations: Observations, settings: Settings, *, name: str = "fit") -> Fit:
    """Fit a law to runs.

    Raises UnidentifiedError where the design cannot identify one, and UnidentifiedFitError, which
    carries the fit, where the data turn out not to.
    """
    check_design(observations)
    points, delta = points_of(observations), settings.delta_for(observations)
    choice = choose_form(observations, delta=delta, named=settings.named_form)
    form = choice.form
    solution = form.solve(points, delta=delta)
    draws = _draws(observations, solution, settings, delta, form)
    diagnostics = diagnose(points, observations.names, solution, draws, form)
    tested = (
        backtest(
            observations,
            delta=delta,
            level=settings.level,
            seed=settings.seed,
            method=settings.resampling,
            form=form,
        )
        if draws and settings.backtest
        else None
    )
    factor = tested.factor if tested else 1.0
    warnings = [*observations.warnings, *warnings_of(diagnostics, form)]
    fit = Fit(
        name=name,
        law=solution.law,
        convention=observations.convention,
        source=f"{len(observations)} runs of {', '.join(observations.sources)}",
        flops_accounting=observations.flops_accounting,
        support=observations.support,
        draws=draws.law if draws else None,
        draws_note=draws.note if draws else "no draws were asked for, so nothing is known of the uncertainty",
        noise=float(np.median(draws.noise)) if draws else diagnostics.residual_rms,
        noise_draws=draws.noise if draws and draws.method == "model" else None,
        interval_factor=factor,
        evidence={
            "objective": solution.objective,
            "n_observations": len(observations),
            **_spread(draws, settings.level),
            "diagnostics": _plain(diagnostics) | {"flops_over_6nd": observations.flops_over_6nd},
            "selection": _selection(settings, delta, draws, choice),
            "backtest": _plain(tested) if tested else None,
            "exclusions": [asdict(exclusion) for exclusion in observations.exclusions],
            "warnings": warnings,
            "provenance": _provenance(observations, settings),
        },
    )
    beside = side_by_side(
        observations,
        fit,
        lambda runs: form.solve(points_of(runs), delta=delta, quick=True).law,
        budgets=settings.budgets,
        level=settings.level,
        seed=settings.seed,
    )
    fit = _with(fit, **beside)
    fit = _with(fit, optima=_optima(fit, observations, settings))
    if observations.held_out:
        fit = _with(fit, held_out=held_out_json(fit, observations.held_out, settings.level))
    check_identified(diagnostics, fit, form)
    return fit


def _draws(
    observations: Observations, solution: Solution, settings: Settings, delta: float, form: Form
) -> Draws | None:
    if not settings.draws:
        return None
    return draw_laws(
        observations,
        solution.constants,
        delta=delta,
        draws=settings.draws,
        seed=settings.seed,
        method=settings.resampling,
        form=form,
    )


def _with(fit: Fit, **evidence: Any) -> Fit:
    return replace(fit, evidence={**fit.evidence, **evidence})


def _spread(draws: Draws | None, level: float) -> dict[str, Any]:
    """Standard errors and intervals of the constants and of exponent a, null without draws."""
    if draws is None:
        return {"standard_errors": None, "intervals": None}
    samples = {**draws.law.constants, "exponent_a": draws.law.exponent_a}
    return {
        "standard_errors": {name: float(np.std(values)) for name, values in samples.items()},
        "intervals": {
            "level": level,
            **{name: list(central_range(values, level)) for name, values in samples.items()},
        },
    }


def _selection(settings: Settings, delta: float, draws: Draws | None, choice: Choice) -> dict[str, Any]:
    return {
        "form": choice.form.name,
        "form_chosen_by": "user" if settings.named_form else "backtest" if choice.candidates else "default",
        "candidates": [asdict(candidate) for candidate in choice.candidates],
        "note": choice.note,
        "delta": delta,
        "delta_chosen_by": "user" if settings.delta is not None else "default",
        "weights": "none",
        "resampling": draws.method if draws else None,
        "draws": len(draws.noise) if draws else 0,
    }


def _provenance(observations: Observations, settings: Settings) -> dict[str, Any]:
    from llama_scale import __version__

    columns = [observations.parameters, observations.tokens, observations.loss, observations.train_flops]
    return {
        "sources": list(observations.sources),
        "observations_hash": canonical_hash([observations.names, *(column.tolist() for column in columns)]),
        "seed": settings.seed,
        "llama_scale": __version__,
        "numpy": np.__version__,
    }


def _optima(fit: Fit, observations: Observations, settings: Settings) -> list[dict[str, Any]]:
    """Optima at the budgets asked for, or at the runs' own and beyond; FLOPs as the runs count them."""
    largest = float(observations.train_flops.max())
    isoflop = fit.evidence["isoflop"]
    known = [profile["budget"] for profile in isoflop["profiles"]] if isoflop else []
    budgets: Sequence[float] = settings.budgets or [
        *(known or [largest / 10]),
        *(largest * far for far in FAR),
    ]
    overhead = observations.flops_over_6nd if observations.flops_accounting == "exact" else 1.0
    rows = []
    for budget in sorted({float(f"{budget:.6g}") for budget in budgets}):
        best = fit.optimum(budget / overhead, level=settings.level)
        rows.append(
            {
                "train_flops": budget,
                "parameters": best.parameters,
                "tokens": best.tokens,
                "tokens_per_parameter": best.tokens / best.parameters,
                "loss_nats": best.loss,
                "parameters_interval": best.parameters_interval and list(best.parameters_interval),
                "tokens_interval": best.tokens_interval and list(best.tokens_interval),
                "loss_interval": best.loss_interval and list(best.loss_interval),
            }
        )
    return rows


def held_out_json(fit: Fit, runs: Observations, level: float) -> list[dict[str, Any]]:
    """Each held-out run: its loss as predicted, with the interval of one new run, and as measured."""
    rows = []
    for i, name in enumerate(runs.names):
        guess = fit.predict(runs.parameters[i], runs.tokens[i], level=level)
        low, high = (None if bound is None else float(bound) for bound in (guess.low, guess.high))
        measured = float(runs.loss[i])
        rows.append(
            {
                "run": name,
                "parameters": float(runs.parameters[i]),
                "tokens": float(runs.tokens[i]),
                "train_flops": float(runs.train_flops[i]),
                "measured": measured,
                "predicted": float(guess.loss),
                "low": low,
                "high": high,
                "relative_error": float(guess.loss) / measured - 1,
                "inside": None if low is None or high is None else low <= measured <= high,
            }
        )
    return rows


def _plain(value: Diagnostics | Backtest) -> dict[str, Any]:
    return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(value).items()}
