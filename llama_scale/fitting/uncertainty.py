"""How sure a fit is: draws of the law, the noise of a new run, and what backtests make of both.

Three ways to draw laws, each a refit of disturbed data at the fit's own delta:

    rows      resample runs with replacement (Besiroglu et al. 2024): for many independent runs
    families  resample whole trunks with their branches: for many trunks
    model     simulate losses from the fitted law and the estimated noise of trunks and runs (`noise`):
              for sweeps of a few trunks, where a resampled trunk more or less is another design

On synthetic sweeps of 6 trunks x 6 budgets, 90 % intervals cover the best N at the largest budget 58 to
86 % of the time by `rows` and 89 to 96 % by `model` (benchmarks/coverage.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llama_scale.errors import UnidentifiedError
from llama_scale.fitting.forms import CHINCHILLA, Form
from llama_scale.fitting.newton import Array
from llama_scale.fitting.noise import Noise, estimate_noise, log_prediction
from llama_scale.fitting.observations import LAW_CONSTANTS, Observations, check_design
from llama_scale.fitting.solver import Points
from llama_scale.laws import Fit, ScalingLaw

Resampling = Literal["rows", "families", "model"]
LEAST_SQUARES = 10.0  # a delta that no residual reaches
SPLITS = (0.6, 0.8, 1.0)  # of the runs in order of compute: fit up to one, predict up to the next
BACKTEST_DRAWS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Laws drawn for a fit, centred constants (5 or 6, S), and the relative sd of a new run at each (S,).

    `at_bound` is the share of them that end on a bound where the form's constants should not rest.
    """

    constants: Array
    law: ScalingLaw
    noise: Array
    trunk_noise: float
    own_noise: float
    method: Resampling
    at_bound: float

    @property
    def note(self) -> str:
        """What the draws are, in a sentence."""
        ways = {
            "rows": "refits of runs resampled with replacement",
            "families": "refits of trunks resampled with their branches",
            "model": "refits of losses simulated from the fit, with noise of trunks and of runs as estimated",
        }
        return f"{len(self.noise)} draws: {ways[self.method]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backtest:
    """Forward backtests: laws of the cheaper runs predict the dearer ones, which they never saw.

    `factor` is what predictive intervals are widened by: the rms of prediction errors in units of
    the sd that the intervals implied, where that exceeds 1. `coverage` is the share of predicted runs
    within the intervals as they were before.
    """

    predicted_runs: int
    mean_error: float
    coverage: float
    level: float
    half_width: float
    factor: float


def points_of(observations: Observations) -> Points:
    """The rows that the solver takes."""
    return Points.of(observations.parameters, observations.tokens, observations.loss)


def choose_resampling(observations: Observations) -> Resampling:
    """Simulation where runs share trunks, or are few; else the bootstrap over runs."""
    few = len(observations) < 8 * LAW_CONSTANTS
    return "model" if observations.shares_trunks or few else "rows"


def draw_laws(
    observations: Observations,
    constants: Array,
    *,
    delta: float,
    draws: int,
    seed: int = 0,
    method: Resampling | None = None,
    form: Form = CHINCHILLA,
) -> Draws:
    """Draw laws about the optimum (5 or 6,) of `observations`."""
    points, generator = points_of(observations), np.random.default_rng(seed)
    chosen = method or choose_resampling(observations)
    families = observations.family_codes
    if chosen == "model":
        noise = model_noise(points, families, draws=draws, generator=generator, form=form)
        simulated = log_prediction(points, constants) + noise.simulate(families, generator)
        found = form.refit(points, constants, delta=delta, log_losses=simulated)
    else:
        counts = _resample(families if chosen == "families" else np.arange(len(points.x)), draws, generator)
        found = form.refit(points, constants, delta=delta, weights=counts)
        noise = _plain_noise(points, constants, draws, form)
    return Draws(
        constants=found.constants,
        law=points.law(found.constants),
        noise=noise.total,
        trunk_noise=float(np.median(noise.trunk)),
        own_noise=float(np.median(noise.own)),
        method=chosen,
        at_bound=float(found.at_bound[form.fixed_rows].any(axis=0).mean()),
    )


