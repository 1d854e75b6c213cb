"""Approach 2: a parabola of loss in log parameters at each budget, and the line through their minima.

Its known bias (arXiv 2603.22339): a parabola is symmetric and the true profile is
not, so minima shift when sizes reach far to one side. `bias_under` measures it for the
runs at hand. It is reported beside Approach 3, not instead of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llama_scale.fitting.newton import Array
from llama_scale.fitting.observations import Observations
from llama_scale.laws import Range, ScalingLaw, central_range

Verdict = Literal["interior", "below the sizes", "above the sizes", "not convex", "too few sizes"]
Positions = NDArray[np.intp]
LEAST_SIZES = 4  # three points lie on their parabola exactly and say nothing of its error
GAP = 0.13  # budgets that no column names: FLOPs further apart than this (natural log) are two budgets


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The runs of one budget, their parabola a + b u + c u^2 in u = log N - centre, and its minimum.

    `parameters` is None unless the minimum is interior: a vertex outside the sizes that were run is
    an extrapolation that this method must not make. `vertex` keeps it for diagnostics. An end of
    `interval` is None where the scatter allows a minimum outside the sizes.
    """

    budget: float
    sizes: tuple[float, ...]
    losses: tuple[float, ...]
    centre: float
    coefficients: tuple[float, float, float]
    verdict: Verdict
    vertex: float
    parameters: float | None
    interval: tuple[float | None, float | None]
    loss: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLine:
    """N_opt = G C^a through interior minima, by least squares of logs; D = C / 6N."""

    exponent: float
    log_coefficient: float
    exponent_interval: Range

    def parameters(self, train_flops: float) -> float:
        """N_opt at a budget."""
        return float(np.exp(self.log_coefficient) * train_flops**self.exponent)


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoFlop:
    """Approach 2 of one data set: a profile a budget, and their line where at least three are interior."""

    profiles: tuple[Profile, ...]
    line: PowerLine | None
    level: float


def isoflop(
    observations: Observations, *, level: float = 0.9, draws: int = 2000, seed: int = 0
) -> IsoFlop | None:
    """Parabolas of every budget; None where the runs form no budgets.

    Intervals: coefficients are drawn from their t distribution, with the scatter about the parabolas
    pooled over budgets. Trunks that several budgets share make them too narrow; Approach 3 counts that.
    """
    groups = budgets_of(observations)
    sizes = observations.parameters
    groups = {budget: rows for budget, rows in groups.items() if len(np.unique(sizes[rows])) >= 3}
    if len(groups) < 2:
        return None
    fits = {budget: _parabola(observations, rows) for budget, rows in groups.items()}
    freedom = sum(len(fit[3]) - 3 for fit in fits.values())
    spread = sum(float((fit[3] ** 2).sum()) for fit in fits.values())
    generator = np.random.default_rng(seed)
    scale = np.sqrt(spread / generator.chisquare(freedom, draws)) if freedom > 0 else np.zeros(draws)
    profiles, vertices, samples = [], [], []
    for budget, rows in groups.items():
        centre, coefficients, root, _ = fits[budget]
        sample = coefficients[:, None] + root @ generator.standard_normal((3, draws)) * scale
        # A draw without a minimum has one at infinity: it widens the interval.
        minimum = -sample[1] / (2 * np.maximum(sample[2], 1e-300))
        drawn = np.where(sample[2] > 0, np.clip(minimum, -50, 50), np.sign(-sample[1]) * 50)
        profile = _profile(observations, budget, rows, (centre, coefficients), drawn, level)
        profiles.append(profile)
        if profile.parameters is not None:
            vertices.append((np.log(budget), np.log(profile.parameters)))
            offsets = np.log(observations.parameters[rows]) - centre
            inside = (drawn > offsets.min()) & (drawn < offsets.max())
            samples.append(np.where(inside, drawn + centre, np.nan))
    line = _line(np.array(vertices), np.array(samples), level) if len(vertices) >= 3 else None
    return IsoFlop(profiles=tuple(profiles), line=line, level=level)


def bias_under(observations: Observations, law: ScalingLaw) -> float | None:
    """What these parabolas would add to the exponent of `law` if its losses were sampled without noise."""
    exact = replace(observations, loss=np.asarray(law.loss(observations.parameters, observations.tokens)))
    found = isoflop(exact, draws=2)
    return None if found is None or found.line is None else found.line.exponent - float(law.exponent_a)


