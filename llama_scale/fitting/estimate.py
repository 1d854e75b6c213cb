"""Observations in, Fit out: the law, its draws, and the evidence that travels with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_args

import numpy as np

from llama_scale.config import canonical_hash, nearest
from llama_scale.errors import InputError
from llama_scale.fitting.approaches import side_by_side
from llama_scale.fitting.backtests import Direction
from llama_scale.fitting.calibration import Backtest, calibrate, pivot_of, warnings_of_backtest, waver
from llama_scale.fitting.candidates import DELTAS, POWERS, Candidate, candidates_of, points_of, solve
from llama_scale.fitting.diagnostics import Diagnostics, check_identified, diagnose, warnings_of
from llama_scale.fitting.observations import Observations, check_design
from llama_scale.fitting.protocol import run_protocol
from llama_scale.fitting.selection import AUTO_FORMS, Asked, Choice, choose
from llama_scale.fitting.solver import DEFAULT_DELTA, Solution
from llama_scale.fitting.uncertainty import Draws, Resampling, draw_laws, draw_mixture
from llama_scale.laws import DEFAULT_LEVEL, FORMS, Fit, FormName, central_range

AUTO = "auto"
TRUNK_DELTA = 1e-2
DEFAULT_DRAWS = 1000
PROTOCOL_DRAWS = 400
SPREAD_DRAWS = 300  # of a chosen fit alone, for the spread of its constants
MOST_POWER = 2.0
FAR = (1.0, 10.0, 100.0)  # times the largest run: where the table of optima looks


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to fit.

    `form` None, or "auto", means that forward backtests choose among forms, and among Huber deltas and
    weights where these are None (`selection`). A named form means delta 1e-3 and no weights unless they are
    given: `weights` is the power of C / Cmax. `direction` is where the question lies, `resampling` None
    what `choose_resampling` says. `backtest` calibrates intervals, `protocol` tests the whole procedure on
    the farthest fifth of the runs besides.
    """

    form: str | None = None
    delta: float | None = None
    weights: float | None = None
    direction: Asked = "auto"
    draws: int = DEFAULT_DRAWS
    level: float = DEFAULT_LEVEL
    seed: int = 0
    resampling: Resampling | None = None
    budgets: tuple[float, ...] = ()
    backtest: bool = True
    protocol: bool = False

    def __post_init__(self) -> None:
        if self.form not in (None, AUTO, *FORMS):
            raise InputError(
                f"there is no form {self.form!r}", hint=f"use --form {' or '.join((AUTO, *FORMS))}"
            )
        if self.delta is not None and not 0 < self.delta < np.inf:
            raise InputError(f"delta is {self.delta:g}, but must be positive", hint="use --delta 1e-3")
        if self.weights is not None and not 0 <= self.weights <= MOST_POWER:
            raise InputError(
                f"weights are (C/Cmax)^{self.weights:g}, but the power must lie between 0 and {MOST_POWER:g}",
                hint="use --weights none or --weights 0.5",
            )
        if self.direction not in get_args(Asked):
            raise InputError(
                f"there is no direction {self.direction!r}", hint=f"use {' or '.join(get_args(Asked))}"
            )
        if self.resampling not in (None, *get_args(Resampling)):
            raise InputError(
                f"there is no resampling {self.resampling!r}", hint=f"use {' or '.join(get_args(Resampling))}"
            )
        if not 0 < self.level < 1:
            raise InputError(f"level is {self.level:g}, but must lie between 0 and 1", hint="use --level 0.9")
        if self.draws < 0 or 0 < self.draws < 20:
            raise InputError(
                f"{self.draws} draws make no interval", hint="use --draws 1000, or --draws 0 for none"
            )

    @property
    def named_form(self) -> FormName | None:
        """The form that the user wants; None where it is to be chosen."""
        return next((name for name in FORMS if name == self.form), None)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """What these settings leave to choose from."""
        if self.named_form is not None:
            delta = DEFAULT_DELTA if self.delta is None else self.delta
            return (Candidate(form=self.named_form, delta=delta, power=self.weights or 0.0),)
        return candidates_of(
            AUTO_FORMS,
            DELTAS if self.delta is None else (self.delta,),
            POWERS if self.weights is None else (self.weights,),
            by_noise=self.weights is None,
        )

    def default_for(self, observations: Observations) -> Candidate:
        """What is fitted where nothing can be compared.

        Chinchilla's form with no weights; delta 1e-2 where runs share trunks, whose noise is near normal:
        1e-3 threw away a sixth of the precision on synthetic sweeps of that design.
        """
        delta = TRUNK_DELTA if observations.shares_trunks else DEFAULT_DELTA
        wanted = [one for one in self.candidates if one.power == (self.weights or 0.0)]
        return min(wanted, key=lambda one: (one.form != "chinchilla", abs(one.delta - delta)))


