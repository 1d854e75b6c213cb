"""Many damped Newton descents at once: problems take seats in a batch, and leave them as they come to rest.

A problem comes down a ladder of Huber deltas, from a rung of its own to the last, where its minimum counts.
As one rests another takes its seat, so that batches stay full: on some fifty problems numpy's calls cost as
much as its arithmetic, and a batch that waits for its last few problems spends most of its time on calls.
Steps are taken by all who are seated, looks at their rows block by block.

Shapes: S problems, n rows, c coordinates; charts are (c, S), arrays over rows (S, n).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Index = NDArray[np.intp]

MAX_STEPS = 80  # on one rung
ON_THE_WAY = 1e-4  # of the objective: above the last rung a smaller promised fall is rest enough
GIVE_UP = 1e8  # damping at which no step helps: the minimum to machine precision
FIRST_DAMPING = 1e-3
SEATED = 1 << 17  # rows of all problems under way at once
CHUNK = 1 << 15  # rows looked at in one go: a dozen arrays of them stay in the second-level cache


class Tilt(Protocol):
    """A smooth term added to each problem's objective, as profiles need."""

    def take(self, rows: Index) -> Tilt:
        """That of the problems at `rows`."""
        ...

    def expand(self, chart: Array, floor: Mask) -> Surface:
        """Its value and derivatives at a chart, as `expand` gives those of the objective."""
        ...


class Batch(NamedTuple):
    """Problems of one data set: centred logs x, y (n,), log losses and weights (S or 1, n), deltas (S, 1)."""

    x: Array
    y: Array
    z: Array
    weights: Array
    delta: float | Array
    tilt: Tilt | None = None


class Problems(NamedTuple):
    """All problems of one data set: problem s fits row `of[s]` of log losses z and weights, (R, n) each.

    Where all have the same log losses or weights, these are (1, n).
    """

    x: Array
    y: Array
    z: Array
    weights: Array
    of: Index
    tilt: Tilt | None = None

    def at(self, index: Index, deltas: Array) -> Batch:
        """Those at `index`, each with its delta."""
        rows = self.of[index]
        tilt = None if self.tilt is None else self.tilt.take(index)
        z, weights = (part if len(part) == 1 else part[rows] for part in (self.z, self.weights))
        return Batch(self.x, self.y, z, weights, deltas[:, None], tilt)


class Surface(NamedTuple):
    """Objective (S,), its derivative by E (S,), gradient (c, S) and Hessian (c, c, S) in the chart."""

    value: Array
    rise: Array
    gradient: Array
    hessian: Array

    @classmethod
    def unseen(cls, coordinates: int, count: int) -> Surface:
        """What is known of problems before the first look at them: any look is better."""
        square = np.zeros((coordinates, coordinates, count))
        return cls(np.full(count, np.inf), np.zeros(count), square[0].copy(), square)

    def take(self, seats: Index | Mask) -> Surface:
        """The problems at these seats."""
        return Surface(*(part[..., seats] for part in self))

    def update(self, seats: Mask, other: Surface) -> None:
        """Take the other's part at these seats."""
        for old, new in zip(self, other, strict=True):
            np.copyto(old, new, where=seats)

    def forget(self, seats: Index | Mask) -> None:
        """Look anew at these seats."""
        for part, value in zip(self, (np.inf, 0.0, 0.0, 0.0), strict=True):
            part[..., seats] = value


class Moves(Protocol):
    """How problems of a form move: within which bounds, by which steps, over which surface.

    A problem on the `floor` keeps its E at 0. At rest there it is released while a larger E would lower
    its objective, `releases` times at most on a rung.
    """

    @property
    def tolerance(self) -> float:
        """Of the objective: a smaller promised fall is rest, on the last rung."""
        ...

    @property
    def releases(self) -> int:
        """How often a problem may be released from the floor, on a rung."""
        ...

    def inside(self, chart: Array) -> Array:
        """A copy of the chart, within its bounds."""
        ...

    def expand(self, batch: Batch, chart: Array, floor: Mask) -> Surface:
        """Objective and derivatives at a chart."""
        ...

    def step(self, chart: Array, here: Surface, damping: Array, floor: Mask) -> tuple[Array, Array, Mask]:
        """A trial chart, the fall (S,) that it promises, and which problems it has on the floor (S,)."""
        ...