def budgets_of(observations: Observations) -> dict[float, Positions]:
    """Positions of the runs of each budget: as named by the source, else by gaps in FLOPs."""
    if np.isfinite(observations.budgets).any():
        known = observations.budgets
        return {float(b): np.flatnonzero(known == b) for b in np.unique(known[np.isfinite(known)])}
    order = np.argsort(observations.train_flops)
    logs = np.log(observations.train_flops[order])
    parts = np.split(order, np.flatnonzero(np.diff(logs) > GAP) + 1)
    spans = [float(np.ptp(np.log(observations.train_flops[part]))) for part in parts]
    tight = [
        part for part, span in zip(parts, spans, strict=True) if len(part) >= LEAST_SIZES and span < 3 * GAP
    ]
    return {float(np.exp(np.log(observations.train_flops[part]).mean())): part for part in tight}


def _parabola(observations: Observations, rows: Positions) -> tuple[float, Array, Array, Array]:
    """Centre, coefficients (3,), a root of their covariance at unit scatter (3, 3), residuals."""
    logs = np.log(observations.parameters[rows])
    centre = float(logs.mean())
    design = np.vander(logs - centre, 3, increasing=True)
    inverse = np.linalg.pinv(design)
    coefficients = inverse @ observations.loss[rows]
    root = np.linalg.cholesky(inverse @ inverse.T + 1e-18 * np.eye(3))
    return centre, coefficients, np.asarray(root, float), observations.loss[rows] - design @ coefficients


def _profile(
    observations: Observations,
    budget: float,
    rows: Positions,
    parabola: tuple[float, Array],
    drawn: Array,
    level: float,
) -> Profile:
    centre, (constant, slope, bend) = parabola[0], (float(c) for c in parabola[1])
    sizes = observations.parameters[rows]
    order = np.argsort(sizes)
    shift = -slope / (2 * bend) if bend != 0 else np.inf
    verdict = _verdict(np.log(sizes) - centre, bend, shift)
    vertex = float(np.exp(centre + np.clip(shift, -50, 50)))
    interior = verdict == "interior"
    return Profile(
        budget=budget,
        sizes=tuple(sizes[order].tolist()),
        losses=tuple(observations.loss[rows][order].tolist()),
        centre=centre,
        coefficients=(constant, slope, bend),
        verdict=verdict,
        vertex=vertex,
        parameters=vertex if interior else None,
        interval=_within(drawn + centre, np.log(sizes), level) if interior else (None, None),
        loss=constant - slope**2 / (4 * bend) if interior else None,
    )


def _verdict(offsets: Array, bend: float, shift: float) -> Verdict:
    if len(np.unique(offsets)) < LEAST_SIZES:
        return "too few sizes"
    if bend <= 0:
        return "not convex"
    if shift <= offsets.min():
        return "below the sizes"
    return "above the sizes" if shift >= offsets.max() else "interior"


def _line(vertices: Array, samples: Array, level: float) -> PowerLine:
    """Least squares of log N_opt on log C; in each draw, as in the data, only interior minima count."""
    exponent = float(_slopes(vertices[:, 0], vertices[:, 1:])[0])
    return PowerLine(
        exponent=exponent,
        log_coefficient=float(vertices[:, 1].mean() - exponent * vertices[:, 0].mean()),
        exponent_interval=central_range(_slopes(vertices[:, 0], samples), level),
    )


def _slopes(log_budgets: Array, log_sizes: Array) -> Array:
    """Slopes (S,) of each column (n, S) against log budgets, over its finite entries; three are the least."""
    known = np.isfinite(log_sizes)
    count = np.maximum(known.sum(axis=0), 1)
    x = np.where(known, log_budgets[:, None], 0.0)
    y = np.where(known, log_sizes, 0.0)
    x = np.where(known, x - x.sum(axis=0) / count, 0.0)
    slopes = (x * y).sum(axis=0) / np.maximum((x**2).sum(axis=0), 1e-300)
    return slopes[known.sum(axis=0) >= 3]


def _within(logs: Array, log_sizes: Array, level: float) -> tuple[float | None, float | None]:
    """The central range of exp(logs), an end outside the sizes as None."""
    low, high = central_range(logs, level)
    return (
        float(np.exp(low)) if low > log_sizes.min() else None,
        float(np.exp(high)) if high < log_sizes.max() else None,
    )
