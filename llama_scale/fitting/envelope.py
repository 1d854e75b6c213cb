"""Approach 1: the lowest loss at each FLOP count, and the size that reaches it.

Hoffmann et al. 2022, section 3.1. Losses of one size form a curve in C. At log-spaced FLOPs the size of
lowest loss is noted, and log N and log D are regressed on log C. Which losses:

    ends     final losses of runs of one size and several durations, each with its learning rate decayed; a
             polynomial in log C smooths them
    curves   losses along single runs, where too few sizes have several ends. Their learning rate has not
             decayed before the last point: the best loss at those FLOPs is lower than the curve says

never both: sizes with ends would look better than those without. FLOPs count only where the best size lies
between a smaller and a larger one that reach them too; elsewhere the sizes that were run decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from llama_scale.fitting.lines import PowerLine, line_constants
from llama_scale.fitting.noise import Noise
from llama_scale.fitting.observations import SAME_SIZE, Observations
from llama_scale.fitting.rows import Array, TrainingCurve

GRID = 1500  # FLOP counts, as in the paper
DRAW_GRID = 150  # the same for each draw
LEAST_SIZES = 3
LEAST_RUNS = 20  # fewer cannot be resampled
LEAST_KEPT = 0.8  # of the draws that have a line
SMOOTHING = 0.15  # sd, in log C, of the window that smooths losses along single runs
RIDGE = 1e-9  # of the scaled basis: keeps fits of resampled runs solvable

Kind = Literal["ends", "curves"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
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


class _Losses(Protocol):
    """Log losses (S, G) of one size at log FLOPs (G,), inf where that size has none; S is 1 undisturbed."""

    @property
    def log_size(self) -> float: ...

    @property
    def log_flops_per_token(self) -> float: ...

    @property
    def span(self) -> tuple[float, float]: ...

    def at(self, log_flops: Array, drawn: bool) -> Array: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Ends:
    """One size by its finished runs (n,): log FLOPs and losses; weights and log losses of draws (S, n)."""

    log_size: float
    log_flops_per_token: float
    log_flops: Array
    log_loss: Array
    weights: Array
    drawn: Array

    @property
    def span(self) -> tuple[float, float]:
        return float(self.log_flops.min()), float(self.log_flops.max())

    def _basis(self, log_flops: Array) -> Array:
        low, high = self.span
        durations = _distinct(self.log_flops)
        degree = min(durations - 1, 2 if durations < 7 else 3)
        return np.vander((2 * log_flops - low - high) / (high - low), degree + 1, increasing=True)

    def at(self, log_flops: Array, drawn: bool) -> Array:
        weights = self.weights if drawn else np.ones((1, len(self.log_flops)))
        losses = self.drawn if drawn else self.log_loss[None]
        basis = self._basis(self.log_flops)
        normal = np.einsum("sn,ni,nj->sij", weights, basis, basis, optimize=True) + RIDGE * np.eye(
            basis.shape[1]
        )
        right = (weights * losses) @ basis
        found = np.linalg.solve(normal, right[..., None])[..., 0] @ self._basis(log_flops).T
        low = np.where(weights > 0, self.log_flops, np.inf).min(axis=1, keepdims=True)
        high = np.where(weights > 0, self.log_flops, -np.inf).max(axis=1, keepdims=True)
        reached = (log_flops >= low - 1e-9) & (log_flops <= high + 1e-9) & (high - low > SAME_SIZE)
        return np.where(reached, found, np.inf)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Curve:
    """One run by the losses along it, smoothed; it is in a draw where it was drawn (S,)."""

    log_size: float
    log_flops_per_token: float
    log_flops: Array
    log_loss: Array
    present: NDArray[np.bool_]

    @property
    def span(self) -> tuple[float, float]:
        return float(self.log_flops[0]), float(self.log_flops[-1])

    def at(self, log_flops: Array, drawn: bool) -> Array:
        losses = np.interp(log_flops, self.log_flops, self.log_loss, left=np.inf, right=np.inf)[None]
        return np.where(self.present[:, None], losses, np.inf) if drawn else losses


def has_ends(observations: Observations) -> bool:
    """Whether at least three sizes have runs of several durations: then no losses along runs are needed."""
    return (
        sum(_distinct(np.log(observations.tokens[rows])) > 1 for rows in _sizes(observations)) >= LEAST_SIZES
    )


def envelope(
    observations: Observations, *, draws: int = 0, seed: int = 0, noise: Noise | None = None
) -> Envelope | None:
    """Approach 1 of these runs; None where they have neither several durations a size nor loss curves.

    Draws resample runs with replacement, or, given their `noise`, disturb the final losses by it: right
    where a few trunks share it. Too few runs for either give no draws.
    """
    generator = np.random.default_rng(seed)
    sizes: Sequence[_Losses]
    if has_ends(observations):
        kind, sizes = "ends", _ends(observations, draws, generator, noise)
    elif len({round(float(np.log(curve.parameters)), 2) for curve in observations.curves}) >= LEAST_SIZES:
        kind, sizes = "curves", _curves(observations.curves, draws, generator)
    else:
        return None
    low, high = min(size.span[0] for size in sizes), max(size.span[1] for size in sizes)
    grid, drawn_grid = np.linspace(low, high, GRID), np.linspace(low, high, DRAW_GRID)
    best = _best(sizes, grid, drawn=False)
    known = np.isfinite(best[0, 0])
    log_flops, (log_parameters, log_tokens) = grid[known], best[:, 0, known]
    lines = _lines(log_flops, best[:, 0, known], drawn_grid, _best(sizes, drawn_grid, drawn=True))
    distinct = len(np.unique(log_parameters))
    return Envelope(
        kind=kind,
        flops=np.exp(log_flops),
        parameters=np.exp(log_parameters),
        tokens=np.exp(log_tokens),
        sizes=distinct,
        of_parameters=lines[0] if lines else None,
        of_tokens=lines[1] if lines else None,
        reason=None
        if lines
        else f"{distinct} size(s) are best between a smaller and a larger one: 3 are the least",
    )


def _best(sizes: Sequence[_Losses], log_flops: Array, *, drawn: bool) -> Array:
    """Log N and log D of the best size (2, S, G), nan where no smaller or no larger one reaches C."""
    lowest = best = tokens = smallest = largest = np.zeros(0)
    for size in sorted(sizes, key=lambda size: size.log_size):
        losses = size.at(log_flops, drawn)
        here = np.isfinite(losses)
        if not lowest.size:
            lowest = np.full(losses.shape, np.inf)
            best, tokens, largest = (np.full(losses.shape, np.nan) for _ in range(3))
            smallest = np.full(losses.shape, np.inf)
        better = losses < lowest
        lowest = np.where(better, losses, lowest)
        best = np.where(better, size.log_size, best)
        tokens = np.where(better, log_flops - size.log_flops_per_token, tokens)
        smallest = np.where(here, np.minimum(smallest, size.log_size), smallest)
        largest = np.where(here, size.log_size, largest)
    between = (best > smallest + SAME_SIZE) & (best < largest - SAME_SIZE)
    return np.where(between, np.stack([best, tokens]), np.nan)


def _lines(
    log_flops: Array, optima: Array, drawn_grid: Array, drawn: Array
) -> tuple[PowerLine, PowerLine] | None:
    """Power laws of N and D through optima (2, m), with those of draws (2, S, G) of enough sizes."""
    if len(np.unique(optima[0])) < LEAST_SIZES:
        return None
    enough = np.array([len(np.unique(row[np.isfinite(row)])) >= LEAST_SIZES for row in drawn[0]], bool)
    # Draws without a line are the unluckiest ones: where many have none, the others' spread is too small.
    kept = drawn[:, enough] if enough.mean() >= LEAST_KEPT else drawn[:, :0]
    of_parameters, of_tokens = (_line(log_flops, optima[i], drawn_grid, kept[i]) for i in (0, 1))
    return of_parameters, of_tokens


def _line(log_flops: Array, optima: Array, drawn_grid: Array, drawn: Array) -> PowerLine:
    exponent, coefficient = line_constants(log_flops, optima[:, None])
    return PowerLine(
        exponent=float(exponent[0]),
        log_coefficient=float(coefficient[0]),
        draws=np.stack(line_constants(drawn_grid, drawn.T)),
    )


def _sizes(observations: Observations) -> list[NDArray[np.intp]]:
    """Positions of the runs of each size: sizes nearer than 2 % are one."""
    logs = np.log(observations.parameters)
    order = np.argsort(logs, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(logs[order]) > SAME_SIZE) + 1)


def _distinct(logs: Array) -> int:
    return 1 + int((np.diff(np.sort(logs)) > SAME_SIZE).sum())


def _ends(
    observations: Observations, draws: int, generator: np.random.Generator, noise: Noise | None
) -> list[_Losses]:
    """The sizes that have several durations; draws are empty where the runs are too few to resample."""
    count, codes = len(observations), observations.family_codes
    log_loss = np.log(observations.loss)
    if noise is not None:
        drawn = log_loss + noise.simulate(codes, generator)
        weights = np.ones_like(drawn)
    else:
        groups = int(codes.max()) + 1
        number = draws if groups >= LEAST_RUNS else 0
        weights = generator.multinomial(groups, np.full(groups, 1 / groups), size=number)[:, codes].astype(
            float
        )
        drawn = np.broadcast_to(log_loss, (number, count))
    found: list[_Losses] = []
    for rows in _sizes(observations):
        log_flops = np.log(observations.train_flops[rows])
        if _distinct(log_flops) > 1:
            per_token = log_flops - np.log(observations.tokens[rows])
            found.append(
                _Ends(
                    log_size=float(np.log(observations.parameters[rows]).mean()),
                    log_flops_per_token=float(per_token.mean()),
                    log_flops=log_flops,
                    log_loss=log_loss[rows],
                    weights=weights[:, rows],
                    drawn=drawn[:, rows],
                )
            )
    return found


def _curves(curves: Sequence[TrainingCurve], draws: int, generator: np.random.Generator) -> list[_Losses]:
    number = draws if len(curves) >= LEAST_RUNS else 0
    counts = generator.multinomial(len(curves), np.full(len(curves), 1 / len(curves)), size=number)
    found: list[_Losses] = []
    for position, curve in enumerate(curves):
        log_flops = np.log(curve.flops_per_token * curve.tokens)
        found.append(
            _Curve(
                log_size=float(np.log(curve.parameters)),
                log_flops_per_token=float(np.log(curve.flops_per_token)),
                log_flops=log_flops,
                log_loss=_smooth(log_flops, np.log(curve.loss)),
                present=counts[:, position] > 0,
            )
        )
    return found


def _smooth(log_flops: Array, log_loss: Array) -> Array:
    """Local lines through the losses, weighted by a normal window over log C."""
    if len(log_flops) < 5:
        return log_loss
    apart = log_flops[None] - log_flops[:, None]
    # Points crowd at the end of a run: each stands for its share of log C.
    weights = np.exp(-0.5 * (apart / SMOOTHING) ** 2) * np.gradient(log_flops)
    moments = [(weights * apart**power).sum(axis=1) for power in (0, 1, 2)]
    right = [(weights * apart**power * log_loss).sum(axis=1) for power in (0, 1)]
    determinant = moments[0] * moments[2] - moments[1] ** 2
    line = (moments[2] * right[0] - moments[1] * right[1]) / np.where(determinant > 0, determinant, 1)
    return np.where(determinant > 1e-12 * moments[0] ** 2, line, right[0] / moments[0])
