"""Whether a fit can be trusted: what was found wrong, and what run would put it right.

A fit is unidentified where it or its draws hit a bound, where its starts disagree, or where it sits in a flat
valley. A bound where constants should not rest, or starts of which hardly any agree, are refused; the
rest is said, with the direction that the data leave open and the run that would close it (`informative`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llama_scale.errors import UnidentifiedError
from llama_scale.fitting.forms import CHINCHILLA, Form
from llama_scale.fitting.informative import NextRun, most_informative, most_telling, relative_design
from llama_scale.fitting.minima import Solution
from llama_scale.fitting.newton import K_BOUNDS, NAMES, Array
from llama_scale.fitting.noise import log_prediction
from llama_scale.fitting.points import Points
from llama_scale.fitting.uncertainty import Draws
from llama_scale.frozen import frozen
from llama_scale.laws import Fit
from llama_scale.quantities import format_count, format_flops

LEAST_AGREEMENT = 0.02  # of the starts: fewer at the best minimum, and a better one may have been missed
FLAT = 1.0  # relative sd, along the weakest direction, above which constants are unknown to a factor of e
FREQUENT_BOUND = 0.05  # of the draws: more on a bound, and the intervals lean on where the bound was put
LAW = 3  # the approach that needs one
HELPS = 0.95  # of the uncertainty: a run that leaves more is not said to close it
MAJORITY = 0.5  # of the starts: fewer at the best minimum, and the reader is told of the others
RESTING = {
    "E": "no irreducible loss can be told from these runs: fits with E = 0, whose losses fall for ever, are"
    " no worse; trust the law no further than a few times the largest run",
    "k": f"k ends on its bound ({K_BOUNDS[0]:g} to {K_BOUNDS[1]:g}): the runs do not fix it",
}


class UnidentifiedFitError(UnidentifiedError):
    """A fit that should not be used. `estimate` is that fit, for whoever wants to look at it all the same.

    `details` hold what needs no law, Approaches 1 and 2, and what is wrong with the law.
    """

    def __init__(self, message: str, *, hint: str, estimate: Fit) -> None:
        super().__init__(message, hint=hint)
        self.estimate = estimate
        evidence = estimate.evidence
        without_law = [one for one in evidence.get("approaches") or () if one["approach"] != LAW]
        kept = {name: evidence[name] for name in ("diagnostics", "warnings") if name in evidence}
        self.details = {"approaches": without_law, **kept}


@frozen
class Diagnostics:
    """How well a law fits and how well the data pin it down. Residuals are relative (of log loss).

    `starts` counts those that came to rest. `weakest` is the direction, in relative changes of the
    constants (of A^k and B^k where there is a k), that the data resist least, and `weakest_sd` how far the
    noise lets them move along it (1 is a factor of e). `unidentified` says why the fit is not identified,
    and is empty where it is; `next_run` would identify it best.
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
    unidentified: tuple[str, ...]
    next_run: NextRun


def diagnose(
    points: Points,
    names: tuple[str, ...],
    solution: Solution,
    draws: Draws | None,
    form: Form = CHINCHILLA,
) -> Diagnostics:
    """Measure a fit by a candidate of this form; residuals are those of its law, which may be a consensus."""
    residuals = log_prediction(points, points.constants(solution.law)) - points.z
    rms = float(np.sqrt((residuals**2).mean()))
    condition, direction, reach = _weakest(points, solution.constants, rms, form)
    weakest = {name: round(float(part), 3) for name, part in zip(form.layout.free, direction, strict=True)}
    on_bound = draws.at_bound if draws else 0.0
    return Diagnostics(
        residual_rms=rms,
        residual_max=float(np.abs(residuals).max()),
        worst_run=names[int(np.abs(residuals).argmax())],
        starts=solution.starts,
        starts_agreed=solution.agreed,
        at_bound=solution.at_bound,
        draws_at_bound=on_bound,
        condition=condition,
        weakest=weakest,
        weakest_sd=reach,
        trunk_noise=draws.trunk_noise if draws else 0.0,
        own_noise=draws.own_noise if draws else rms,
        unidentified=tuple(_reasons(solution, on_bound, weakest, reach)),
        next_run=_next_run(points, solution, form, rms, direction),
    )


