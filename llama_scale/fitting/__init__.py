"""From runs to a law: `fit(source)` returns a Fit, which predicts, optimises and carries its uncertainty.

`sources`, `records`, `tables` and `cells` read runs, `rules` and `doubts` say which of them count,
`observations` hold those. `solver`, `newton`, `skaling` and `descent` find laws, `forms` names them,
`selection` chooses. `noise` and `uncertainty` say how sure a law is, `diagnostics` what is wrong with it.
`envelope` and `isoflop` are Approaches 1 and 2, `approaches` sets them beside it, and `estimate` puts the Fit
together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_scale.architecture import ParameterConvention
from llama_scale.checked import known_word
from llama_scale.errors import InputError
from llama_scale.fitting.diagnostics import UnidentifiedFitError
from llama_scale.fitting.estimate import estimate
from llama_scale.fitting.observations import EVERY_POINT, Observations
from llama_scale.fitting.rules import Rules
from llama_scale.fitting.settings import Settings, settings_of
from llama_scale.fitting.sources import Source, gather
from llama_scale.laws import Fit

REPEATED, MULTI_POWER = "repeated", "multi-power"
__all__ = ["Observations", "Rules", "Settings", "UnidentifiedFitError", "fit", "fit_repeated", "gather"]


def fit(
    source: Source | Sequence[str | Path],
    *,
    where: Sequence[str] = (),
    convention: ParameterConvention | None = None,
    rules: Rules = EVERY_POINT,
    settings: Settings | None = None,
    scores: str | Path | None = None,
    task: str | None = None,
    name: str = "fit",
    **words: Any,
) -> Fit:
    """Fit a law to run stores, tables (CSV, Parquet, `runs export`, data frames, dicts), or records.

    `where` keeps rows, as in `["excluded_by_besiroglu = 0"]`; `convention` says how parameters are counted;
    `rules` say which points count; `scores` is a CSV of losses and scores, of `task` where it holds several.
    Further words are those of `Settings`, as on the command line: form, delta, weights, direction, draws,
    level, seed, resampling, budgets, backtest, protocol; and base_law with form="repeated" (`fit_repeated`).
    Raises InputError for rows that cannot be read, UnidentifiedError for runs that cannot identify a law.

    >>> fit("runs/").predict(1e9, 20e9)  # doctest: +SKIP
    >>> fit("runs.csv", form="chinchilla", draws=4000)  # doctest: +SKIP
    """
    base_law = words.pop("base_law", None)
    form = known_word(words.get("form"), (MULTI_POWER, REPEATED))
    if form == MULTI_POWER:
        raise InputError(
            "loss curves are fitted by a function of their own, for their laws are no Fit",
            hint="call llama_scale.fitting.curve_fit.fit_curve_laws([path])",
        )
    if form == REPEATED:
        wanted = settings_of(settings, {word: value for word, value in words.items() if word != "form"})
        found = fit_repeated(
            source,
            where=where,
            convention=convention,
            rules=rules,
            settings=wanted,
            base_law=base_law,
            name=name,
        )
    elif base_law is not None:
        raise InputError("base_law is the law of data seen once", hint='it goes with form="repeated"')
    else:
        observations = gather(source, where=where, convention=convention, rules=rules)
        found = estimate(observations, settings_of(settings, words), name=name)
    if scores is None and task is None:
        return found
    from llama_scale.fitting.downstream import with_scores  # seldom asked for

    return with_scores(found, scores, task)


def fit_repeated(
    source: Source | Sequence[str | Path],
    *,
    where: Sequence[str] = (),
    convention: ParameterConvention | None = None,
    rules: Rules = EVERY_POINT,
    settings: Settings | None = None,
    base_law: str | None = None,
    name: str = "fit",
) -> Fit:
    """Fit what repeated data are worth, to runs that name their unique tokens (`fit --form repeated`).

    `base_law` is the law of data seen once: a published name, a fit's file, constants, or `own`.
    """
    from llama_scale.fitting.repeated_fit import estimate_repeated  # other forms needn't wait for it

    observations = gather(source, where=where, convention=convention, rules=rules)
    return estimate_repeated(observations, settings or Settings(), base_law=base_law, name=name)
