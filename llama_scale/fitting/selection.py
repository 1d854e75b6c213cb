"""Which form of law to fit: the one whose fits of the cheaper runs best predict the dearer ones.

The question that a law is for lies beyond the runs in compute, so candidates are compared there and nowhere
else. Residuals of the fit itself would always favour the form with more constants, and runs held
out to test the chosen law have no part in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llama_scale.fitting.forms import CHINCHILLA, FITTED, Form
from llama_scale.fitting.newton import Array
from llama_scale.fitting.observations import Observations
from llama_scale.fitting.uncertainty import identifies, points_of
from llama_scale.laws import FormName

CUTS = (0.5, 0.65, 0.8)  # of the runs in order of compute: fit up to one, predict all beyond it


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A form, and the mean relative error of its predictions."""

    form: FormName
    mean_error: float
    predicted_runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The form to fit, all that were tried, and why this one."""

    form: Form
    candidates: tuple[Candidate, ...]
    note: str


def choose_form(observations: Observations, *, delta: float, named: str | None) -> Choice:
    """The form that was named, or else the one of lowest mean error over the cuts.

    Chinchilla, of fewer constants, where errors are equal or nothing can be compared.
    """
    if named is not None:
        return Choice(form=FITTED[_form_name(named)], candidates=(), note="the form was named, not chosen")
    ranked = observations.take(np.argsort(observations.train_flops, kind="stable"))
    cuts = [cut for cut in _cuts(ranked.budgets) if _comparable(ranked, cut)]
    if not cuts:
        return Choice(
            form=CHINCHILLA, candidates=(), note="too few runs to compare forms: Chinchilla is the default"
        )
    candidates = []
    for name, form in FITTED.items():
        errors = _errors(ranked, form, cuts, delta)
        candidates.append(Candidate(form=name, mean_error=float(errors.mean()), predicted_runs=len(errors)))
    best = min(candidates, key=lambda candidate: candidate.mean_error)  # of equals the first, Chinchilla
    return Choice(
        form=FITTED[best.form],
        candidates=tuple(candidates),
        note=f"chosen for the lowest error in {len(cuts)} forward predictions of dearer runs by cheaper ones",
    )


def _form_name(text: str) -> FormName:
    return next(name for name in FITTED if name == text)


def _cuts(budgets: Array) -> list[int]:
    """Positions of the first run to predict, moved so that no named budget is cut in two."""
    cuts = set()
    for share in CUTS:
        cut = round(share * len(budgets))
        while 0 < cut < len(budgets) and budgets[cut] == budgets[cut - 1]:
            cut -= 1
        cuts.add(cut)
    return sorted(cut for cut in cuts if 0 < cut < len(budgets))


def _comparable(ranked: Observations, cut: int) -> bool:
    known = ranked.take(np.arange(cut))
    return all(identifies(known, form) for form in FITTED.values())


def _errors(ranked: Observations, form: Form, cuts: list[int], delta: float) -> Array:
    """Relative errors of all predictions."""
    found = []
    for cut in cuts:
        ahead = ranked.take(np.arange(cut, len(ranked)))
        law = form.solve(points_of(ranked.take(np.arange(cut))), delta=delta, quick=True).law
        found.append(np.abs(np.asarray(law.loss(ahead.parameters, ahead.tokens)) / ahead.loss - 1))
    return np.concatenate(found)
