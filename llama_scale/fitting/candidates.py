"""What a fit may be: a form of law, Huber's delta, and how much more the dearer runs weigh."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

import numpy as np

from llama_scale.fitting.forms import FITTED, Form
from llama_scale.fitting.minima import Solution
from llama_scale.fitting.newton import Array
from llama_scale.fitting.observations import Observations
from llama_scale.fitting.points import Case, Points
from llama_scale.fitting.seeds import seed_noise
from llama_scale.fitting.solver import DEFAULT_DELTA
from llama_scale.frozen import frozen
from llama_scale.laws import FormName, ScalingLaw

DELTAS = (DEFAULT_DELTA, 1e-2)
POWERS = (0.0, 0.25, 0.5, 1.0)


@frozen
class Candidate:
    """A way to fit: runs weigh (C / Cmax)^power, so power 0 is no weights at all.

    With `by_noise` they also weigh by what repeats under several seeds say of noise, if any.
    """

    form: FormName
    delta: float = DEFAULT_DELTA
    power: float = 0.0
    by_noise: bool = False

    @property
    def fitted_form(self) -> Form:
        """The form with its solver."""
        return FITTED[self.form]

    @property
    def weights(self) -> str:
        """The weights in words."""
        return "none" if self.power == 0 else f"(C/Cmax)^{self.power:g}"


def weights_of(observations: Observations, candidate: Candidate) -> Array:
    """Weights (n,) of the runs' Huber losses under a candidate."""
    flops = observations.train_flops
    weights = (flops / flops.max()) ** candidate.power
    measured = seed_noise(observations) if candidate.by_noise else None
    return weights if measured is None else weights * measured.weights


def points_of(observations: Observations, candidate: Candidate | None = None) -> Points:
    """The rows that the solver takes, with a candidate's weights."""
    weights = None if candidate is None else weights_of(observations, candidate)
    return Points.of(observations.parameters, observations.tokens, observations.loss, weights)


def constants_of(points: Points, candidate: Candidate, law: ScalingLaw) -> Array:
    """Centred constants (5,) or (6,) of a law of the candidate's form, k last where the form has it."""
    lacks_power = candidate.fitted_form.has_outer_power and not law.has_outer_power
    return np.append(points.constants(law), [1.0] if lacks_power else [])


def solve(observations: Observations, candidate: Candidate, *, quick: bool = False) -> Solution:
    """The global fit of one candidate."""
    points = points_of(observations, candidate)
    return candidate.fitted_form.solve(points, delta=candidate.delta, quick=quick)


def solve_all(observations: Observations, candidates: Iterable[Candidate]) -> Mapping[Candidate, ScalingLaw]:
    """Quick fits of all candidates to the same runs."""
    return solve_everywhere([observations], candidates)[0]


def solve_everywhere(
    sets: Sequence[Observations], candidates: Iterable[Candidate]
) -> list[Mapping[Candidate, ScalingLaw]]:
    """Quick fits of all candidates to each set of runs; those of one form and delta start from the first.

    Each weighted fit takes two paths of deltas and, where these disagree, a grid of starts (`refit_each`).
    """
    found: list[dict[Candidate, ScalingLaw]] = [{} for _ in sets]
    for _, group in groupby(candidates, key=lambda candidate: (candidate.form, candidate.delta)):
        first, *others = group
        form, delta = first.fitted_form, first.delta
        solutions = form.solve_each([points_of(runs, first) for runs in sets], delta=delta, quick=True)
        for laws, solution in zip(found, solutions, strict=True):
            laws[first] = solution.law
        if not others:
            continue
        cases = [
            Case.of(
                points_of(runs),
                solution.constants,
                weights=np.stack([weights_of(runs, other) for other in others]),
            )
            for runs, solution in zip(sets, solutions, strict=True)
        ]
        for laws, case, minima in zip(found, cases, form.refit_each(cases, delta=delta), strict=True):
            fitted = case.points.law(minima.constants)
            laws.update({other: fitted.at(index) for index, other in enumerate(others)})
    return list(found)
