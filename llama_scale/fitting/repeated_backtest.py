"""Forward backtests of laws of repeated data: those of the cheaper runs predict the dearer ones."""

from __future__ import annotations

import numpy as np

from llama_scale.errors import InputError, UnidentifiedError
from llama_scale.fitting.backtests import factor_for, nearer_and_next, over_reach
from llama_scale.fitting.newton import Array
from llama_scale.fitting.repeated import RepeatedRuns
from llama_scale.fitting.repeated_base import LEAST_REPEATED, residuals_of
from llama_scale.fitting.repeated_search import Found, resamples, search
from llama_scale.laws import RepeatedDataLaw
from llama_scale.laws.spread import normal_strata, tails

DRAWS = 100


def backtest_repeated(
    runs: RepeatedRuns, base_law: str, *, delta: float, level: float, seed: int
) -> dict[str, float | int] | None:
    """Errors on dearer runs, how many lay inside intervals, and what these are to be widened by.

    None where too few runs repeat, or no law of data seen once is identified, in the cheaper part.
    """
    errors, ratios, widths = [], [], []
    for cheaper, dearer in nearer_and_next(np.argsort(runs.parameters * runs.tokens, kind="stable")):
        known, ahead = runs.take(np.sort(cheaper)), runs.take(np.sort(dearer))
        if int((~known.seen_once).sum()) < LEAST_REPEATED or not len(ahead):
            continue
        try:
            found = search(known, base_law, resamples(known, DRAWS, seed), delta)
        except (InputError, UnidentifiedError):
            continue
        error, low, high = _errors(known, ahead, found, level)
        errors.append(np.abs(np.expm1(error)))
        ratios.append(over_reach(error, low, high))
        widths.append((high - low) / 2)
    if not errors:
        return None
    ratio = np.concatenate(ratios)
    return {
        "predicted_runs": len(ratio),
        "mean_error": float(np.concatenate(errors).mean()),
        "coverage": float((ratio <= 1).mean()),
        "level": level,
        "half_width": float(np.median(np.concatenate(widths))),
        "factor": factor_for(ratio, level),
    }


def _errors(
    known: RepeatedRuns, ahead: RepeatedRuns, found: Found, level: float
) -> tuple[Array, Array, Array]:
    """Log of measured over predicted loss of the runs ahead, and the interval of it (n,) each."""
    noise = float(np.sqrt(np.mean(residuals_of(found.base.law, known, found.repetition) ** 2)))
    centre = -residuals_of(found.base.law, ahead, found.repetition)
    assert found.draws is not None
    drawn = RepeatedDataLaw(
        law=found.base.draws or found.base.law,
        unique_tokens=ahead.unique_tokens[:, None],
        repetition=found.draws,
    ).loss(ahead.parameters[:, None], ahead.tokens[:, None])
    spread = np.log(drawn) - np.log(ahead.loss)[:, None] + centre[:, None]
    outcomes = (spread[..., None] + noise * normal_strata()).reshape(len(ahead), -1)
    low, high = tails(outcomes, level)
    return centre, low, high