def settings_of(settings: Settings | None, words: Mapping[str, Any]) -> Settings:
    """Settings with further words; InputError names a word that is none, with the nearest."""
    known = [f.name for f in fields(Settings)]
    for word in words:
        if word not in known:
            close = nearest(word, known)
            hint = f"did you mean {close[0]}?" if close else f"use {', '.join(known)}"
            raise InputError(f"fit has no option {word!r}", hint=hint)
    return replace(settings or Settings(), **words)


def estimate(observations: Observations, settings: Settings, *, name: str = "fit") -> Fit:
    """Fit a law to runs.

    Raises UnidentifiedError where the design cannot identify one, and UnidentifiedFitError, which
    carries the fit, where the data turn out not to.
    """
    check_design(observations)
    choice = choose(
        observations,
        settings.candidates,
        direction=settings.direction,
        default=settings.default_for(observations),
    )
    candidate, form = choice.candidate, choice.candidate.fitted_form
    solution = solve(observations, candidate)
    own = _own_draws(observations, choice, solution, settings)
    tested = _calibrated(observations, choice, settings)
    draws = _carried(observations, choice, own, tested, settings)
    diagnostics = diagnose(points_of(observations, candidate), observations.names, solution, own, form)
    fit = Fit(
        name=name,
        law=solution.law,
        convention=observations.convention,
        source=f"{len(observations)} runs of {', '.join(observations.sources)}",
        flops_accounting=observations.flops_accounting,
        support=observations.support,
        draws=draws.law if draws else None,
        draws_note=_note(draws, tested),
        noise=float(np.median(draws.noise)) if draws else diagnostics.residual_rms,
        noise_draws=draws.noise if draws and np.ptp(draws.noise) > 0 else None,
        interval_factor=tested.factor if tested else 1.0,
        evidence={
            "objective": solution.objective,
            "n_observations": len(observations),
            **_spread(own, draws, settings.level),
            "diagnostics": _plain(diagnostics) | {"flops_over_6nd": observations.flops_over_6nd},
            "selection": selection_json(settings, draws, choice),
            "backtest": _backtest_json(observations, tested, settings),
            "exclusions": [asdict(exclusion) for exclusion in observations.exclusions],
            "warnings": [
                *observations.warnings,
                *warnings_of(diagnostics, form),
                *warnings_of_backtest(tested, choice),
            ],
            "provenance": _provenance(observations, settings),
        },
    )
    beside = side_by_side(
        observations,
        fit,
        lambda runs: solve(runs, candidate, quick=True).law,
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


def _backtest_json(
    observations: Observations, tested: Backtest | None, settings: Settings
) -> dict[str, Any] | None:
    """The backtest that calibrated the intervals, and `protocol`, the outer test, where it was asked for."""
    found = _plain(tested) if tested else None
    if not settings.protocol:
        return found

    def fit_of(known: Observations, direction: Direction) -> Fit:
        return estimate(known, replace(settings, protocol=False, direction=direction, draws=PROTOCOL_DRAWS))

    verdicts = run_protocol(observations, settings.candidates, fit_of, level=settings.level)
    return (found or {}) | {"protocol": [asdict(verdict) for verdict in verdicts]}


def _own_draws(
    observations: Observations, choice: Choice, solution: Solution, settings: Settings
) -> Draws | None:
    """Draws of the fitted candidate alone: what the constants' standard errors and intervals are of."""
    if not settings.draws:
        return None
    return draw_laws(
        observations,
        choice.candidate,
        solution.constants,
        draws=min(settings.draws, SPREAD_DRAWS) if choice.is_mixed else settings.draws,
        seed=settings.seed,
        method=settings.resampling,
    )


def _calibrated(observations: Observations, choice: Choice, settings: Settings) -> Backtest | None:
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
    observations: Observations, choice: Choice, own: Draws | None, tested: Backtest | None, settings: Settings
) -> Draws | None:
    """The draws that the fit carries: of all candidates that are heard, wavering as backtests show."""
    if own is None:
        return None
    drawn = own
    if choice.is_mixed:
        drawn = draw_mixture(
            observations,
            choice.weights,
            choice.laws,
            draws=settings.draws,
            seed=settings.seed,
            method=settings.resampling,
        )
    if tested is None or tested.spread == 0:
        return drawn
    pivot = pivot_of(observations, choice.directions[-1])
    return replace(drawn, law=waver(drawn.law, pivot, tested.spread))


