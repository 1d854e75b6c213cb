"""Approach 2: a parabola of loss in log parameters at each budget, and the line through their minima.

Hoffmann et al. 2022, section 3.2. Its known bias (arXiv 2603.22339): a parabola is symmetric and the true
profile is not, so minima shift when sizes reach far to one side. `bias_under` measures it for the runs at
hand, `sensitivity` says what single runs and budgets do to the exponent. It is reported beside Approach 3,
not instead of it.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from llama_scale.fitting.lines import PowerLine, power_line
from llama_scale.fitting.noise import Noise
from llama_scale.fitting.observations import Observations
from llama_scale.fitting.rows import Array, count_different
from llama_scale.frozen import frozen
from llama_scale.laws import ScalingLaw, central_range

Positions = NDArray[np.intp]
LEAST_SIZES = 4  # three points lie on their parabola exactly and say nothing of its error
GAP = 0.13  # budgets that no column names: FLOPs further apart than this (natural log) are two budgets


class Verdict(StrEnum):
    """Whether a budget's parabola has a minimum that its runs can speak of, and why not."""

    INTERIOR = "interior"
    BELOW = "below the sizes"
    ABOVE = "above the sizes"
    NOT_CONVEX = "not convex"
    TOO_FEW = "too few sizes"


@frozen
class Profile:
    """The runs of one budget, their parabola a + b u + c u^2 in u = log N - centre, and its minimum.

    `parameters` is None unless the minimum is interior: a vertex outside the sizes that were run is
    an extrapolation that this method must not make. An end of `interval` is None where the scatter allows
    a minimum outside the sizes.
    """

    budget: float
    sizes: tuple[float, ...]
    losses: tuple[float, ...]
    centre: float
    coefficients: tuple[float, float, float]
    verdict: Verdict
    parameters: float | None
    tokens: float | None
    interval: tuple[float | None, float | None]
    loss: float | None


@frozen
class IsoFlop:
    """Approach 2 of one data set: a profile a budget, and the lines of N and D where three are interior."""

    profiles: tuple[Profile, ...]
    line: PowerLine | None
    of_tokens: PowerLine | None
    level: float


@frozen
class _Parabola:
    """Least squares of one budget's losses: `solve` (3, n) gives coefficients, `root` their covariance."""

    rows: Positions
    offsets: Array
    centre: float
    solve: Array
    coefficients: Array
    residuals: Array

    @property
    def root(self) -> Array:
        return np.asarray(np.linalg.cholesky(self.solve @ self.solve.T + 1e-18 * np.eye(3)), float)


def isoflop(
    observations: Observations,
    *,
    level: float = 0.9,
    draws: int = 2000,
    seed: int = 0,
    noise: Noise | None = None,
) -> IsoFlop | None:
    """Parabolas of every budget; None where the runs form no budgets.

    Intervals: coefficients are drawn from their t distribution, with the scatter about the parabolas
    pooled over budgets, or, given the `noise` of trunks and runs, refitted to losses disturbed by it:
    budgets that share trunks err together.
    """
    sizes = observations.parameters
    groups = {b: rows for b, rows in budgets_of(observations).items() if count_different(sizes[rows]) >= 3}
    if len(groups) < 2:
        return None
    fits = {budget: _parabola(observations, rows) for budget, rows in groups.items()}
    samples = _samples(observations, list(fits.values()), draws, np.random.default_rng(seed), noise)
    profiles, optima, drawn = [], [], []
    for (budget, fit), sample in zip(fits.items(), samples, strict=True):
        # A draw without a minimum has one at infinity: it widens the interval.
        minimum = -sample[1] / (2 * np.maximum(sample[2], 1e-300))
        shifts = np.where(sample[2] > 0, np.clip(minimum, -50, 50), np.sign(-sample[1]) * 50)
        profile = _profile(observations, budget, fit, shifts, level)
        profiles.append(profile)
        if profile.parameters is not None and profile.tokens is not None:
            inside = (shifts > fit.offsets.min()) & (shifts < fit.offsets.max())
            steady, falling = _tokens_by_size(observations, fit)
            logs = np.where(inside, shifts + fit.centre, np.nan)
            optima.append((np.log(budget), np.log(profile.parameters), np.log(profile.tokens)))
            drawn.append((logs, steady + falling * (logs - fit.centre)))
    line = of_tokens = None
    if len(optima) >= 3:
        (log_flops, *logs), draws_of = np.array(optima).T, np.array(drawn).swapaxes(0, 1)
        line, of_tokens = (power_line(log_flops, *pair) for pair in zip(logs, draws_of, strict=True))
    return IsoFlop(profiles=tuple(profiles), line=line, of_tokens=of_tokens, level=level)


