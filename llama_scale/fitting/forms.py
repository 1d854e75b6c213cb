"""The forms that can be fitted: each a name, a solver of one data set and one of resamples.

Constants are centred, in the order E, A, B, alpha, beta and, where the form has one, k; predictions,
derivatives and laws follow from them alone (`noise`, `solver.Points`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from llama_scale.fitting import skaling
from llama_scale.fitting.newton import Array
from llama_scale.fitting.solver import COARSE_GRID, Minima, Points, Solution, refit, solve
from llama_scale.laws import FormName


class Solve(Protocol):
    """The global fit of one data set; `quick` from fewer starts."""

    def __call__(self, points: Points, *, delta: float, quick: bool = False) -> Solution: ...


class Refit(Protocol):
    """Fits of resamples, from the full data's optimum."""

    def __call__(
        self,
        points: Points,
        start: Array,
        *,
        delta: float,
        log_losses: Array | None = None,
        weights: Array | None = None,
    ) -> Minima: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A form of law and how it is fitted.

    `may_rest` names the constants that may end on a bound: the reader is told, but the fit stands.
    """

    name: FormName
    constants: int
    solve: Solve
    refit: Refit
    may_rest: tuple[str, ...] = ()


def _solve_chinchilla(points: Points, *, delta: float, quick: bool = False) -> Solution:
    return solve(points, delta=delta, grid=COARSE_GRID if quick else None)


CHINCHILLA = Form(name="chinchilla", constants=5, solve=_solve_chinchilla, refit=refit)
SKALING = Form(name="skaling", constants=6, solve=skaling.solve, refit=skaling.refit, may_rest=("E", "k"))
FITTED: dict[FormName, Form] = {form.name: form for form in (CHINCHILLA, SKALING)}
