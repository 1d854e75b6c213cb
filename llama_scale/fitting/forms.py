"""The forms that can be fitted: each a name, a solver of data sets and one of their resamples.

Constants are centred, in the order E, A, B, alpha, beta and, where the form has one, k; predictions,
derivatives and laws follow from them alone (`noise`, `points.Points`). A form is declared by the
constants that move; those that it pins or ties are a linear map of its chart (`newton.Layout`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from llama_scale.fitting import skaling, solver
from llama_scale.fitting.minima import Minima, Solution
from llama_scale.fitting.newton import NAMES, Array, Layout
from llama_scale.fitting.noise import jacobian
from llama_scale.fitting.points import Case, Points
from llama_scale.fitting.solver import COARSE_GRID
from llama_scale.frozen import frozen
from llama_scale.laws import FormName


class SolveEach(Protocol):
    """The global fits of data sets, as one batch; `quick` from fewer starts."""

    def __call__(self, sets: Sequence[Points], *, delta: float, quick: bool = False) -> list[Solution]: ...


class RefitEach(Protocol):
    """Fits of the resamples of data sets, as one batch."""

    def __call__(self, cases: Sequence[Case], *, delta: float) -> list[Minima]: ...


@frozen
class Form:
    """A form of law and how it is fitted.

    `layout` says which constants move. `may_rest` names those that may end on a bound: the reader is
    told, but the fit stands.
    """

    name: FormName
    layout: Layout
    solve_each: SolveEach
    refit_each: RefitEach
    may_rest: tuple[str, ...] = ()

    def solve(self, points: Points, *, delta: float, quick: bool = False) -> Solution:
        """The global fit of one data set; `quick` from fewer starts."""
        return self.solve_each([points], delta=delta, quick=quick)[0]

    def refit(
        self,
        points: Points,
        start: Array,
        *,
        delta: float,
        log_losses: Array | None = None,
        weights: Array | None = None,
    ) -> Minima:
        """Fits of resamples of one data set, from its optimum."""
        case = Case.of(points, start, log_losses=log_losses, weights=weights)
        return self.refit_each([case], delta=delta)[0]

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

    def solve_each(sets: Sequence[Points], *, delta: float, quick: bool = False) -> list[Solution]:
        return solver.solve_each(sets, delta=delta, grid=COARSE_GRID if quick else None, layout=layout)

    refit_each = partial(solver.refit_each, layout=layout)
    return Form(name=name, layout=layout, solve_each=solve_each, refit_each=refit_each)


def _with_outer_power(name: FormName, *groups: str, may_rest: tuple[str, ...]) -> Form:
    layout = Layout.of(*groups)
    return Form(
        name=name,
        layout=layout,
        solve_each=partial(skaling.solve_each, layout=layout),
        refit_each=partial(skaling.refit_each, layout=layout),
        may_rest=may_rest,
    )


CHINCHILLA = _with_five_constants("chinchilla", "E", "A", "B", "alpha", "beta")
TIED = _with_five_constants("tied", "E", "A", "B", "alpha=beta")
SKALING = _with_outer_power("skaling", "E", "A", "B", "alpha", "beta", "k", may_rest=("E", "k"))
KAPLAN = _with_outer_power("kaplan", "A", "B", "alpha", "k", may_rest=("k",))
FITTED: dict[FormName, Form] = {form.name: form for form in (CHINCHILLA, SKALING, TIED, KAPLAN)}