def _samples(
    observations: Observations,
    fits: list[_Parabola],
    draws: int,
    generator: np.random.Generator,
    noise: Noise | None,
) -> list[Array]:
    """Coefficients (3, S) of every budget."""
    if noise is not None:
        factors = np.exp(noise.simulate(observations.family_codes, generator))
        return [fit.solve @ (observations.loss[fit.rows] * factors[:, fit.rows]).T for fit in fits]
    freedom = sum(len(fit.rows) - 3 for fit in fits)
    spread = sum(float((fit.residuals**2).sum()) for fit in fits)
    scale = np.sqrt(spread / generator.chisquare(freedom, draws)) if freedom > 0 else np.zeros(draws)
    return [
        fit.coefficients[:, None] + fit.root @ generator.standard_normal((3, draws)) * scale for fit in fits
    ]


def bias_under(observations: Observations, law: ScalingLaw) -> float | None:
    """What these parabolas would add to the exponent of `law` if its losses were sampled without noise."""
    exact = replace(observations, loss=np.asarray(law.loss(observations.parameters, observations.tokens)))
    found = isoflop(exact, draws=2)
    return None if found is None or found.line is None else found.line.exponent - float(law.exponent_a)


def budgets_of(observations: Observations) -> dict[float, Positions]:
    """Positions of the runs of each budget: as named by the source, else by gaps in FLOPs."""
    if np.isfinite(observations.budgets).any():
        known = observations.budgets
        return {float(b): np.flatnonzero(known == b) for b in sorted(set(known[np.isfinite(known)].tolist()))}
    order = np.argsort(observations.train_flops)
    logs = np.log(observations.train_flops[order])
    parts = np.split(order, np.flatnonzero(np.diff(logs) > GAP) + 1)
    spans = [float(np.ptp(np.log(observations.train_flops[part]))) for part in parts]
    tight = [
        part for part, span in zip(parts, spans, strict=True) if len(part) >= LEAST_SIZES and span < 3 * GAP
    ]
    return {float(np.exp(np.log(observations.train_flops[part]).mean())): part for part in tight}


def _parabola(observations: Observations, rows: Positions) -> _Parabola:
    logs = np.log(observations.parameters[rows])
    centre = float(logs.mean())
    design = np.vander(logs - centre, 3, increasing=True)
    solve = np.asarray(np.linalg.pinv(design), float)
    coefficients = solve @ observations.loss[rows]
    return _Parabola(
        rows=rows,
        offsets=logs - centre,
        centre=centre,
        solve=solve,
        coefficients=coefficients,
        residuals=observations.loss[rows] - design @ coefficients,
    )


def _tokens_by_size(observations: Observations, fit: _Parabola) -> tuple[float, float]:
    """Log tokens of a budget as a line in log N: its height at the centre, its slope (-1 where C = 6ND)."""
    logs = np.log(observations.tokens[fit.rows])
    slope = float((fit.offsets * logs).sum() / (fit.offsets**2).sum())
    return float(logs.mean()), slope


def _profile(
    observations: Observations, budget: float, fit: _Parabola, shifts: Array, level: float
) -> Profile:
    constant, slope, bend = (float(c) for c in fit.coefficients)
    sizes = observations.parameters[fit.rows]
    order = np.argsort(sizes)
    shift = -slope / (2 * bend) if bend != 0 else np.inf
    verdict = _verdict(fit.offsets, bend, shift)
    interior = verdict is Verdict.INTERIOR
    steady, falling = _tokens_by_size(observations, fit)
    return Profile(
        budget=budget,
        sizes=tuple(sizes[order].tolist()),
        losses=tuple(observations.loss[fit.rows][order].tolist()),
        centre=fit.centre,
        coefficients=(constant, slope, bend),
        verdict=verdict,
        parameters=float(np.exp(fit.centre + shift)) if interior else None,
        tokens=float(np.exp(steady + falling * shift)) if interior else None,
        interval=_within(shifts + fit.centre, np.log(sizes), level) if interior else (None, None),
        loss=constant - slope**2 / (4 * bend) if interior else None,
    )


def _verdict(offsets: Array, bend: float, shift: float) -> Verdict:
    if count_different(offsets) < LEAST_SIZES:
        return Verdict.TOO_FEW
    if bend <= 0:
        return Verdict.NOT_CONVEX
    if shift <= offsets.min():
        return Verdict.BELOW
    return Verdict.ABOVE if shift >= offsets.max() else Verdict.INTERIOR


def _within(logs: Array, log_sizes: Array, level: float) -> tuple[float | None, float | None]:
    """The central range of exp(logs); None for an end outside the sizes, or without draws."""
    if not logs.size:
        return None, None
    low, high = central_range(logs, level)
    return (
        float(np.exp(low)) if low > log_sizes.min() else None,
        float(np.exp(high)) if high < log_sizes.max() else None,
    )
