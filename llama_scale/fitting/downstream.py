"""From (loss, score) pairs to the sigmoid that a plan's predicted score comes from (Bhagia et al. 2024).

Bounded least squares on the score, from many starts with floor and ceiling solved linearly. Draws are refits
of the curve plus its own residuals, resampled; a predicted score adds the scatter of models about it, and its
interval is as wide as curves of the worse models needed to hold the better ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llama_scale.errors import InputError, UnidentifiedError
from llama_scale.fitting.backtests import factor_for, nearer_and_next, over_reach
from llama_scale.fitting.newton import Array
from llama_scale.fitting.scores import ScorePairs, read_scores
from llama_scale.fitting.sigmoids import (
    FLATTEST,
    FREE,
    LEAST_SPREAD,
    STARTS,
    STEEPEST,
    best_sigmoid,
    draw_sigmoids,
    score_of,
    sigmoid_of,
)
from llama_scale.laws import DEFAULT_LEVEL, Downstream, Fit, Sigmoid
from llama_scale.quantities import counted

LEAST_PAIRS = 5
DRAWS = 1000
BACKTEST_DRAWS = 200
# Of the correlation of score with loss: by chance 1 in 40 of five models has it, 1 in 160 of twenty
LEAST_T = 3.0
FEW_STARTS = 0.5  # of the starts: fewer that agree have found no sure optimum


def fit_downstream(pairs: ScorePairs, *, draws: int = DRAWS, level: float = 0.9, seed: int = 0) -> Downstream:
    """The sigmoid of some pairs, with draws, the scatter about it, and what backtests made of both.

    Raises UnidentifiedError where pairs are fewer than 5, losses hardly differ, or scores do not rise as
    loss falls.
    """
    _check_pairs(pairs)
    unknowns, agreed = best_sigmoid(pairs.loss, pairs.score)
    sigmoid = sigmoid_of(unknowns)
    residuals = pairs.score - np.asarray(sigmoid.score(pairs.loss))
    tested = _backtest(pairs, level, seed) if draws else None
    return Downstream(
        task=pairs.task,
        sigmoid=sigmoid,
        losses=(float(pairs.loss.min()), float(pairs.loss.max())),
        models=len(pairs.loss),
        noise=_noise(residuals),
        draws=draw_sigmoids(pairs.loss, pairs.score, unknowns, draws, seed) if draws else None,
        interval_factor=tested["factor"] if tested else 1.0,
        source=pairs.source,
        evidence={
            "residual_rms": float(np.sqrt(np.mean(residuals**2))),
            "worst_model": pairs.names[int(np.abs(residuals).argmax())],
            "residual_max": float(np.abs(residuals).max()),
            "starts": STARTS,
            "starts_agreed": agreed,
            "level": level,
            "backtest": tested,
            "warnings": [
                *pairs.notes,
                *_warnings(pairs, sigmoid, tested),
                *_search_warnings(sigmoid, agreed),
            ],
        },
    )


def with_scores(fit: Fit, scores: str | Path | None, task: str | None = None) -> Fit:
    """The fit with what a loss scores, by a CSV of scores; its warnings are the fit's too."""
    if scores is None:
        raise InputError("a task names no scores to choose from", hint="give their CSV with --scores")
    if not isinstance(scores, str | Path):
        raise InputError(
            f"scores are a {type(scores).__name__}, but must be the path of a CSV",
            hint="write scores='scores.csv'",
        )
    level = (fit.evidence.get("intervals") or {}).get("level", DEFAULT_LEVEL)
    found = fit_downstream(read_scores(Path(scores), task=task), level=level)
    warnings = [*fit.evidence.get("warnings", ()), *found.evidence["warnings"], *_apart(fit, found)]
    return replace(fit, downstream=found, evidence={**fit.evidence, "warnings": warnings})


def _apart(fit: Fit, scored: Downstream) -> list[str]:
    """A warning where the runs and the models that were scored have no loss in common."""
    seen = (fit.evidence.get("observations") or {}).get("loss_nats")
    (low, high) = scored.losses
    if not seen or (min(seen) <= high and low <= max(seen)):
        return []
    return [
        f"the models that were scored on {scored.task} have losses of {low:.3f} to {high:.3f}, the runs of"
        f" {min(seen):.3f} to {max(seen):.3f}: are these losses of one text and tokenizer?"
    ]


