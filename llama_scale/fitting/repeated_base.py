"""The law of data seen once of `fit --form repeated`: held fixed where published or given, or the runs' own.

Their own is fitted as one with both decays (`repeated_joint`), from a Chinchilla law of the runs that saw
no token twice.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llama_scale.errors import InputError, UnidentifiedError
from llama_scale.fitting.forms import FITTED
from llama_scale.fitting.newton import Array
from llama_scale.fitting.observations import Observations, check_design, observe
from llama_scale.fitting.points import Points
from llama_scale.fitting.repeated import RepeatedRuns
from llama_scale.fitting.repeated_joint import JointProblem
from llama_scale.fitting.rows import Row, Rows
from llama_scale.frozen import frozen
from llama_scale.laws import MUENNIGHOFF_REPETITION, RepeatedDataLaw, Repetition, ScalingLaw, resolve_law
from llama_scale.quantities import counted

PUBLISHED_BASE = "muennighoff-2023"
OWN = "own"
SAME_KIND = 0.25  # median error, on runs seen once, up to which the published law is of the same kind of text
LEAST_REPEATED = 3  # runs for two decays


@frozen
class Base:
    """The law of data seen once: its draws where it was fitted with each resample, and who chose it.

    The runs' own is called OWN, and no other is.
    """

    name: str
    law: ScalingLaw
    chosen_by: str
    draws: ScalingLaw | None = None


def runs_of(observations: Observations) -> RepeatedRuns:
    """The runs with their unique tokens; errors say which are missing, or that too few runs repeat any."""
    unique = observations.unique_tokens
    unknown = np.flatnonzero(np.isnan(unique))
    if len(unknown):
        which = "no run" if len(unknown) == len(unique) else f"run {observations.names[unknown[0]]} does not"
        raise InputError(
            f"{which} {'says' if len(unknown) == len(unique) else 'say'} how many unique tokens it was"
            " trained on, so nothing says which were repeated",
            hint="add a column unique_tokens (or epochs) to the CSV, or use another --form;"
            " runs of our own say it once they have ended",
        )
    runs = RepeatedRuns(
        parameters=observations.parameters,
        tokens=observations.tokens,
        unique_tokens=observations.fresh_tokens,
        loss=observations.loss,
    )
    repeated = int((~runs.seen_once).sum())
    if repeated < LEAST_REPEATED:
        raise UnidentifiedError(
            f"of {counted(len(runs), 'run')} {repeated} saw data again: {LEAST_REPEATED} are the least that"
            " can say what repetition costs",
            hint="add runs of several epochs (tokens above unique_tokens), or use another --form",
        )
    return runs


def base_of(runs: RepeatedRuns, named: str | None, delta: float) -> Base:
    """The law to hold fixed, named or the published one where it is of the same kind of text, or `own`.

    The runs' own is as yet that of the runs seen once.
    """
    if named == OWN:
        return _own_base(runs, delta, "user")
    if named is not None:
        fit = resolve_law(named)
        return Base(name=named if fit.name == OWN else fit.name, law=fit.law, chosen_by="user")
    published = resolve_law(PUBLISHED_BASE)
    if _error_on_once(published.law, runs) <= SAME_KIND:
        return Base(name=PUBLISHED_BASE, law=published.law, chosen_by="default")
    return _own_base(runs, delta, "default: the published law is not that of these runs")


def _own_base(runs: RepeatedRuns, delta: float, chosen_by: str) -> Base:
    once = runs.take(runs.seen_once)
    try:
        _check_once(once)
    except UnidentifiedError as error:
        raise UnidentifiedError(
            f"the runs that saw no token twice cannot identify a law: {error.message}",
            hint="give that law with --base-law: a published name, a fit's file or constants",
        ) from None
    points = Points.of(once.parameters, once.tokens, once.loss)
    law = FITTED["chinchilla"].solve(points, delta=delta).law
    return Base(name=OWN, law=law, chosen_by=chosen_by)


def _check_once(once: RepeatedRuns) -> None:
    columns = zip(once.parameters, once.tokens, once.loss, strict=True)
    rows = [
        Row(name=str(i), place=str(i), parameters=float(n), tokens=float(d), loss=float(loss))
        for i, (n, d, loss) in enumerate(columns)
    ]
    if not rows:
        raise UnidentifiedError("there are none", hint="")
    check_design(observe([Rows(source="", rows=tuple(rows), convention="total")]))


def _error_on_once(law: ScalingLaw, runs: RepeatedRuns) -> float:
    """Median relative error of a law on the runs seen once; on all runs where there are none."""
    some = runs.take(runs.seen_once) if runs.seen_once.any() else runs
    return float(np.median(np.abs(np.expm1(residuals_of(law, some, MUENNIGHOFF_REPETITION)))))


def residuals_of(law: ScalingLaw, runs: RepeatedRuns, repetition: Repetition) -> Array:
    """Log of predicted over measured loss, a run."""
    repeated = RepeatedDataLaw(law=law, unique_tokens=runs.unique_tokens, repetition=repetition)
    return np.log(repeated.loss(runs.parameters, runs.tokens)) - np.log(runs.loss)


def matched_parameters(law: ScalingLaw, runs: RepeatedRuns) -> Array:
    """U_N of each run: the size that its unique tokens call for."""
    return np.asarray(RepeatedDataLaw(law=law, unique_tokens=runs.unique_tokens).matched_parameters)


def own_alternative(runs: RepeatedRuns, base: Base, delta: float) -> dict[str, Any] | None:
    """What the runs' own law of data seen once would make of it, where another was held fixed."""
    if base.name == OWN:
        return None
    try:
        start = _own_base(runs, delta, "").law
    except UnidentifiedError:
        return None
    best = JointProblem.of(runs).minima(start, delta=delta)[0]
    return {
        "base_law": OWN,
        "parameters": {name: float(value) for name, value in best.law.constants.items()},
        "tokens_decay": best.tokens_decay,
        "parameters_decay": best.parameters_decay,
        "objective": best.objective,
    }
