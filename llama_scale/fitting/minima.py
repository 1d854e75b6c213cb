"""Where problems end by several ways down, which of these is lowest, and how far the ways part.

Problems of small data sets go down as one batch: those of a few dozen runs cost little but numpy's calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from llama_scale.fitting.descent import Array, Index, Mask, Problems, joined
from llama_scale.fitting.newton import EXPONENT_BOUNDS, FIVE, K_BOUNDS, NAMES, Layout
from llama_scale.fitting.points import Points
from llama_scale.frozen import frozen
from llama_scale.laws import ScalingLaw

SMALL = 300  # rows: data sets of more fill numpy's calls by themselves, and would cost memory together
AGREEMENT = 1e-6  # relative gap of objectives at which two starts have found the same minimum
ROUNDING = 1e-15  # an objective of data without noise that are met to rounding: lower ones are no better
LIMITS = np.array([EXPONENT_BOUNDS, EXPONENT_BOUNDS, K_BOUNDS])


class Ways(NamedTuple):
    """Starts (5 or 6, T, S or 1) of the ways down of each problem, and which go straight at delta (T,)."""

    starts: Array
    straight: Mask


@frozen
class Minima:
    """Where each problem of a batch ended: constants (5 or 6, S), objective and whether it converged (S,)."""

    constants: Array
    objective: Array
    converged: Mask

    @property
    def at_bound(self) -> Mask:
        """Which constants (5 or 6, S) lie on a bound."""
        return at_bound(self.constants)

    def take(self, index: NDArray[np.intp] | Mask) -> Minima:
        """The minima at `index`."""
        return Minima(
            constants=self.constants[:, index],
            objective=self.objective[index],
            converged=self.converged[index],
        )

    def replaced(self, index: NDArray[np.intp], others: Minima) -> Minima:
        """These minima with others in place of those at `index`."""
        parts = {f.name: getattr(self, f.name).copy() for f in fields(self)}
        for name, part in parts.items():
            part[..., index] = getattr(others, name)
        return Minima(**parts)


@frozen
class Solution:
    """The best minimum of all starts, its sum of Huber losses, and how many starts agree on it.

    `starts` are those that came to rest within the steps they were given, at whatever minimum; `rival` is
    the next higher of these minima, None where all agree.
    """

    law: ScalingLaw
    constants: Array
    objective: float
    starts: int
    agreed: int
    at_bound: tuple[str, ...]
    rival: Array | None = None


def best_of(points: Points, found: Minima, layout: Layout = FIVE) -> Solution:
    """The lowest of the minima that the starts of one data set reached, and how many reached it."""
    best = int(found.objective.argmin())
    lowest = float(found.objective[best])
    same = found.objective <= lowest * (1 + AGREEMENT) + ROUNDING
    others = np.flatnonzero(found.converged & ~same)
    return Solution(
        law=float_law(points.law(found.constants[:, best])),
        constants=found.constants[:, best],
        objective=lowest,
        starts=int(max(found.converged.sum(), 1)),
        agreed=int((same & found.converged).sum()),
        at_bound=tuple(name for name in names_at_bound(found.at_bound[:, best]) if name in layout.free),
        rival=found.constants[:, others[found.objective[others].argmin()]] if len(others) else None,
    )


def doubtful(best: Minima, gap: Array, layout: Layout) -> Index:
    """Problems whose ways part, or whose best minimum is on a bound or not at rest."""
    bound = best.at_bound[layout.rows].any(axis=0)
    return np.flatnonzero((gap > AGREEMENT * best.objective) | ~best.converged | bound)


def lowest_of(found: Minima, count: int) -> tuple[Minima, Array]:
    """The lowest of the minima (T x S) of each problem's ways, and the objectives (T, S) of all."""
    objectives = found.objective.reshape(-1, count)
    return found.take(objectives.argmin(axis=0) * count + np.arange(count)), objectives


def decided(
    best: Sequence[Minima], doubts: Sequence[Index], decide: Callable[[list[int]], Sequence[Minima]]
) -> list[Minima]:
    """The minima of each data set, with lower ones for those in doubt, where `decide` finds any.

    It is asked for the data sets that have some, by number.
    """
    lower, some = list(best), [number for number, doubt in enumerate(doubts) if len(doubt)]
    for i, found in zip(some, decide(some), strict=True):
        lower[i] = best[i].replaced(doubts[i], better(best[i].take(doubts[i]), found))
    return lower


def follow(
    parts: Sequence[tuple[Problems, Ways]],
    minimiser: Minimiser,
    deltas: tuple[float, ...],
    layout: Layout,
) -> list[Minima]:
    """Where all problems end by each of their ways, one Minima (T x S) a part: small parts as one batch."""
    small = [number for number, (problems, _) in enumerate(parts) if problems.rows <= SMALL]
    large = [[number] for number, (problems, _) in enumerate(parts) if problems.rows > SMALL]
    ends: dict[int, Minima] = {}
    for batch in [small, *large] if small else large:
        problems, starts, straight = [], [], []
        for own, ways in (parts[number] for number in batch):
            count, number_of_ways = len(own.of), ways.starts.shape[1]
            problems.append(own._replace(of=np.tile(own.of, number_of_ways)))
            each = np.broadcast_to(ways.starts, (*ways.starts.shape[:2], count))
            starts.append(each.reshape(len(each), -1))
            straight.append(np.repeat(ways.straight, count))
        begin = np.where(np.concatenate(straight), len(deltas) - 1, 0)
        found = minimiser(
            joined(problems), np.concatenate(starts, axis=1), deltas=deltas, begin=begin, layout=layout
        )
        bounds = pairwise(np.cumsum([0, *(own.shape[1] for own in starts)]))
        ends |= {n: found.take(np.arange(low, high)) for n, (low, high) in zip(batch, bounds, strict=True)}
    return [ends[number] for number in range(len(parts))]


class Minimiser(Protocol):
    """Minimises each problem from its start down a ladder of deltas, `begin` (S,) the rung it begins on."""

    def __call__(
        self,
        problems: Problems,
        starts: Array,
        *,
        deltas: tuple[float, ...],
        begin: Index | int,
        layout: Layout,
    ) -> Minima: ...


def ladder(stages: tuple[float, ...], delta: float) -> tuple[float, ...]:
    """The stages above `delta`, and that."""
    return (*(stage for stage in stages if stage > delta), delta)


def better(one: Minima, other: Minima) -> Minima:
    """Of two batches, the lower minimum of each problem."""
    wins = np.flatnonzero(one.objective <= other.objective)
    return other.replaced(wins, one.take(wins))


def at_bound(constants: Array) -> Mask:
    """Which constants (5 or 6, S) lie on a bound: E, A or B at zero, exponents and k at their limits."""
    e, a, b, *powers = constants
    k = powers[2] if len(powers) > 2 else 1.0
    low, high = LIMITS[: len(powers), :, None].transpose(1, 0, 2)
    return np.concatenate(
        [
            [e <= 1e-6 * (e + (a + b) ** k), a <= 1e-6 * (a + b), b <= 1e-6 * (a + b)],
            (constants[3:] <= low * 1.001) | (constants[3:] >= high * 0.999),
        ]
    )


def names_at_bound(marks: Mask) -> tuple[str, ...]:
    """Names of the constants that are marked."""
    return tuple(name for name, mark in zip(NAMES, marks, strict=False) if mark)


def float_law(law: ScalingLaw) -> ScalingLaw:
    """The law with plain floats for constants."""
    return ScalingLaw(**{name: float(value) for name, value in law.constants.items()})
