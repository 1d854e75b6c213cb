"""The forms that can be fitted: each a name and the constants that move.

Constants are centred, in the order E, A, B, alpha, beta and, where the form has one, k; predictions,
derivatives and laws follow from them alone (`noise`, `points.Points`). Constants that a form pins or ties are
a linear map of its chart (`newton.Layout`).
"""

from __future__ import annotations

from collections.abc import Sequence

from llama_scale.fitting import skaling, solver
from llama_scale.fitting.minima import Minima, Solution
from llama_scale.fitting.newton import FIVE, NAMES, SIX, Array, Layout
from llama_scale.fitting.noise import jacobian
from llama_scale.fitting.points import Case, Points
from llama_scale.fitting.solver import DEFAULT_DELTA
from llama_scale.frozen import frozen
from llama_scale.laws import FormName


@frozen
class Form:
    """A form of law and how it is fitted.

    `layout` says which constants move. `may_rest` names those that may end on a bound: the reader is
    told, but the fit stands.
    """

    name: FormName
    layout: Layout
    may_rest: tuple[str, ...] = ()

    @property
    def has_outer_power(self) -> bool:
        """Whether it has a sixth constant, k; without one the faster Newton of `solver` does."""
        return "k" in self.layout.free

    def solve_each(self, sets: Sequence[Points], *, delta: float, quick: bool = False) -> list[Solution]:
        """The global fits of data sets, as one batch; `quick` from fewer starts."""
        solve_each = skaling.solve_each if self.has_outer_power else solver.solve_each
        return solve_each(sets, delta=delta, quick=quick, layout=self.layout)

    def refit_each(self, cases: Sequence[Case], *, delta: float) -> list[Minima]:
        """Fits of the resamples of data sets, as one batch."""
        refit_each = skaling.refit_each if self.has_outer_power else solver.refit_each
        return refit_each(cases, delta=delta, layout=self.layout)

    def solve(self, points: Points, *, delta: float = DEFAULT_DELTA, quick: bool = False) -> Solution:
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


CHINCHILLA = Form(name="chinchilla", layout=FIVE)
TIED = Form(name="tied", layout=Layout.of("E", "A", "B", "alpha=beta"))
SKALING = Form(name="skaling", layout=SIX, may_rest=("E", "k"))
KAPLAN = Form(name="kaplan", layout=Layout.of("A", "B", "alpha", "k"), may_rest=("k",))
FITTED: dict[FormName, Form] = {form.name: form for form in (CHINCHILLA, SKALING, TIED, KAPLAN)}
