"""The outer test of the whole procedure on any runs: choose, fit and calibrate on the nearer four fifths.

The farthest fifth, by compute and by tokens per parameter, is held out from everything: choice, fit, draws
and calibration. It then says how far the chosen law errs there, how every other candidate would have, and how
many of these runs the intervals cover. This is what `llama-scale fit --backtest` prints; nothing of it goes
back into the fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from llama_scale.errors import UnidentifiedError
from llama_scale.fitting.backtests import DIRECTIONS, Direction, Split, Trial, splits
from llama_scale.fitting.candidates import Candidate, solve_all
from llama_scale.fitting.observations import Observations
from llama_scale.frozen import frozen
from llama_scale.laws import Fit

OUTER = 0.8


@frozen
class Verdict:
    """How one outer split ended. Errors are relative, half-widths the median in parts of the loss."""

    direction: Direction
    fitted_runs: int
    held_out_runs: int
    factor: float
    mean_error: float
    bias: float
    coverage: float | None
    half_width: float | None
    level: float
    chosen: dict[str, Any]
    candidates: list[dict[str, Any]]
    refused: str | None


def run_protocol(
    observations: Observations,
    candidates: tuple[Candidate, ...],
    fit_of: Callable[[Observations, Direction], Fit],
    *,
    level: float,
) -> list[Verdict]:
    """One verdict a direction that leaves enough runs to fit; `fit_of` is the whole procedure."""
    least = max(one.fitted_form.constants for one in candidates)
    return [
        _judge(split, candidates, fit_of, level)
        for direction in DIRECTIONS
        for split in splits(observations, (OUTER,), direction, constants=least)
    ]


def _judge(
    split: Split,
    candidates: tuple[Candidate, ...],
    fit_of: Callable[[Observations, Direction], Fit],
    level: float,
) -> Verdict:
    ahead, refused = split.ahead, None
    try:
        fit = fit_of(split.known, split.direction)
    except UnidentifiedError as error:
        fit, refused = getattr(error, "estimate", None), error.message
        if not isinstance(fit, Fit):
            raise
    guess = fit.predict(ahead.parameters, ahead.tokens, level=level)
    errors = np.asarray(guess.loss, float) / ahead.loss - 1
    coverage = half_width = None
    if guess.low is not None and guess.high is not None:
        coverage = float(np.mean((guess.low <= ahead.loss) & (ahead.loss <= guess.high)))
        half_width = float(np.median((guess.high - np.asarray(guess.low)) / 2 / np.asarray(guess.loss)))
    selection = fit.evidence["selection"]
    return Verdict(
        direction=split.direction,
        fitted_runs=len(split.known),
        held_out_runs=len(ahead),
        factor=split.reach,
        mean_error=float(np.abs(errors).mean()),
        bias=float(errors.mean()),
        coverage=coverage,
        half_width=half_width,
        level=level,
        chosen={name: selection[name] for name in ("form", "delta", "weights", "heard")},
        candidates=_candidates(split, candidates, selection),
        refused=refused,
    )


def _candidates(
    split: Split, candidates: tuple[Candidate, ...], selection: dict[str, Any]
) -> list[dict[str, Any]]:
    """Each candidate's error on the runs held out, as if it had been named."""
    trial = Trial(split=split, laws=solve_all(split.known, candidates))
    chosen = (selection["form"], selection["delta"], selection["weights"])
    return [
        {
            "form": one.form,
            "delta": one.delta,
            "weights": one.weights,
            "mean_error": float(np.abs(np.expm1(trial.errors(one))).mean()),
            "chosen": (one.form, one.delta, one.weights) == chosen,
        }
        for one in candidates
    ]
