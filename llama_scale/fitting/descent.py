"""Many damped Newton descents at once: problems take seats in a batch, and leave them as they come to rest.

A problem comes down a ladder of Huber deltas, from a rung of its own to the last, where its minimum counts.
As one rests another takes its seat, so that batches stay full: on some fifty problems numpy's calls cost as
much as its arithmetic, and a batch that waits for its last few problems spends most of its time on calls.
Steps are taken by all who are seated, looks at their rows block by block.

A look costs most, so none is spent on a step that promises no fall, and none is lost: a step that ends no
lower has mostly met a row whose residual came within its delta on the way, of whose curvature the Hessian
says nothing, a wall. What gradients tell of walls is kept, and fades as a problem moves on; problems that
forget their walls zigzag between them.

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
GIVE_UP = 1e8  # damping at which no step helps: the minimum, to rounding
FIRST_DAMPING = 1e-3
MORE_DAMPING = 64.0  # times, where a step was no lower and no wall tells why
FADING = 0.25  # what a step leaves of walls, unless one before it has just met them
LEAST_MISSED = 1e-3  # of the curvature that was expected along a step: less that was missed is no wall
MOST_REFUSALS = 8  # in a row: then walls do not help, and steps are damped
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
    """Problems at hand: centred logs x, y, log losses and weights, (S or 1, n) each, and deltas (S, 1)."""

    x: Array
    y: Array
    z: Array
    weights: Array
    delta: float | Array
    tilt: Tilt | None = None


class Problems(NamedTuple):
    """Problem s fits data set `of[s]` of centred logs x, y, log losses z and weights, (R, n) each.

    What is the same in all data sets is (1, n). Objectives are in `units` (R or 1,) of weight, 1 unless told.
    """

    x: Array
    y: Array
    z: Array
    weights: Array
    of: Index
    tilt: Tilt | None = None
    units: Array | None = None

    def at(self, index: Index, deltas: Array) -> Batch:
        """Those at `index`, each with its delta."""
        rows = self.of[index]
        tilt = None if self.tilt is None else self.tilt.take(index)
        x, y, z, weights = (part if len(part) == 1 else part[rows] for part in self[:4])
        return Batch(x, y, z, weights, deltas[:, None], tilt)

    @property
    def scale(self) -> Array:
        """What each problem's objective is multiplied by (S or 1,)."""
        units = np.ones(1) if self.units is None else self.units
        return units if len(units) == 1 else units[self.of]

    @property
    def rows(self) -> int:
        """How many rows each has."""
        return self.z.shape[1]

    def compact(self) -> Problems:
        """The same without data sets that none of them fits, and without rows of no weight.

        Data sets keep as many rows as the one with the most of some weight.
        """
        used, of = np.unique(self.of, return_inverse=True)
        parts = [part if len(part) == 1 else part[used] for part in self[:4]]
        weighty = parts[3] != 0
        most = int(weighty.sum(axis=1).max())
        if most < self.rows:
            order = np.argsort(~weighty, axis=1, kind="stable")[:, :most]
            parts = [np.take_along_axis(part, order, axis=1) for part in parts]
        x, y, z, weights = parts
        units = self.units if self.units is None or len(self.units) == 1 else self.units[used]
        return self._replace(x=x, y=y, z=z, weights=weights, of=of, units=units)


def joined(parts: Sequence[Problems]) -> Problems:
    """All of these as one, compact, and data sets of fewer rows filled up with rows of no weight.

    Problems that are tilted stay alone: ValueError.
    """
    if len(parts) == 1:
        return parts[0]
    if any(part.tilt is not None for part in parts):
        raise ValueError("tilted problems are not joined")
    compact = [part.compact() for part in parts]
    most, number = max(part.rows for part in compact), 0
    columns, of = [], []
    for part in compact:
        count, spare = max(len(column) for column in part[:4]), np.zeros(most - part.rows, np.intp)
        filled = np.concatenate([np.arange(part.rows), spare])
        x, y, z, weights = (np.broadcast_to(column, (count, part.rows))[:, filled] for column in part[:4])
        weights[:, part.rows :] = 0
        units = np.ones(1) if part.units is None else part.units
        columns.append((x, y, z, weights, np.broadcast_to(units, count)))
        of.append(part.of + number)
        number += count
    x, y, z, weights, units = (np.concatenate(column) for column in zip(*columns, strict=True))
    return Problems(x, y, z, weights, np.concatenate(of), units=units)


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

    def between(self, here: Array, there: Array) -> Array:
        """The steps, in coordinates, from charts to others."""
        ...

    def step(
        self, problem: Index, chart: Array, here: Surface, damping: Array, floor: Mask
    ) -> tuple[Array, Array, Mask]:
        """A trial chart, the fall (S,) that it promises, and which problems it has on the floor (S,)."""
        ...