@dataclass(slots=True)
class Seats:
    """Problems under way: which they are, on which rung, for how long, and what is known of them there."""

    problem: Index
    rung: Index
    floor: Mask
    here: Surface
    age: Index
    releases: Index
    damping: Array

    @classmethod
    def of(cls, problem: Index, rung: Index, floor: Mask, coordinates: int) -> Seats:
        """Seats of problems that have not moved yet."""
        count = len(problem)
        none = np.zeros((2, count), np.intp)
        unseen = Surface.unseen(coordinates, count)
        return cls(problem, rung, floor, unseen, none[0], none[1], np.full(count, FIRST_DAMPING))

    def advance(self, there: Surface, fall: Array, floor: Mask, tolerance: Array, least: float) -> Mask:
        """Move where that is lower; says which problems rest (S,)."""
        here, unseen = self.here, np.isinf(self.here.value)
        better = there.value < here.value
        landed = better & floor & ~self.floor
        here.update(better, there)
        np.copyto(self.floor, floor, where=better)
        self.damping = np.where(better, self.damping * 0.2, self.damping * 8 + 1e-8)
        self.damping[(better & unseen) | landed] = FIRST_DAMPING
        self.age += 1
        flat = (fall <= tolerance * here.value) & (self.damping <= 1)
        return (flat & ~landed & ~unseen) | (self.damping > GIVE_UP) | (here.value < least)

    def release(self, resting: Mask, most: int) -> Mask:
        """Free those at rest on the floor that would rise from it; says which these are (S,)."""
        freed = resting & self.floor & (self.here.rise < 0) & (self.releases < most)
        if freed.any():
            self.releases[freed] += 1
            self.floor[freed] = False
            self.restart(freed)
        return freed

    def climb_down(self, done: Mask) -> None:
        """Go on at the next rung."""
        self.rung[done] += 1
        self.age[done] = self.releases[done] = 0
        self.restart(done)

    def restart(self, seats: Mask) -> None:
        """Look anew, as at the start."""
        self.here.forget(seats)
        self.damping[seats] = FIRST_DAMPING

    def reseat(self, left: Index, others: Seats) -> Seats:
        """Others in the seats that were left, which may be more than they are: those are taken away."""
        count = len(others.problem)
        taken, empty = left[:count], left[count:]
        for name in ("problem", "rung", "floor", "age", "releases", "damping"):
            getattr(self, name)[taken] = getattr(others, name)
        for old, new in zip(self.here, others.here, strict=True):
            old[..., taken] = new
        if not len(empty):
            return self
        kept = np.ones(len(self.problem), bool)
        kept[empty] = False
        return Seats(
            problem=self.problem[kept],
            rung=self.rung[kept],
            floor=self.floor[kept],
            here=self.here.take(kept),
            age=self.age[kept],
            releases=self.releases[kept],
            damping=self.damping[kept],
        )


def look(problems: Problems, moves: Moves, index: Index, deltas: Array, chart: Array, floor: Mask) -> Surface:
    """Objective and derivatives of the problems at `index`, each with its delta, block by block."""
    size = max(1, CHUNK // len(problems.x))
    parts = []
    for low in range(0, len(index), size):
        some = slice(low, low + size)
        parts.append(moves.expand(problems.at(index[some], deltas[some]), chart[:, some], floor[some]))
    return parts[0] if len(parts) == 1 else Surface(*map(_joined, zip(*parts, strict=True)))


def _joined(parts: Sequence[Array]) -> Array:
    return np.concatenate(parts, axis=-1)


def descend(
    problems: Problems, chart: Array, moves: Moves, *, deltas: tuple[float, ...], begin: Index | int = 0
) -> tuple[Array, Array, Mask]:
    """Where each problem ends (c, S), its objective (S,), and whether it converged (S,).

    `deltas` are the rungs, `begin` (S,) says on which each problem begins.
    """
    chart = moves.inside(chart)
    coordinates, count = chart.shape
    ladder, last = np.array(deltas), len(deltas) - 1
    first, on_floor = np.broadcast_to(np.asarray(begin, np.intp), count), chart[0] <= 0
    objective, converged = np.full(count, np.inf), np.zeros(count, bool)

    def seated(low: int, high: int) -> Seats:
        """Seats of problems `low` to `high`."""
        some = np.arange(low, min(high, count))
        return Seats.of(some, first[some], on_floor[some], coordinates)

    entered = max(1, SEATED // len(problems.x))
    seats = seated(0, entered)
    while len(seats.problem):
        here = chart[:, seats.problem]
        trial, fall, floor = moves.step(here, seats.here, seats.damping, seats.floor)
        unseen = np.isinf(seats.here.value)
        if unseen.any():  # a first look, at the place itself
            trial, floor = np.where(unseen, here, trial), np.where(unseen, seats.floor, floor)
        there = look(problems, moves, seats.problem, ladder[seats.rung], trial, floor)
        better = there.value < seats.here.value
        chart[:, seats.problem[better]] = trial[:, better]
        tolerance = np.where(seats.rung < last, ON_THE_WAY, moves.tolerance)
        resting = seats.advance(there, fall, floor, tolerance, 1e-24 * len(problems.x))
        over = (resting & ~seats.release(resting, moves.releases)) | (seats.age > MAX_STEPS)
        if not over.any():
            continue
        left = np.flatnonzero(over & (seats.rung == last))
        gone = seats.problem[left]
        objective[gone], converged[gone] = seats.here.value[left], resting[left]
        seats.climb_down(over & (seats.rung < last))
        seats = seats.reseat(left, seated(entered, entered + len(left)))
        entered += len(left)
    return chart, objective, converged
