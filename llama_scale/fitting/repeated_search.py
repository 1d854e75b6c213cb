"""What `fit --form repeated` finds: the law of data seen once, every minimum of the decays, draws.

Forward backtests do it all again: the cheaper runs predict the dearer ones.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llama_scale.errors import InputError, UnidentifiedError
from llama_scale.fitting.backtests import factor_for, nearer_and_next, over_reach
from llama_scale.fitting.newton import Array
from llama_scale.fitting.repeated import (
    DecayMinimum,
    RepeatedRuns,
    decay_minima,
    distinct,
    draw_decays,
    nearest_minimum,
    published_choice,
)
from llama_scale.fitting.repeated_base import (
    LEAST_REPEATED,
    OWN,
    Base,
    base_of,
    matched_parameters,
    residuals_of,
)
from llama_scale.fitting.repeated_joint import JointProblem
from llama_scale.frozen import frozen
from llama_scale.laws import MUENNIGHOFF_REPETITION, RepeatedDataLaw, Repetition
from llama_scale.laws.spread import normal_strata, tails

BACKTEST_DRAWS = 100


@frozen
class Found:
    """What the search brought: all minima with their shares of the draws, and the one shown.

    `excess` counts runs of more parameters than their unique tokens call for.
    """

    base: Base
    minima: tuple[DecayMinimum, ...]
    shares: tuple[float | None, ...]
    chosen: DecayMinimum
    draws: Repetition | None
    excess: int

    @property
    def repetition(self) -> Repetition:
        """The decays shown."""
        return self.chosen.repetition


def resamples(runs: RepeatedRuns, draws: int, seed: int) -> Array:
    """Counts (draws, n) of runs drawn with replacement."""
    share = np.full(len(runs), 1 / len(runs))
    return np.random.default_rng(seed).multinomial(len(runs), share, size=draws).astype(float)


def search(runs: RepeatedRuns, base_law: str | None, weights: Array, delta: float) -> Found:
    """All minima over the decays, about a law that is held or together with one, and those of resamples."""
    base, draws = base_of(runs, base_law, delta), None
    if base.name == OWN:
        problem = JointProblem.of(runs)
        minima = problem.minima(base.law, delta=delta)
        laws, draws = problem.draws(minima, weights, delta=delta) if len(weights) else (None, None)
        base = replace(base, law=minima[0].law, draws=laws)
    else:
        minima = decay_minima(base.law, runs, delta=delta)
        draws = draw_decays(base.law, runs, weights, delta=delta) if len(weights) else None
    excess = int((runs.parameters > matched_parameters(base.law, runs)).sum())
    if not excess:  # every decay of parameters fits alike
        kept = float(MUENNIGHOFF_REPETITION.parameters_decay)
        minima = distinct(minimum.with_parameters_decay(kept) for minimum in minima)
        draws = draws and replace(draws, parameters_decay=np.full(len(weights), kept))
    return Found(
        base=base,
        minima=minima,
        shares=(None,) * len(minima) if draws is None else tuple(nearest_minimum(draws, minima).tolist()),
        chosen=minima[0] if base.name == OWN else published_choice(minima),
        draws=draws,
        excess=excess,
    )


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
            found = search(known, base_law, resamples(known, BACKTEST_DRAWS, seed), delta)
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
