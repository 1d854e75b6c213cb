"""A second opinion on a fit: SciPy's L-BFGS-B on the same objective, from the fit and from starts around it.

The objective is divided by its value at the fit, and tolerances are near machine precision: on a mean, or by
default tolerances, it stops early (1.108e-3 where 1.018e-3 is to be had, on Besiroglu et al.'s runs).
SciPy is imported when asked for (`--profile`) or where our own starts disagree: that import takes .5 s.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llama_scale.fitting.descent import Array, Batch
from llama_scale.fitting.forms import Form
from llama_scale.fitting.minima import ROUNDING, Solution, float_law
from llama_scale.fitting.points import Points
from llama_scale.fitting.skaling import LIMITS
from llama_scale.fitting.surface import expand, to_chart, to_constants
from llama_scale.frozen import frozen

TIGHT = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 2000, "maxfun": 20_000}
BETTER = 1e-6  # relative fall of the objective that another optimiser must find to be news
SPREAD = 0.3  # of the starts, in logarithms of slopes, exponents and k


@frozen
class CrossCheck:
    """What L-BFGS-B made of a fit: its lowest objective, how many starts it had, and constants if better.

    `gap` is (lowest - ours) / ours: positive where it found nothing better. `constants` are centred, as a
    Solution's are, and None unless the gap is below -1e-6.
    """

    lowest: float
    gap: float
    starts: int
    constants: Array | None


def cross_check(
    points: Points, solution: Solution, form: Form, *, delta: float, starts: int = 6, seed: int = 0
) -> CrossCheck:
    """Minimise once more with SciPy, from the fit itself and from starts spread around it."""
    from scipy.optimize import minimize

    size = len(solution.constants)
    here = to_chart(np.append(solution.constants, 1.0)[:6, None])[:, 0]
    unit = max(solution.objective, ROUNDING)
    generator = np.random.default_rng(seed)
    spread = form.layout.spread
    box = [(0.0, None), (None, None), (None, None), *(tuple(limits) for limits in LIMITS.tolist())]
    bounds = [box[row] for row in form.layout.rows]

    def objective(moves: Array) -> tuple[float, Array]:
        surface = _at(points, here + spread @ (moves - origin), delta)
        return surface[0] / unit, spread.T @ surface[1] / unit

    origin = here[form.layout.rows]
    ends = []
    for number in range(starts):
        start = origin + (SPREAD if number else 0.0) * generator.standard_normal(len(origin))
        low, high = zip(*bounds, strict=True)
        start = np.clip(
            start, [-np.inf if v is None else v for v in low], [np.inf if v is None else v for v in high]
        )
        ends.append(minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=TIGHT))
    best = min(ends, key=lambda end: end.fun)
    gap = float(best.fun) - solution.objective / unit
    found = to_constants((here + spread @ (best.x - origin))[:, None])[:size, 0]
    return CrossCheck(
        lowest=float(best.fun) * unit,
        gap=gap,
        starts=starts,
        constants=found if gap < -BETTER else None,
    )


def polished(
    points: Points, solution: Solution, form: Form, *, delta: float, seed: int = 0
) -> tuple[Solution, CrossCheck]:
    """The better of a fit and of what SciPy makes of it, which counts as one start that the others missed."""
    found = cross_check(points, solution, form, delta=delta, seed=seed)
    if found.constants is None:
        return solution, found
    better = replace(
        solution,
        law=float_law(points.law(found.constants)),
        constants=found.constants,
        objective=found.lowest,
        starts=solution.starts + 1,
        agreed=1,
        rival=solution.constants,
    )
    return better, found


def _at(points: Points, chart: Array, delta: float) -> tuple[float, Array]:
    """Objective and gradient by E and the rest of the chart, E held apart from the others.

    A line search may step to where losses vanish or overflow: infinity sends it back.
    """
    batch = Batch(points.x[None], points.y[None], points.z[None], points.weights[None], delta)
    with np.errstate(all="ignore"):
        surface = expand(batch, chart[:, None], np.ones(1, bool))
    value, gradient = float(surface.value[0]), np.append(surface.rise, surface.gradient[1:, 0])
    if np.isfinite(value) and np.isfinite(gradient).all():
        return value, gradient
    return np.inf, np.zeros_like(gradient)