# of Seats, an array each
ALONE = ("problem", "rung", "floor", "age", "releases", "damping", "walls", "refusals")


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
    walls: Array
    refusals: Index

    @classmethod
    def of(cls, problem: Index, rung: Index, floor: Mask, coordinates: int) -> Seats:
        """Seats of problems that have not moved yet."""
        count = len(problem)
        age, releases, refusals = np.zeros((3, count), np.intp)
        damping, walls = np.full(count, FIRST_DAMPING), np.zeros((coordinates, coordinates, count))
        unseen = Surface.unseen(coordinates, count)
        return cls(problem, rung, floor, unseen, age, releases, damping, walls, refusals)

    @property
    def unseen(self) -> Mask:
        """Which problems were not looked at yet where they are (S,)."""
        return np.isinf(self.here.value)

    def resting(self, fall: Array, tolerance: Array, least: float) -> Mask:
        """Which problems no step would bring much lower, by the falls that steps promise (S,)."""
        flat = (fall <= tolerance * self.here.value) & (self.damping <= 1)
        return ~self.unseen & (flat | (self.damping > GIVE_UP) | (self.here.value < least))

    @property
    def model(self) -> Surface:
        """What steps are taken by: what is known where the problems are, and the walls about there."""
        return self.here._replace(hessian=self.here.hessian + self.walls)

    def advance(self, there: Surface, floor: Mask) -> Mask:
        """Move where that is lower, or where it lands on the floor; says which moved (S,).

        A problem that stands at E = 0 and would go below lands where it stands.
        """
        here, unseen, landing = self.here, self.unseen, floor & ~self.floor
        better = (there.value < here.value) | (landing & (there.value == here.value))
        self.damping[better] *= 0.2
        self.walls[..., better & (self.refusals == 0)] *= FADING
        self.walls[..., better & landing] = 0
        self.damping[better & (unseen | landing)] = FIRST_DAMPING
        self.refusals[better] = 0
        here.update(better, there)
        np.copyto(self.floor, floor, where=better)
        self.age += 1
        return better

    def learn(self, refused: Index, gradient: Array, step: Array, floor: Mask) -> None:
        """Raise walls by the curvature that refused steps met and the model lacked; damp if that is no help.

        By the symmetric rank-one update: of one residual that came within its delta, the exact wall.
        Gradients on the floor and above it are by other coordinates, so steps that would land tell of none.
        """
        known = self.here.hessian[..., refused] + self.walls[..., refused]
        expected = np.einsum("ijs,js->is", known, step)
        missed = gradient - self.here.gradient[:, refused] - expected
        rise, size = (missed * step).sum(axis=0), np.abs((expected * step).sum(axis=0))
        told = (rise > LEAST_MISSED * size) & (self.refusals[refused] < MOST_REFUSALS)
        told &= floor == self.floor[refused]
        wall = missed[:, None] * missed / np.where(told, rise, np.inf)
        self.walls[..., refused[told]] += wall[..., told]
        self.refusals[refused] += 1
        damped = refused[~told]
        self.damping[damped] = self.damping[damped] * MORE_DAMPING + 1e-8

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
        self.walls[..., seats] = self.refusals[seats] = 0

    def reseat(self, left: Index, others: Seats) -> tuple[Seats, Mask]:
        """Others in the seats that were left, which may be more than they are: which are kept, too (S,)."""
        count = len(others.problem)
        taken, empty = left[:count], left[count:]
        for name in ALONE:
            getattr(self, name)[..., taken] = getattr(others, name)
        for old, new in zip(self.here, others.here, strict=True):
            old[..., taken] = new
        kept = np.ones(len(self.problem), bool)
        if not len(empty):
            return self, kept
        kept[empty] = False
        alone = {name: getattr(self, name)[..., kept] for name in ALONE}
        return Seats(here=self.here.take(kept), **alone), kept


def look(problems: Problems, moves: Moves, index: Index, deltas: Array, chart: Array, floor: Mask) -> Surface:
    """Objective and derivatives of the problems at `index`, each with its delta, block by block."""
    size = max(1, CHUNK // problems.rows)
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

    entered = max(1, SEATED // problems.rows)
    seats = seated(0, entered)
    trial, floor = chart[:, seats.problem], seats.floor
    while len(seats.problem):
        there = look(problems, moves, seats.problem, ladder[seats.rung], trial, floor)
        moved = seats.advance(there, floor)
        lost = seats.unseen | (seats.age > MAX_STEPS)
        refused = np.flatnonzero(~moved & ~lost)
        if len(refused):
            step = moves.between(chart[:, seats.problem[refused]], trial[:, refused])
            seats.learn(refused, there.gradient[:, refused], step, floor[refused])
        chart[:, seats.problem[moved]] = trial[:, moved]
        trial, fall, floor = moves.step(
            seats.problem, chart[:, seats.problem], seats.model, seats.damping, seats.floor
        )
        tolerance = np.where(seats.rung < last, ON_THE_WAY, moves.tolerance)
        resting = seats.resting(fall, tolerance, 1e-24 * problems.rows)
        resting &= ~lost
        over = (resting & ~seats.release(resting, moves.releases)) | lost
        climbing = over & (seats.rung < last)
        if climbing.any():
            seats.climb_down(climbing)
        left = np.flatnonzero(over & ~climbing)
        if len(left):
            gone = seats.problem[left]
            objective[gone], converged[gone] = seats.here.value[left], resting[left]
            seats, kept = seats.reseat(left, seated(entered, entered + len(left)))
            trial, floor = trial[:, kept], floor[kept]
            entered += len(left)
        unseen = seats.unseen
        if unseen.any():  # a first look, at the place itself
            trial = np.where(unseen, chart[:, seats.problem], trial)
            floor = np.where(unseen, seats.floor, floor)
    return chart, objective, converged