def _backtest(pairs: ScorePairs, level: float, seed: int) -> dict[str, Any] | None:
    """Curves of the worse models predict the better ones, twice; None where too few would be left to fit."""
    errors, ratios = [], []
    for worse, better in nearer_and_next(np.argsort(-pairs.loss, kind="stable")):
        loss, score = pairs.loss[worse], pairs.score[worse]
        if len(loss) < LEAST_PAIRS or not len(better) or np.ptp(loss) < LEAST_SPREAD:
            continue
        unknowns, _ = best_sigmoid(loss, score)
        known = Downstream(
            task="",
            sigmoid=sigmoid_of(unknowns),
            losses=(1.0, 1.0),
            models=len(loss),
            noise=_noise(score - score_of(unknowns, loss)),
            draws=draw_sigmoids(loss, score, unknowns, BACKTEST_DRAWS, seed),
        )
        guess = known.predict(pairs.loss[better], level)
        assert guess.low is not None
        assert guess.high is not None
        error, low, high = (
            np.asarray(end - guess.score) for end in (pairs.score[better], guess.low, guess.high)
        )
        errors.append(np.abs(error))
        ratios.append(over_reach(error, low, high))
    if not errors:
        return None
    error, ratio = np.concatenate(errors), np.concatenate(ratios)
    return {
        "predicted_models": len(error),
        "mean_error": float(error.mean()),
        "coverage": float((ratio <= 1).mean()),
        "factor": factor_for(ratio, level),
    }


def _noise(residuals: Array) -> float:
    return float(np.sqrt((residuals**2).sum() / max(1, len(residuals) - FREE)))


def _check_pairs(pairs: ScorePairs) -> None:
    count = len(pairs.loss)
    if count < LEAST_PAIRS:
        raise UnidentifiedError(
            f"{pairs.source} has {counted(count, 'pair')} of loss and score for {pairs.task}: {LEAST_PAIRS}"
            " are the least",
            hint="evaluate more models, or more checkpoints of one",
        )
    if np.ptp(pairs.loss) < LEAST_SPREAD:
        raise UnidentifiedError(
            f"the losses of {pairs.source} lie within {np.ptp(pairs.loss):.2g} nats of each other, so nothing"
            f" says how {pairs.task} follows from them",
            hint="add models that are better, and models that are worse",
        )
    fall = 0.0 if np.ptp(pairs.score) == 0 else -float(np.corrcoef(pairs.loss, pairs.score)[0, 1])
    if fall <= 0:
        raise UnidentifiedError(
            f"scores of {pairs.task} do not rise as loss falls in {pairs.source}",
            hint="check that the columns are loss and score, and that a higher score is better",
        )
    if fall**2 * (count - 2) < LEAST_T**2 * (1 - fall**2):
        raise UnidentifiedError(
            f"scores of {pairs.task} rise no surer as loss falls in {pairs.source} than chance may have it"
            f" (correlation {-fall:.2f} of {count} models)",
            hint="add models that are better, until they score above chance",
        )


def _warnings(pairs: ScorePairs, sigmoid: Sigmoid, tested: Mapping[str, Any] | None) -> list[str]:
    found = []
    if tested is None:
        found.append(f"{len(pairs.loss)} models are too few to test the intervals of {pairs.task} on")
    ends = np.asarray(sigmoid.score(np.array([pairs.loss.max(), pairs.loss.min()])))
    floor, ceiling = float(sigmoid.floor), float(sigmoid.ceiling)
    if ends[1] < (floor + ceiling) / 2:
        found.append(
            f"the best model scores {ends[1]:.2f}, less than half of the way from floor to ceiling: the"
            f" ceiling ({min(ceiling, 1.0):.2f}) is a guess, and so are scores beyond the models' losses"
        )
    if ends[0] > (floor + ceiling) / 2:
        found.append(
            f"the worst model scores {ends[0]:.2f}, more than half of the way from floor to ceiling: the"
            f" floor ({floor:.2f}) is a guess"
        )
    return found


def _search_warnings(sigmoid: Sigmoid, agreed: int) -> list[str]:
    found = []
    steepness = float(sigmoid.steepness)
    if not FLATTEST < steepness < STEEPEST:
        shape = "a step between two losses" if steepness >= STEEPEST else "a straight line"
        found.append(
            f"the curve's steepness rests on its bound, {steepness:g} a nat: all that scores say is that it"
            f" is {shape}"
        )
    if agreed < FEW_STARTS * STARTS:
        found.append(f"{agreed} of {STARTS} starts agree on the curve: scores hardly say where it bends")
    return found
