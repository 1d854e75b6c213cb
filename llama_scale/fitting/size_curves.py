"""The losses of one size as a curve in FLOPs: by its finished runs, or along single runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llama_scale.fitting.observations import SAME_SIZE, Observations
from llama_scale.fitting.rows import Array, TrainingCurve
from llama_scale.frozen import frozen

LEAST_SIZES = 3  # that reach one FLOP count, to have a best one between others
MANY_DURATIONS = 7
SMOOTHING = 0.15  # sd, in log C, of the window that smooths losses along single runs
MOST_LINES = 500  # a run: at the longest span, 10^5 in C, they are six to a window


@frozen(eq=False)
class Ends:
    """One size by its finished runs (n,): positions among all runs, log FLOPs and log losses."""

    rows: NDArray[np.intp]
    log_size: float
    log_flops_per_token: float
    log_flops: Array
    log_loss: Array

    @property
    def span(self) -> tuple[float, float]:
        return float(self.log_flops.min()), float(self.log_flops.max())

    def basis(self, log_flops: Array) -> Array:
        """Powers (G, degree + 1) of scaled log C: parabolas, cubics where there are many durations."""
        low, high = self.span
        durations = _distinct(self.log_flops)
        degree = min(durations - 1, 2 if durations < MANY_DURATIONS else 3)
        return np.vander((2 * log_flops - low - high) / (high - low), degree + 1, increasing=True)

    def at(self, log_flops: Array, drawn: Array | None = None) -> Array:
        """Log losses (S, G) at log FLOPs (G,), inf where it has none; of `drawn` ones (S, n), else S is 1."""
        losses = self.log_loss[None] if drawn is None else drawn[:, self.rows]
        found = losses @ np.linalg.pinv(self.basis(self.log_flops)).T @ self.basis(log_flops).T
        low, high = self.span
        return np.where((log_flops >= low - 1e-9) & (log_flops <= high + 1e-9), found, np.inf)


@frozen(eq=False)
class Along:
    """One run by the losses along it, smoothed."""

    log_size: float
    log_flops_per_token: float
    log_flops: Array
    log_loss: Array

    @property
    def span(self) -> tuple[float, float]:
        return float(self.log_flops[0]), float(self.log_flops[-1])

    def at(self, log_flops: Array, drawn: Array | None = None) -> Array:
        """As `Ends.at`; its losses are never drawn."""
        number = 1 if drawn is None else len(drawn)
        losses = np.interp(log_flops, self.log_flops, self.log_loss, left=np.inf, right=np.inf)
        return np.broadcast_to(losses, (number, len(log_flops)))


LossBySize = Ends | Along


def has_ends(observations: Observations) -> bool:
    """Whether three sizes or more, and half of the runs at least, come in several durations a size.

    Then no losses along runs are needed. Sizes of a random design that happen to be near are no such design.
    """
    logs = np.log(observations.tokens)
    several = [len(rows) for rows in _sizes(observations) if _distinct(logs[rows]) > 1]
    return len(several) >= LEAST_SIZES and 2 * sum(several) >= len(observations)


def _sizes(observations: Observations) -> list[NDArray[np.intp]]:
    """Positions of the runs of each size: sizes nearer than 2 % are one."""
    logs = np.log(observations.parameters)
    order = np.argsort(logs, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(logs[order]) > SAME_SIZE) + 1)


def _distinct(logs: Array) -> int:
    return 1 + int((np.diff(np.sort(logs)) > SAME_SIZE).sum())


def ends_of(observations: Observations) -> list[Ends]:
    """The sizes that have several durations."""
    found: list[Ends] = []
    for rows in _sizes(observations):
        log_flops = np.log(observations.train_flops[rows])
        if _distinct(log_flops) > 1:
            per_token = log_flops - np.log(observations.tokens[rows])
            found.append(
                Ends(
                    rows=rows,
                    log_size=float(np.log(observations.parameters[rows]).mean()),
                    log_flops_per_token=float(per_token.mean()),
                    log_flops=log_flops,
                    log_loss=np.log(observations.loss[rows]),
                )
            )
    return found


def losses_along(curves: Sequence[TrainingCurve]) -> list[LossBySize]:
    """Each run by its own smoothed losses."""
    return [_along(curve) for curve in curves]


def _along(curve: TrainingCurve) -> Along:
    log_flops = np.log(curve.flops_per_token * curve.tokens)
    return Along(
        log_size=float(np.log(curve.parameters)),
        log_flops_per_token=float(np.log(curve.flops_per_token)),
        log_flops=log_flops,
        log_loss=smooth(log_flops, np.log(curve.loss)),
    )


def smooth(log_flops: Array, log_loss: Array) -> Array:
    """Local lines through the losses, weighted by a normal window over log C.

    Where points are many, lines are laid at some `MOST_LINES` of them, evenly in log C, and read in between.
    """
    if len(log_flops) < 5:
        return log_loss
    centres = log_flops[evenly_along(log_flops, MOST_LINES)]
    return np.interp(log_flops, centres, _local_lines(centres, log_flops, log_loss))


def evenly_along(rising: Array, most: int) -> NDArray[np.intp]:
    """Indices of at most so many values, about evenly apart in what they say; both ends are among them."""
    if len(rising) <= most:
        return np.arange(len(rising))
    return np.unique(np.searchsorted(rising, np.linspace(rising[0], rising[-1], most)))


def _local_lines(centres: Array, log_flops: Array, log_loss: Array) -> Array:
    """What the line about each centre (m,) says there; work and memory grow as m times the points."""
    apart = log_flops[None] - centres[:, None]
    # Points crowd at the end of a run: each stands for its share of log C.
    weights = np.exp(-0.5 * (apart / SMOOTHING) ** 2) * np.gradient(log_flops)
    moments = [(weights * apart**power).sum(axis=1) for power in (0, 1, 2)]
    right = [(weights * apart**power * log_loss).sum(axis=1) for power in (0, 1)]
    determinant = moments[0] * moments[2] - moments[1] ** 2
    line = (moments[2] * right[0] - moments[1] * right[1]) / np.where(determinant > 0, determinant, 1)
    return np.where(determinant > 1e-12 * moments[0] ** 2, line, right[0] / moments[0])