def _reasons(solution: Solution, on_bound: float, weakest: dict[str, float], reach: float) -> list[str]:
    """Why a fit is not identified, in words."""
    found = []
    if solution.at_bound:
        found.append(f"the best fits lie on a bound of {', '.join(solution.at_bound)}")
    if solution.agreed < MAJORITY * solution.starts:
        found.append(
            f"only {solution.agreed} of {solution.starts} starts end at the best fit, others at higher minima"
        )
    if on_bound > FREQUENT_BOUND:
        found.append(f"{on_bound:.0%} of the draws end on a bound of a constant")
    if reach > FLAT:
        moved = ", ".join(name for name, part in weakest.items() if abs(part) > 0.2)
        factor = np.exp(min(reach, 7))
        found.append(
            f"the data hardly resist a joint change of {moved}: constants are unknown to a factor of"
            f" {'over a thousand' if reach > 7 else f'{factor:.1f}'}"
        )
    return found


def _next_run(points: Points, solution: Solution, form: Form, noise: float, direction: Array) -> NextRun:
    """The run that would help most: against a rival minimum, a bound, or the flattest direction."""
    if solution.rival is not None and solution.agreed < MAJORITY * solution.starts:
        return most_telling(points, solution.constants, solution.rival)
    if any(name in solution.at_bound for name in form.layout.free):
        direction = np.array([float(name in solution.at_bound) for name in form.layout.free])
    return most_informative(points, solution.constants, form, noise=noise, direction=direction)


def _weakest(points: Points, constants: Array, rms: float, form: Form) -> tuple[float, Array, float]:
    """Condition number in the relative units of `informative`, the flattest direction, its sd.

    A constant that may rest at zero and does has no relative change, and no part in the direction.
    """
    names = form.layout.free
    values = np.array([constants[NAMES.index(name)] for name in names])
    resting = np.array([name in form.may_rest for name in names])
    free = (values > 0) | ~resting
    design = relative_design(points, constants, form)[:, free] * np.sqrt(points.weights)[:, None]
    _, sizes, axes = np.linalg.svd(design, full_matrices=False)
    flattest = np.zeros(len(names))
    flattest[free] = axes[-1] * np.sign(axes[-1][np.abs(axes[-1]).argmax()])
    least = max(float(sizes[-1]), 1e-300)
    return float(sizes[0]) / least, flattest, rms / least


def warnings_of(diagnostics: Diagnostics, form: Form = CHINCHILLA) -> list[str]:
    """What a reader of the fit must know, though the fit stands."""
    found = [RESTING[name] for name in diagnostics.at_bound if name in form.may_rest]
    if diagnostics.unidentified:
        found.append(
            f"the law is weakly identified: {'; '.join(diagnostics.unidentified)}; {_remedy(diagnostics)}"
            " would help most"
        )
    return found


def check_identified(diagnostics: Diagnostics, estimate: Fit, form: Form = CHINCHILLA) -> None:
    """Raises UnidentifiedFitError for a fit on a bound where it may not rest, or whose starts disagree."""
    why = why_refused(diagnostics.at_bound, diagnostics.starts_agreed, diagnostics.starts, form)
    if why is None:
        return
    raise UnidentifiedFitError(
        why,
        hint=f"add {_remedy(diagnostics).rstrip(',')}; then run `llama-scale fit` again",
        estimate=estimate,
    )


def why_refused(at_bound: Sequence[str], agreed: int, starts: int, form: Form) -> str | None:
    """Why a fit is no law to be used, None where it is one."""
    bound = [name for name in at_bound if name not in form.may_rest]
    if bound:
        return f"the best fit lies on a bound of {', '.join(bound)}: the runs do not fix it"
    if agreed < LEAST_AGREEMENT * starts:
        return f"only {agreed} of {starts} starts reach the best fit, so there may be a better one"
    return None


def _remedy(diagnostics: Diagnostics) -> str:
    """What to run, and what it would bring."""
    run = diagnostics.next_run
    words = (
        f"a run of {format_count(run.parameters)} parameters on {format_count(run.tokens)} tokens"
        f" ({format_flops(run.train_flops)} by 6ND)"
    )
    if run.gap is not None:
        return f"{words}, on which the two best minima differ by {run.gap:.1%},"
    if run.sd_before and run.sd_after is not None and run.sd_after < HELPS * run.sd_before:
        return f"{words}, which would leave {run.sd_after / run.sd_before:.0%} of the uncertainty,"
    return words
