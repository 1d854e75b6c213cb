"""Whether a fit can be trusted: what was found wrong, and what run would put it right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llama_scale.errors import UnidentifiedError
from llama_scale.fitting.forms import CHINCHILLA, Form
from llama_scale.fitting.newton import K_BOUNDS, Array
from llama_scale.fitting.noise import log_prediction
from llama_scale.fitting.solver import NAMES, Points, Solution
from llama_scale.fitting.uncertainty import Draws
from llama_scale.laws import Fit

LEAST_AGREEMENT = 0.02  # of the starts: fewer at the best minimum, and a better one may have been missed
FLAT = 1.0  # relative sd, along the weakest direction, above which constants are unknown to a factor of e
FREQUENT_BOUND = 0.05  # of the draws: more on a bound, and the intervals lean on where the bound was put
REMEDIES = {
    "E": "longer runs of larger models, at several times the largest budget",
    "A": "runs of smaller and larger models at one duration",
    "alpha": "runs of smaller and larger models at one duration",
    "B": "shorter and longer runs of one model",
    "beta": "shorter and longer runs of one model",
    "k": "runs of more sizes, each at more durations",
}
RESTING = {
    "E": "no irreducible loss can be told from these runs: the best fit has E = 0, and its losses fall for"
    " ever; trust it no further than a few times the largest run",
    "k": f"k ends on its bound ({K_BOUNDS[0]:g} to {K_BOUNDS[1]:g}): the runs do not fix it",
}


class UnidentifiedFitError(UnidentifiedError):
    """A fit that should not be used. `estimate` is that fit, for whoever wants to look at it all the same."""

    def __init__(self, message: str, *, hint: str, estimate: Fit) -> None:
        super().__init__(message, hint=hint)
        self.estimate = estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostics:
    """How well a law fits and how well the data pin it down. Residuals are relative (of log loss).

    `weakest` is the direction, in relative changes of the constants, that the data resist least, and
    `weakest_sd` how far the noise lets the constants move along it (1 is a factor of e).
    """

    residual_rms: float
    residual_max: float
    worst_run: str
    starts: int
    starts_agreed: int
    at_bound: tuple[str, ...]
    draws_at_bound: float
    condition: float
    weakest: dict[str, float]
    weakest_sd: float
    trunk_noise: float
    own_noise: float


def diagnose(
    points: Points,
    names: tuple[str, ...],
    solution: Solution,
    draws: Draws | None,
    form: Form = CHINCHILLA,
) -> Diagnostics:
    """Measure a fit."""
    residuals = log_prediction(points, solution.constants) - points.z
    rms = float(np.sqrt((residuals**2).mean()))
    condition, direction, reach = _weakest(points, solution.constants, rms, form)
    return Diagnostics(
        residual_rms=rms,
        residual_max=float(np.abs(residuals).max()),
        worst_run=names[int(np.abs(residuals).argmax())],
        starts=solution.starts,
        starts_agreed=solution.agreed,
        at_bound=solution.at_bound,
        draws_at_bound=draws.at_bound if draws else 0.0,
        condition=condition,
        weakest={name: round(float(part), 3) for name, part in zip(form.layout.free, direction, strict=True)},
        weakest_sd=reach,
        trunk_noise=draws.trunk_noise if draws else 0.0,
        own_noise=draws.own_noise if draws else rms,
    )


def _weakest(points: Points, constants: Array, rms: float, form: Form) -> tuple[float, Array, float]:
    """Condition number in relative changes of the centred constants, the flattest direction, its sd.

    A constant that may rest at zero and does has no relative change, and no part in the direction.
    """
    names = form.layout.free
    values = np.array([constants[NAMES.index(name)] for name in names])
    free = np.array(
        [value > 0 or name not in form.may_rest for name, value in zip(names, values, strict=True)]
    )
    design = (form.design(points, constants) * np.maximum(values, 1e-12))[:, free]
    _, sizes, axes = np.linalg.svd(design, full_matrices=False)
    flattest = np.zeros(len(names))
    flattest[free] = axes[-1] * np.sign(axes[-1][np.abs(axes[-1]).argmax()])
    least = max(float(sizes[-1]), 1e-300)
    return float(sizes[0]) / least, flattest, rms / least


def warnings_of(diagnostics: Diagnostics, form: Form = CHINCHILLA) -> list[str]:
    """What a reader of the fit must know, though the fit stands."""
    found = [RESTING[name] for name in diagnostics.at_bound if name in form.may_rest]
    if diagnostics.draws_at_bound > FREQUENT_BOUND:
        found.append(
            f"{diagnostics.draws_at_bound:.0%} of the draws end on a bound of a constant: the law is weakly"
            f" identified; {_remedy(diagnostics)} would help"
        )
    elif diagnostics.weakest_sd > FLAT:
        found.append(
            f"the data hardly resist {_words(diagnostics)}: constants are unknown to a factor of"
            f" {np.exp(min(diagnostics.weakest_sd, 7)):.1f}; {_remedy(diagnostics)} would help"
        )
    return found


def check_identified(diagnostics: Diagnostics, estimate: Fit, form: Form = CHINCHILLA) -> None:
    """Raises UnidentifiedFitError for a fit on a bound where it may not rest, or whose starts disagree."""
    bound = [name for name in diagnostics.at_bound if name not in form.may_rest]
    if bound:
        raise UnidentifiedFitError(
            f"the best fit lies on a bound of {', '.join(bound)}: the runs do not fix it",
            hint=f"add {_remedy(diagnostics)}; then run `llama-scale fit` again",
            estimate=estimate,
        )
    if diagnostics.starts_agreed < LEAST_AGREEMENT * diagnostics.starts:
        raise UnidentifiedFitError(
            f"only {diagnostics.starts_agreed} of {diagnostics.starts} starts reach the best fit, so"
            " there may be a better one",
            hint=f"add {_remedy(diagnostics)}; then run `llama-scale fit` again",
            estimate=estimate,
        )


def _remedy(diagnostics: Diagnostics) -> str:
    """What to run: for a constant on its bound, else for the one that the weakest direction moves most."""
    weak = diagnostics.at_bound or (
        max(diagnostics.weakest, key=lambda name: abs(diagnostics.weakest[name])),
    )
    return REMEDIES[weak[0]]


def _words(diagnostics: Diagnostics) -> str:
    moved = [name for name, part in diagnostics.weakest.items() if abs(part) > 0.2]
    return "a joint change of " + ", ".join(moved)
