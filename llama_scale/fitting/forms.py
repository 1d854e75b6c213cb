"""The forms that can be fitted: each a name, a solver of one data set and one of resamples.

Constants are centred, in the order E, A, B, alpha, beta and, where the form has one, k; predictions,
derivatives and laws follow from them alone (`noise`, `solver.Points`). A form is declared by the
constants that move; those that it pins or ties are a linear map of its chart (`newton.Layout`).
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

from llama_scale.fitting import skaling, solver
from llama_scale.fitting.newton import NAMES, Array, Layout
from llama_scale.fitting.noise import jacobian
from llama_scale.fitting.solver import COARSE_GRID, Minima, Points, Solution
from llama_scale.frozen import frozen
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


@frozen
class Form:
    """A form of law and how it is fitted.

    `layout` says which constants move. `may_rest` names those that may end on a bound: the reader is
    told, but the fit stands.
    """

    name: FormName
    layout: Layout
    solve: Solve
    refit: Refit
    may_rest: tuple[str, ...] = ()

    @property
    def constants(self) -> int:
        """How many constants are fitted."""
        return len(self.layout.free)

    @property
    def fixed_rows(self) -> list[int]:
        """Rows of the constants that are fitted and should not end on a bound."""
        free = [name for name in self.layout.free if name not in self.may_rest]
        return [NAMES.index(name) for name in free]

    def design(self, points: Points, constants: Array) -> Array:
        """Derivatives (n, constants) of log predicted loss by each fitted constant."""
        return jacobian(points, constants) @ self.layout.spread[: len(constants)]


def _with_five_constants(name: FormName, *groups: str) -> Form:
    """A form without an outer power, solved by the faster Newton of `solver`."""
    layout = Layout.of(*groups)

    def solve_it(points: Points, *, delta: float, quick: bool = False) -> Solution:
        return solver.solve(points, delta=delta, grid=COARSE_GRID if quick else None, layout=layout)

    return Form(name=name, layout=layout, solve=solve_it, refit=partial(solver.refit, layout=layout))


def _with_outer_power(name: FormName, *groups: str, may_rest: tuple[str, ...]) -> Form:
    layout = Layout.of(*groups)
    return Form(
        name=name,
        layout=layout,
        solve=partial(skaling.solve, layout=layout),
        refit=partial(skaling.refit, layout=layout),
        may_rest=may_rest,
    )


CHINCHILLA = _with_five_constants("chinchilla", "E", "A", "B", "alpha", "beta")
TIED = _with_five_constants("tied", "E", "A", "B", "alpha=beta")
SKALING = _with_outer_power("skaling", "E", "A", "B", "alpha", "beta", "k", may_rest=("E", "k"))
KAPLAN = _with_outer_power("kaplan", "A", "B", "alpha", "k", may_rest=("k",))
FITTED: dict[FormName, Form] = {form.name: form for form in (CHINCHILLA, SKALING, TIED, KAPLAN)}
