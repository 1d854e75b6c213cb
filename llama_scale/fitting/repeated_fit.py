"""`fit --form repeated`: runs with repeats in, a Fit out that says what repetition costs, and how surely."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from llama_scale.canonical import canonical_hash, plain
from llama_scale.errors import InputError
from llama_scale.fitting.document import provenance_json
from llama_scale.fitting.observations import Observations
from llama_scale.fitting.repeated import RepeatedRuns, height_at, loose_decays
from llama_scale.fitting.repeated_base import (
    OWN,
    PUBLISHED_BASE,
    SAME_KIND,
    Base,
    own_alternative,
    residuals_of,
    runs_of,
)
from llama_scale.fitting.repeated_search import Found, backtest_repeated, resamples, search
from llama_scale.fitting.settings import Settings
from llama_scale.fitting.solver import DEFAULT_DELTA
from llama_scale.laws import MUENNIGHOFF_REPETITION, Fit, Repetition, central_range

OF_OTHER_FORMS = ("form", "weights", "direction", "resampling", "budgets", "protocol", "profile")
UNTESTED = (
    "the cheaper runs allow no backtest (too few repeat data, or they identify no law of data seen once): how"
    " often these intervals hold is not known, and they are likely too narrow"
)


def estimate_repeated(
    observations: Observations, settings: Settings, *, base_law: str | None = None, name: str = "fit"
) -> Fit:
    """Fit the two decays of repeated data, about a law of data seen once or together with one.

    `base_law` is that law: a published name, a fit's file or constants on the line, held fixed, or `own`,
    fitted with the decays to all runs. None means the published law of Muennighoff et al., unless it errs by
    more than a quarter on the runs that saw no token twice: then they are of other text, and their own law is
    taken.
    Raises InputError without unique tokens or for settings that it makes nothing of, UnidentifiedError where
    too few runs repeat any.
    """
    _check_settings(settings)
    runs, delta = runs_of(observations), settings.delta or DEFAULT_DELTA
    found = search(runs, base_law, resamples(runs, settings.draws, settings.seed), delta)
    base, residuals = found.base, residuals_of(found.base.law, runs, found.repetition)
    other, tested = own_alternative(runs, base, delta), None
    if settings.draws and settings.backtest:
        tested = backtest_repeated(
            runs, base_law or base.name, delta=delta, level=settings.level, seed=settings.seed
        )
    about = "fitted with them" if base.name == OWN else base.name
    return Fit(
        name=name,
        law=base.law,
        convention=observations.convention,
        source=f"{len(runs)} runs of {', '.join(observations.sources)}, about the law {about}",
        flops_accounting=observations.flops_accounting,
        support=observations.support,
        draws=base.draws,
        draws_note=_draws_note(base, found.draws),
        noise=float(np.sqrt(np.mean(residuals**2))),
        interval_factor=tested["factor"] if tested else 1.0,
        repetition=found.repetition,
        repetition_draws=found.draws,
        evidence={
            "objective": found.chosen.objective,
            "n_observations": len(runs),
            **_spread(base, found.draws, settings.level),
            "diagnostics": {
                "residual_rms": float(np.sqrt(np.mean(residuals**2))),
                "residual_median": float(np.median(np.abs(residuals))),
                "worst_run": observations.names[int(np.abs(residuals).argmax())],
                "residual_max": float(np.abs(residuals).max()),
                "multimodal": len(found.minima) > 1,
            },
            "selection": _selection(base, settings, delta),
            "backtest": tested,
            "repeated_data": _repeated_data(runs, found, other, delta),
            "exclusions": plain(observations.exclusions),
            "warnings": [
                *(text for text in observations.warnings if "--form repeated" not in text),
                *_warnings(found, other),
                *([UNTESTED] if settings.draws and settings.backtest and tested is None else ()),
            ],
            "provenance": _provenance(observations, runs, settings),
        },
    )


def _check_settings(settings: Settings) -> None:
    """Raises InputError for what other forms take: here runs are drawn alone and weigh alike."""
    usual = Settings()
    for name in OF_OTHER_FORMS:
        if (value := getattr(settings, name)) != getattr(usual, name):
            raise InputError(
                f"the form 'repeated' makes nothing of {name}={value!r}", hint=f"leave {name} out"
            )


def _selection(base: Base, settings: Settings, delta: float) -> dict[str, Any]:
    return {
        "form": "repeated",
        "form_chosen_by": "user",
        "base_law": base.name,
        "base_law_chosen_by": base.chosen_by,
        "delta": delta,
        "delta_chosen_by": "user" if settings.delta else "default",
        "weights": "none",
        "resampling": "rows",
        "draws": settings.draws,
    }


def _repeated_data(
    runs: RepeatedRuns, found: Found, other: Mapping[str, Any] | None, delta: float
) -> dict[str, Any]:
    published = asdict(MUENNIGHOFF_REPETITION)
    return {
        "runs_seen_once": int(runs.seen_once.sum()),
        "runs_repeated": int((~runs.seen_once).sum()),
        "runs_of_excess_parameters": found.excess,
        "most_epochs": float((runs.tokens / runs.unique_tokens).max()),
        "minima": [
            {
                "tokens_decay": minimum.tokens_decay,
                "parameters_decay": minimum.parameters_decay,
                "objective": minimum.objective,
                "at_limit": list(minimum.at_limit),
                "share_of_draws": share,
                "chosen": minimum.objective == found.chosen.objective,
            }
            for minimum, share in zip(found.minima, found.shares, strict=True)
        ],
        "published": published | {"objective": height_at(found.base.law, runs, published.values(), delta)},
        "other_base": other,
    }


def _draws_note(base: Base, draws: Repetition | None) -> str:
    if draws is None:
        return "no draws were asked for, so nothing is known of the uncertainty"
    what = "refits of runs resampled with replacement, each at the lowest minimum"
    if base.draws is None:
        return (
            f"draws of the two decays alone, {what} of the whole surface; the law {base.name} is held fixed"
            " and has none here"
        )
    return f"draws of the law and both decays together, {what} that those of all runs lead to"


def _spread(base: Base, draws: Repetition | None, level: float) -> dict[str, Any]:
    if draws is None:
        return {"standard_errors": None, "intervals": None}
    samples = {name: values for name, values in asdict(draws).items() if np.ptp(values)}  # not those kept
    open_ended = {name for name, _ in loose_decays(draws)}
    if base.draws is not None:
        samples = {**base.draws.constants, "exponent_a": base.draws.exponent_a, **samples}
    return {
        "standard_errors": {
            name: None if name in open_ended else float(np.std(values)) for name, values in samples.items()
        },
        "intervals": {
            "level": level,
            **{name: list(central_range(values, level)) for name, values in samples.items()},
        },
    }


def _warnings(found: Found, other: Mapping[str, Any] | None) -> list[str]:
    """What a reader must know before using the decays."""
    base, chosen = found.base, found.chosen
    warnings = []
    if len(found.minima) > 1:
        best = found.minima[0]
        lower = (
            f"; ({best.tokens_decay:.4g}, {best.parameters_decay:.4g}) reaches {best.objective:.7f} against"
            f" {chosen.objective:.7f} of the one shown, which is the lowest of decays up to 20, where the"
            " published search started"
            if best.objective < chosen.objective
            else ""
        )
        warnings.append(
            f"the decays are multi-modal: {len(found.minima)} minima lie within 2 % of the lowest"
            f" objective{lower}: take none of them as certain, and read the draws"
        )
    if chosen.at_limit:
        warnings.append(
            f"{' and '.join(chosen.at_limit)} lie at the limit of the search: these runs do not identify them"
        )
    loose = [] if found.draws is None else loose_decays(found.draws)
    if loose:
        warnings.append(
            "; ".join(
                f"{share:.0%} of the draws put {name} at the limit of the search" for name, share in loose
            )
            + ": its interval is open at that end"
        )
    if not found.excess:
        warnings.append(
            "no run has more parameters than its unique tokens call for, so parameters_decay is not"
            " identified: the published 5.31 is kept"
        )
    if other and other["objective"] < chosen.objective:
        warnings.append(
            f"a law fitted to these runs together with the decays brings the objective from"
            f" {chosen.objective:.5f} to {other['objective']:.5f}, with decays of {other['tokens_decay']:.4g}"
            f" and {other['parameters_decay']:.4g}: to plan with these runs use --base-law own"
        )
    if base.chosen_by.startswith("default:"):
        warnings.append(
            f"the law {PUBLISHED_BASE} errs by more than {SAME_KIND:.0%} on the runs seen once, so the runs'"
            " own law was fitted"
        )
    return warnings


def _provenance(observations: Observations, runs: RepeatedRuns, settings: Settings) -> dict[str, Any]:
    columns = [runs.parameters, runs.tokens, runs.unique_tokens, runs.loss]
    hashed = canonical_hash([observations.names, *(column.tolist() for column in columns)])
    return provenance_json(observations, settings) | {"observations_hash": hashed}