def _note(draws: Draws | None, tested: Backtest | None) -> str:
    if draws is None:
        return "no draws were asked for, so nothing is known of the uncertainty"
    if tested is None or tested.spread == 0:
        return draws.note
    return f"{draws.note}; exponents waver by {tested.spread:.0%} beyond the runs, as backtests show"


def _with(fit: Fit, **evidence: Any) -> Fit:
    return replace(fit, evidence={**fit.evidence, **evidence})


def _spread(own: Draws | None, carried: Draws | None, level: float) -> dict[str, Any]:
    """Standard errors and intervals, null without draws: of the constants given the fitted form.

    Those of exponent a are of all fits that are heard, where there are more: a tied form knows no doubt.
    """
    if own is None or carried is None:
        return {"standard_errors": None, "intervals": None}
    exponent = carried.law.exponent_a if len(carried.forms) > 1 else own.law.exponent_a
    samples = {**own.law.constants, "exponent_a": exponent}
    return {
        "standard_errors": {name: float(np.std(values)) for name, values in samples.items()},
        "intervals": {
            "level": level,
            **{name: list(central_range(values, level)) for name, values in samples.items()},
        },
    }


def selection_json(settings: Settings, draws: Draws | None, choice: Choice) -> dict[str, Any]:
    """What was fitted, by whose choice, and the table of all that was tried."""
    chosen, by = choice.candidate, "backtest" if choice.tried else "default"
    return {
        "form": chosen.form,
        "form_chosen_by": "user" if settings.named_form else by,
        "delta": chosen.delta,
        "delta_chosen_by": _by(settings.delta, settings, by),
        "weights": chosen.weights,
        "weights_power": chosen.power,
        "weights_chosen_by": _by(settings.weights, settings, by),
        "direction": list(choice.directions),
        "direction_note": choice.direction_note,
        "candidates": [
            {
                "form": one.candidate.form,
                "delta": one.candidate.delta,
                "weights": one.candidate.weights,
                "mean_error": one.mean_error,
                "weight": one.weight,
                "distance": one.distance,
                "predicted_runs": one.predicted_runs,
                "chosen": one.candidate == chosen,
            }
            for one in choice.tried
        ],
        "note": choice.note,
        "resampling": draws.method if draws else None,
        "draws": len(draws.noise) if draws else 0,
    }


def _by(given: float | None, settings: Settings, otherwise: str) -> str:
    if given is not None:
        return "user"
    return "default" if settings.named_form else otherwise


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
