"""What a fit's JSON says: spreads, selection, provenance, optima, runs held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llama_scale.canonical import plain
from llama_scale.fitting.kept import fingerprint
from llama_scale.fitting.newton import Array
from llama_scale.fitting.observations import Observations
from llama_scale.fitting.seeds import seed_noise
from llama_scale.fitting.selection import Choice
from llama_scale.fitting.settings import Settings
from llama_scale.fitting.uncertainty import Draws
from llama_scale.laws import Fit, ScalingLaw, central_range
from llama_scale.version import code_version

FAR = (1.0, 10.0, 100.0)  # times the largest run: where the table of optima looks


def spread_json(law: ScalingLaw, refits: Draws | None, level: float) -> dict[str, Any]:
    """Standard errors and intervals of a law's constants and of its exponent a, null without draws.

    The law of several candidates may have what hardly any of its refits has: an outer power, or exponents
    that differ where nine in ten are tied. So an interval is the middle of the refits and reaches to it.
    """
    if refits is None:
        return {"standard_errors": None, "intervals": None}
    fitted = {**law.constants, "exponent_a": law.exponent_a}
    drawn = {name: np.asarray(getattr(refits.law, name), float) for name in fitted}
    samples = {name: np.broadcast_to(values, refits.noise.shape) for name, values in drawn.items()}
    return {
        "standard_errors": {name: float(np.std(values)) for name, values in samples.items()},
        "intervals": {
            "level": level,
            **{name: _reaching(samples[name], float(value), level) for name, value in fitted.items()},
        },
    }


def _reaching(values: Array, fitted: float, level: float) -> list[float]:
    low, high = central_range(values, level)
    return [min(low, fitted), max(high, fitted)]


def selection_json(
    settings: Settings, draws: Draws | None, choice: Choice, observations: Observations
) -> dict[str, Any]:
    """What was fitted, by whose choice, and the table of all that was tried.

    Where more than one is `heard`, form, delta and weights are those of the candidate nearest to the law.
    """
    chosen, by = choice.candidate, "backtest" if choice.tried else "default"
    measured = seed_noise(observations) if chosen.by_noise else None
    return {
        "form": chosen.form,
        "form_chosen_by": "user" if settings.named_form else by,
        "delta": chosen.delta,
        "delta_chosen_by": _by(settings.delta, settings, by),
        "weights": chosen.weights,
        "weights_power": chosen.power,
        "weights_chosen_by": _by(settings.weights, settings, by),
        "heard": len(choice.weights),
        "seed_noise": measured.note if measured else None,
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


def provenance_json(observations: Observations, settings: Settings) -> dict[str, Any]:
    """Sources, their hash, seed and versions."""
    return {
        "sources": list(observations.sources),
        "observations_hash": fingerprint(observations),
        "seed": settings.seed,
        "llama_scale": code_version(),
        "numpy": np.__version__,
    }


def observations_json(observations: Observations) -> dict[str, list[Any]]:
    """The runs that were fitted, a list a column to 6 digits: what pictures of the fit show."""
    columns = {
        "parameters": observations.parameters,
        "tokens": observations.tokens,
        "train_flops": observations.train_flops,
        "loss_nats": observations.loss,
    }
    rounded = {name: [float(f"{value:.6g}") for value in column] for name, column in columns.items()}
    budgets = [None if np.isnan(budget) else budget for budget in observations.budgets.tolist()]
    names = {"run": list(observations.names), "family": list(observations.families)}
    return {**names, **rounded, "budget_flops": budgets}


def optima_json(fit: Fit, observations: Observations, settings: Settings) -> list[dict[str, Any]]:
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
                "parameters_interval": plain(best.parameters_interval),
                "tokens_interval": plain(best.tokens_interval),
                "loss_interval": plain(best.loss_interval),
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
                "budget_flops": None if np.isnan(runs.budgets[i]) else float(runs.budgets[i]),
                "measured": measured,
                "predicted": float(guess.loss),
                "low": low,
                "high": high,
                "relative_error": float(guess.loss) / measured - 1,
                "inside": None if low is None or high is None else low <= measured <= high,
            }
        )
    return rows