def model_noise(
    points: Points,
    families: NDArray[np.intp],
    *,
    draws: int,
    generator: np.random.Generator,
    form: Form = CHINCHILLA,
) -> Noise:
    """Noise of trunks and runs, from the residuals of a least-squares fit."""
    least = form.solve(points, delta=LEAST_SQUARES, quick=True).constants
    residuals = points.z - log_prediction(points, least)
    return estimate_noise(residuals, form.design(points, least), families, draws=draws, generator=generator)


def _plain_noise(points: Points, constants: Array, draws: int, form: Form) -> Noise:
    residuals = points.z - log_prediction(points, constants)
    own = np.sqrt((residuals**2).sum() / (len(residuals) - form.constants))
    return Noise(trunk=np.zeros(draws), own=np.full(draws, own))


def _resample(groups: NDArray[np.intp], draws: int, generator: np.random.Generator) -> Array:
    """Counts (S, n) of whole groups drawn with replacement."""
    number = int(groups.max()) + 1
    counts = generator.multinomial(number, np.full(number, 1 / number), size=draws)
    return counts[:, groups].astype(float)


def backtest(
    observations: Observations,
    *,
    delta: float,
    level: float,
    seed: int = 0,
    method: Resampling | None = None,
    form: Form = CHINCHILLA,
) -> Backtest | None:
    """Predict the dearer runs from the cheaper ones, twice; None where too few runs would be left to fit."""
    order = np.argsort(observations.train_flops, kind="stable")
    ranked = observations.take(order)
    errors, ratios, widths = [], [], []
    for start, stop in _split_points(ranked.budgets):
        known, ahead = ranked.take(np.arange(start)), ranked.take(np.arange(start, stop))
        if not identifies(known, form):
            continue
        fit = _quick_fit(known, delta=delta, seed=seed, method=method, form=form)
        guess = fit.predict(ahead.parameters, ahead.tokens, level=level)
        error = np.log(ahead.loss / guess.loss)
        assert guess.low is not None
        assert guess.high is not None
        reach = np.where(error > 0, np.log(guess.high / guess.loss), -np.log(guess.low / guess.loss))
        errors.append(error)
        ratios.append(np.abs(error) / np.maximum(reach, 1e-12))
        widths.append(reach)
    if not errors:
        return None
    error, ratio = np.concatenate(errors), np.concatenate(ratios)
    return Backtest(
        predicted_runs=len(error),
        mean_error=float(np.abs(np.expm1(error)).mean()),
        coverage=float((ratio <= 1).mean()),
        level=level,
        half_width=float(np.median(np.concatenate(widths))),
        factor=float(max(1.0, np.sqrt(np.mean((ratio * _normal_reach(level)) ** 2)))),
    )


def identifies(observations: Observations, form: Form) -> bool:
    """Whether runs are enough, and differ enough, for a form."""
    try:
        check_design(observations)
    except UnidentifiedError:
        return False
    return len(observations) > form.constants


def _split_points(budgets: Array) -> list[tuple[int, int]]:
    """Positions (start, stop) of the runs to predict, moved so that no named budget is cut in two."""
    ends = [round(share * len(budgets)) for share in SPLITS]
    for position, end in enumerate(ends[:-1]):
        while end > 0 and budgets[end] == budgets[end - 1]:
            end -= 1
        ends[position] = end
    return [(start, stop) for start, stop in pairwise(ends) if 0 < start < stop]


def _quick_fit(
    observations: Observations, *, delta: float, seed: int, method: Resampling | None, form: Form
) -> Fit:
    points = points_of(observations)
    solution = form.solve(points, delta=delta, quick=True)
    draws = draw_laws(
        observations,
        solution.constants,
        delta=delta,
        draws=BACKTEST_DRAWS,
        seed=seed,
        method=method,
        form=form,
    )
    return Fit(
        name="backtest",
        law=solution.law,
        convention=observations.convention,
        source="",
        draws=draws.law,
        noise=float(np.median(draws.noise)),
        noise_draws=draws.noise,
    )


def _normal_reach(level: float) -> float:
    """Half-width of a normal's central interval, in standard deviations."""
    from statistics import NormalDist

    return NormalDist().inv_cdf((1 + level) / 2)
