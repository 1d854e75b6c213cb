"""The law of data seen once and both decays of repeated data, fitted as one to all runs, and their draws.

A law of the runs seen once alone is biased where these have more parameters than their data call for, since
the form discounts them. So it is only where the search starts, with decays from the whole of their range.

Shapes: S resamples, n runs; constants are (E, A, B, alpha, beta, R_D*, R_N*), of centred logs, (7, S).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llama_scale.fitting.descent import Array, Index, Problems, descend
from llama_scale.fitting.minima import (
    Minima,
    Ways,
    at_bound,
    float_law,
    follow,
    ladder,
    lowest_of,
    names_at_bound,
)
from llama_scale.fitting.newton import EXPONENT_BOUNDS, FIVE, Layout
from llama_scale.fitting.points import Points
from llama_scale.fitting.repeated import LIMITS, DecayMinimum, RepeatedRuns, distinct
from llama_scale.fitting.repeated_moves import JointMoves, to_chart, to_constants
from llama_scale.frozen import frozen
from llama_scale.laws import RepeatedDataLaw, Repetition, ScalingLaw

STAGES = (3e-2, 1e-2, 3e-3)  # deltas on the way down to the one asked for
STARTS = np.geomspace(0.3, 1e3, 6)  # of each decay


@frozen(eq=False)
class JointProblem:
    """Runs as a problem of seven constants: `points` of N and U, and the logs of their epochs (n,)."""

    points: Points
    repeats: Array

    @classmethod
    def of(cls, runs: RepeatedRuns) -> JointProblem:
        """Centre the logs of N and U."""
        repeats = np.maximum(np.log(runs.tokens / runs.unique_tokens), 0.0)
        return cls(points=Points.of(runs.parameters, runs.unique_tokens, runs.loss), repeats=repeats)

    def minima(self, start: ScalingLaw, *, delta: float) -> tuple[DecayMinimum, ...]:
        """All minima that a law with decays of the whole range leads to, the lowest first."""
        decays = np.stack([axis.ravel() for axis in np.meshgrid(STARTS, STARTS)])
        law = np.repeat(self.points.constants(start)[:, None], decays.shape[1], axis=1)
        ends = self._ends(np.concatenate([law, decays]), self.points.problems(), delta)
        if ends.converged.any():
            ends = ends.take(ends.converged)
        order = np.argsort(ends.objective, kind="stable")
        return distinct([self._minimum(ends.constants[:, i], float(ends.objective[i])) for i in order])

    def draws(
        self, minima: Sequence[DecayMinimum], weights: Array, *, delta: float
    ) -> tuple[ScalingLaw, Repetition]:
        """Laws and decays of resamples (S,), the lowest from any of the minima; `weights` (S, n) are counts.

        R_N* of a resample in which no run has parameters in excess is put at the limit of the search.
        """
        starts = [[*self.points.constants(m.law), m.tokens_decay, m.parameters_decay] for m in minima]
        ends = self._ends(np.array(starts).T, self.points.problems(weights=weights), delta)
        constants = lowest_of(ends, len(weights))[0].constants
        laws, (by_data, by_size) = self.points.law(constants[:5]), constants[5:]
        unique = np.exp(self.points.y + self.points.log_d)[:, None]
        matched = RepeatedDataLaw(law=laws, unique_tokens=unique).matched_parameters
        excess = np.exp(self.points.x + self.points.log_n)[:, None] > matched
        tells = (excess & (weights.T > 0)).any(axis=0)
        return laws, Repetition(tokens_decay=by_data, parameters_decay=np.where(tells, by_size, LIMITS[0]))

    def minimise(
        self,
        problems: Problems,
        starts: Array,
        *,
        deltas: tuple[float, ...],
        begin: Index | int,
        layout: Layout,
    ) -> Minima:
        """Minimise each problem from its start (7, S) as `solver.minimise` does, E < 0 again at E = 0."""
        ends = self._descend(problems, starts, deltas, begin, is_open=True)
        below = np.flatnonzero(ends.constants[0] < 0)
        if len(below):
            some = problems._replace(of=problems.of[below])
            again = self._descend(some, ends.constants[:, below], deltas, 0, is_open=False)
            ends = ends.replaced(below, again)
        return ends

    def _ends(self, starts: Array, problems: Problems, delta: float) -> Minima:
        """Where problems end from each of the starts (7, T), straight at `delta` and through the stages."""
        ways = Ways(np.tile(starts, 2)[..., None], np.arange(2 * starts.shape[1]) < starts.shape[1])
        return follow([(problems, ways)], self.minimise, ladder(STAGES, delta), FIVE)[0]

    def _descend(
        self,
        problems: Problems,
        starts: Array,
        deltas: tuple[float, ...],
        begin: Index | int,
        *,
        is_open: bool,
    ) -> Minima:
        low, high = float(problems.z.min()), float(problems.z.max())
        level = (np.exp(low) / 4, 4 * np.exp(high)) if is_open else (0.0, 0.0)
        slope, decay = (low - 20, high + 5), tuple(np.log(LIMITS))
        box = np.array([level, slope, slope, EXPONENT_BOUNDS, EXPONENT_BOUNDS, decay, decay])
        moves = JointMoves(repeats=self.repeats, is_open=is_open, low=box[:, :1], high=box[:, 1:])
        chart, objective, converged = descend(
            problems, to_chart(starts, is_open), moves, deltas=deltas, begin=begin
        )
        return Minima(constants=to_constants(chart, is_open), objective=objective, converged=converged)

    def _minimum(self, constants: Array, objective: float) -> DecayMinimum:
        law = float_law(self.points.law(constants[:5]))
        found = DecayMinimum.at(law, (float(constants[5]), float(constants[6])), objective)
        bounds = names_at_bound(at_bound(constants[:5, None])[:, 0])
        return found._replace(at_limit=(*bounds, *found.at_limit))
