"""Forward backtests of laws of repeated data: those of the cheaper runs predict the dearer ones."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from statistics import NormalDist
from typing import Protocol

import numpy as np

from llama_scale.errors import InputError, UnidentifiedError
from llama_scale.fitting.newton import Array
from llama_scale.fitting.repeated import RepeatedRuns
from llama_scale.fitting.repeated_base import LEAST_REPEATED, Base, residuals_of
from llama_scale.laws import RepeatedDataLaw, Repetition
from llama_scale.laws.spread import normal_strata, tails

SPLITS = (0.6, 0.8, 1.0)  # of the runs in order of compute: fit up to one, predict up to the next
DRAWS = 100


class Searched(Protocol):
    """What a search of the decays found: the law of data seen once, the decays chosen, and their draws."""

    @property
    def base(self) -> Base: ...

    @property
    def repetition(self) -> Repetition: ...

    @property
    def draws(self) -> Repetition | None: ...


Search = Callable[[RepeatedRuns, Array], Searched]


def backtest_repeated(
    runs: RepeatedRuns, search: Search, *, level: float, seed: int
) -> dict[str, float | int] | None:
    """Errors on dearer runs, how many lay inside intervals, and what these are to be widened by.

    None where too few runs repeat, or no law of data seen once is identified, in the cheaper part.
    """
    order = np.argsort(runs.parameters * runs.tokens, kind="stable")
    errors, ratios, widths = [], [], []
    for share, until in pairwise(SPLITS):
        start, stop = round(share * len(runs)), round(until * len(runs))
        known = runs.take(np.isin(np.arange(len(runs)), order[:start]))
        ahead = runs.take(np.isin(np.arange(len(runs)), order[start:stop]))
        if int((~known.seen_once).sum()) < LEAST_REPEATED or not len(ahead):
            continue
        drawn = np.random.default_rng(seed).multinomial(
            len(known), np.full(len(known), 1 / len(known)), DRAWS
        )
        try:
            found = search(known, drawn.astype(float))
        except (InputError, UnidentifiedError):
            continue
        error, low, high = _errors(known, ahead, found, level)
        reach = np.maximum(np.where(error > 0, high, -low), 1e-9)
        errors.append(np.abs(np.expm1(error)))
        ratios.append(np.abs(error) / reach)
        widths.append((high - low) / 2)
    if not errors:
        return None
    ratio = np.concatenate(ratios)
    sd = NormalDist().inv_cdf((1 + level) / 2)
    return {
        "predicted_runs": len(ratio),
        "mean_error": float(np.concatenate(errors).mean()),
        "coverage": float((ratio <= 1).mean()),
        "level": level,
        "half_width": float(np.median(np.concatenate(widths))),
        "factor": float(max(1.0, sd * np.sqrt(np.mean(ratio**2)))),
    }


def _errors(
    known: RepeatedRuns, ahead: RepeatedRuns, found: Searched, level: float
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
