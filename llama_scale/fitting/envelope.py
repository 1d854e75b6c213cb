"""Approach 1: the lowest loss at each FLOP count, and the size that reaches it.

Hoffmann et al. 2022, section 3.1. Losses of one size form a curve in C. At log-spaced FLOPs the size of
lowest loss is noted, and log N and log D are regressed on log C. Which losses:

    ends     final losses of runs of one size and several durations, each with its learning rate decayed; a
             polynomial in log C smooths them
    curves   losses along single runs, where too few sizes have several ends. Their learning rate has not
             decayed before the last point: the best loss at those FLOPs is lower than the curve says

never both: sizes with ends would look better than those without. FLOPs count only where the best size lies
between a smaller and a larger one that reach them too; elsewhere the sizes that were run decide. N is read
off the parabola through the best size and its two neighbours, so that few sizes make no stairs.

Where sizes are few or noise is large the method is biased: `bias_under` says how far for the runs at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from llama_scale.fitting.descent import Index
from llama_scale.fitting.lines import PowerLine, power_line
from llama_scale.fitting.noise import Noise
from llama_scale.fitting.observations import SAME_SIZE, Observations
from llama_scale.fitting.rows import Array, count_different
from llama_scale.fitting.size_curves import LEAST_SIZES, Ends, LossBySize, ends_of, has_ends, losses_along
from llama_scale.frozen import frozen
from llama_scale.laws import ScalingLaw
from llama_scale.quantities import counted

GRID = 1500  # FLOP counts, as in the paper
DRAW_GRID = 60  # the same for each draw
LEAST_BEST = 2  # sizes that are best somewhere
LEAST_SPAN = np.log(3.0)  # of log C, over which sizes between others are best
DRAW_SPAN = np.log(2.0)  # the same for each draw
LEAST_RESIDUALS = 10  # fewer cannot be resampled
LEAST_KEPT = 0.8  # of the draws that have a line

Kind = Literal["ends", "curves"]


@frozen(eq=False)
class Envelope:
    """FLOPs (m,) at which a size between others is best, that size and its tokens (m,), and their power laws.

    `sizes` of them are best somewhere. Without lines, `reason` says why there are none.
    """

    kind: Kind
    flops: Array
    parameters: Array
    tokens: Array
    sizes: int
    of_parameters: PowerLine | None
    of_tokens: PowerLine | None
    reason: str | None = None


def envelope(
    observations: Observations, *, draws: int = 0, seed: int = 0, noise: Noise | None = None
) -> Envelope | None:
    """Approach 1 of these runs; None where they have neither several durations a size nor loss curves.

    Draws (by run) put other residuals about the sizes' polynomials in place of each run's own, or, given
    their `noise`, disturb losses by it: right where a few trunks share it. Resampling runs tears holes into
    the design: 90 % intervals then covered 100 % and were three times too wide. Curves have no draws: what
    is wrong with them is a bias.
    """
    generator = np.random.default_rng(seed)
    sizes: Sequence[LossBySize]
    drawn = np.zeros((0, len(observations)))
    if has_ends(observations):
        kind, sizes = "ends", (ends := ends_of(observations))
        drawn = _disturbed(observations, ends, draws, generator, noise)
    elif len({round(float(np.log(curve.parameters)), 2) for curve in observations.curves}) >= LEAST_SIZES:
        kind, sizes = "curves", losses_along(observations.curves)
    else:
        return None
    low, high = min(size.span[0] for size in sizes), max(size.span[1] for size in sizes)
    grid, drawn_grid = np.linspace(low, high, GRID), np.linspace(low, high, DRAW_GRID)
    best = _best(sizes, grid)
    known = np.isfinite(best[0, 0])
    log_flops, (log_parameters, log_tokens, at) = grid[known], best[:, 0, known]
    lines = _lines(log_flops, best[:, 0, known], drawn_grid, _best(sizes, drawn_grid, drawn))
    distinct = count_different(at)
    return Envelope(
        kind=kind,
        flops=np.exp(log_flops),
        parameters=np.exp(log_parameters),
        tokens=np.exp(log_tokens),
        sizes=distinct,
        of_parameters=lines[0] if lines else None,
        of_tokens=lines[1] if lines else None,
        reason=None if lines else _why_not(log_flops, distinct),
    )


def bias_under(observations: Observations, law: ScalingLaw, *, noise: Noise, seed: int = 0) -> float | None:
    """What this method would add to the exponent of `law`, on average, to losses sampled from it with noise.

    Part of it is of the design: few sizes, few durations; part of the noise, for the lowest of many noisy
    losses is a lucky one. None where ends of runs make no envelope.
    """
    if not has_ends(observations):
        return None
    exact = replace(observations, loss=np.asarray(law.loss(observations.parameters, observations.tokens)))
    found = envelope(exact, seed=seed, noise=noise)
    if found is None or found.of_parameters is None:
        return None
    drawn = found.of_parameters.draws[0]
    exponent = float(drawn.mean()) if drawn.size else found.of_parameters.exponent
    return exponent - float(law.exponent_a)


def _why_not(log_flops: Array, distinct: int) -> str:
    if distinct < LEAST_BEST:
        found = counted(distinct, "size") if distinct else "no size"
        return f"{found} is ever best between a smaller and a larger one: {LEAST_BEST} are the least"
    span = float(np.exp(np.ptp(log_flops)))
    return f"sizes between others are best over a factor of {span:.2g} in FLOPs alone: 3 is the least"


def _best(sizes: Sequence[LossBySize], log_flops: Array, drawn: Array | None = None) -> Array:
    """Log N, log D and the index of the best size (3, S, G), nan where no smaller or no larger one reaches C.

    Log N is where the parabola through the best size and its neighbours is lowest: between the middles of the
    gaps to them.
    """
    ordered = sorted(sizes, key=lambda size: size.log_size)
    logs = np.array([size.log_size for size in ordered])
    losses = np.stack([size.at(log_flops, drawn) for size in ordered])
    at = losses.argmin(axis=0)
    lowest = np.take_along_axis(losses, at[None], axis=0)[0]
    below, above = _neighbours(losses, logs, at)
    between = (below >= 0) & (above < len(logs)) & np.isfinite(lowest)
    left, right = (np.clip(side, 0, len(logs) - 1) for side in (below, above))
    beside = [np.take_along_axis(losses, side[None], axis=0)[0] for side in (left, right)]
    rises = [np.where(between, side, 1.0) - np.where(between, lowest, 0.0) for side in beside]
    gaps = [logs[side] - logs[at] for side in (left, right)]
    with np.errstate(invalid="ignore", divide="ignore"):
        # The vertex of the parabola through (0, 0) and two points (gap, rise), rises not negative.
        slopes = [rise / gap for rise, gap in zip(rises, gaps, strict=True)]
        bend = (slopes[1] - slopes[0]) / (gaps[1] - gaps[0])
        shift = -(slopes[0] - bend * gaps[0]) / (2 * bend)
    shift = np.where(between & np.isfinite(shift), shift, 0.0)
    per_token = np.array([size.log_flops_per_token for size in ordered])
    log_parameters = logs[at] + shift
    log_tokens = log_flops - np.interp(log_parameters, logs, per_token)
    return np.where(between, np.stack([log_parameters, log_tokens, at.astype(float)]), np.nan)


def _neighbours(losses: Array, logs: Array, at: Index) -> tuple[Index, Index]:
    """The next smaller and larger size that reaches C (S, G); -1 and the number of sizes for none."""
    reached, index = np.isfinite(losses), np.arange(len(logs))[:, None, None]
    apart = logs[:, None, None] - logs[at]
    below = np.where(reached & (apart < -SAME_SIZE), index, -1).max(axis=0)
    above = np.where(reached & (apart > SAME_SIZE), index, len(logs)).min(axis=0)
    return below, above


def _lines(
    log_flops: Array, optima: Array, drawn_grid: Array, drawn: Array
) -> tuple[PowerLine, PowerLine] | None:
    """Power laws of N and D through optima (3, m), with those of draws (3, S, G) of enough sizes."""
    if count_different(optima[2]) < LEAST_BEST or np.ptp(log_flops) < LEAST_SPAN:
        return None
    reached = np.isfinite(drawn[0])
    spans = np.where(reached, drawn_grid, -np.inf).max(axis=1) - np.where(reached, drawn_grid, np.inf).min(
        axis=1
    )
    enough = spans >= DRAW_SPAN
    # Draws without a line are the unluckiest ones: where many have none, the others' spread is too small.
    kept = drawn[:, enough] if enough.size and enough.mean() >= LEAST_KEPT else drawn[:, :0]
    of_parameters, of_tokens = (power_line(log_flops, optima[i], kept[i].T, drawn_grid) for i in (0, 1))
    return of_parameters, of_tokens


def _disturbed(
    observations: Observations,
    sizes: Sequence[Ends],
    draws: int,
    generator: np.random.Generator,
    noise: Noise | None,
) -> Array:
    """Log losses (S, n) of all runs as they might have been."""
    log_loss = np.log(observations.loss)
    if noise is not None:
        return log_loss + noise.simulate(observations.family_codes, generator)
    smooth, residuals = log_loss.copy(), []
    for size in sizes:
        basis = size.basis(size.log_flops)
        solve = np.linalg.pinv(basis)
        leverage = np.einsum("nk,kn->n", basis, solve)
        smooth[size.rows] = basis @ (solve @ size.log_loss)
        loose = leverage < 1 - 1e-6
        own = size.log_loss - smooth[size.rows]
        residuals += list(own[loose] / np.sqrt(1 - leverage[loose]))
    if len(residuals) < LEAST_RESIDUALS:
        return np.zeros((0, len(log_loss)))
    return smooth + generator.choice(np.array(residuals), (draws, len(log_loss)))
