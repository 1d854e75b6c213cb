"""The three approaches of Hoffmann et al. 2022 side by side: exponents, N and D at a budget, or why not.

C^a and C^b are how the best N and D grow with the budget C. Approach 1 is the envelope of training curves
(`envelope`), 2 IsoFLOP parabolas (`isoflop`), 3 the law itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llama_scale.canonical import plain
from llama_scale.fitting.accounting import compare_countings
from llama_scale.fitting.envelope import Envelope, envelope
from llama_scale.fitting.envelope import bias_under as envelope_bias
from llama_scale.fitting.forms import Form
from llama_scale.fitting.isoflop import IsoFlop, Profile, Verdict, bias_under, isoflop
from llama_scale.fitting.lines import PowerLine
from llama_scale.fitting.minima import Solution
from llama_scale.fitting.noise import Noise
from llama_scale.fitting.observations import Observations
from llama_scale.fitting.sensitivity import Variation, sensitivity
from llama_scale.frozen import frozen
from llama_scale.laws import Fit, Range
from llama_scale.quantities import format_flops

PARABOLA_DRAWS = 2000
DRAWS = 200  # of Approach 1: enough for 90 % intervals
DEFAULT_REACH = 10.0  # times the largest run: the budget that is shown where none is asked for
NAMES = {1: "envelope of training curves", 2: "IsoFLOP parabolas", 3: "parametric law"}


@frozen
class Split:
    """The best N and D at a budget by one approach; intervals are None without draws."""

    train_flops: float
    parameters: float
    parameters_interval: Range | None
    tokens: float
    tokens_interval: Range | None


@frozen
class Approach:
    """What one approach says, or the `reason` why the data do not allow it; `notes` are its caveats here.

    `exponent_a_bias` is how far its exponent would be off under the law of Approach 3.
    """

    number: int
    exponent_a: float | None = None
    exponent_a_interval: Range | None = None
    exponent_a_bias: float | None = None
    exponent_b: float | None = None
    exponent_b_interval: Range | None = None
    optima: tuple[Split, ...] = ()
    reason: str | None = None
    notes: tuple[str, ...] = ()


def compare_approaches(
    observations: Observations,
    fit: Fit,
    profiles: IsoFlop | None,
    *,
    bias: float | None = None,
    budgets: Sequence[float] = (),
    level: float = 0.9,
    seed: int = 0,
) -> tuple[Approach, Approach, Approach]:
    """All three on one data set, at these budgets, or at ten times the largest run.

    The law's draws and noise are those of `fit`; without draws there are no intervals. `bias` is what the
    parabolas would add to the exponent of its law.
    """
    at = tuple(budgets) or (float(f"{DEFAULT_REACH * observations.train_flops.max():.3g}"),)
    draws = DRAWS if fit.draws is not None else 0
    found = envelope(observations, draws=draws, seed=seed, noise=shared_noise(observations, fit))
    off = envelope_bias(observations, fit.law, noise=_noise(fit), seed=seed)
    return (
        _by_envelope(found, off, at, level, drawn=draws > 0),
        _by_parabolas(profiles, bias, at, level, named=bool(np.isfinite(observations.budgets).any())),
        _by_law(fit, observations, at, level),
    )


def shared_noise(observations: Observations, fit: Fit) -> Noise | None:
    """The noise of trunks and runs as the fit found it, where runs share trunks."""
    if fit.draws is None or not observations.shares_trunks or not fit.evidence.get("diagnostics"):
        return None
    return _noise(fit)


def _noise(fit: Fit) -> Noise:
    """The noise of trunks and runs as the fit found it; of runs alone where it tells no more."""
    found = fit.evidence.get("diagnostics") or {"trunk_noise": 0.0, "own_noise": fit.noise}
    return Noise(
        trunk=np.full(DRAWS, found["trunk_noise"] or 0.0), own=np.full(DRAWS, found["own_noise"] or 0.0)
    )


def _by_envelope(
    found: Envelope | None, bias: float | None, budgets: Sequence[float], level: float, *, drawn: bool
) -> Approach:
    if found is None:
        return Approach(
            number=1, reason="it needs three sizes with runs of several durations each, or losses along runs"
        )
    if found.of_parameters is None or found.of_tokens is None:
        return Approach(number=1, reason=found.reason)
    low, high = format_flops(float(found.flops[0])), format_flops(float(found.flops[-1]))
    source = {
        "ends": "final losses of finished runs, smoothed over the durations of each size",
        "curves": "losses along runs whose learning rate had not decayed: biased, no interval shows how far",
    }
    notes = [f"{source[found.kind]}; {found.sizes} sizes are best between others, from {low} to {high}"]
    if drawn and found.kind == "ends" and not found.of_parameters.draws.shape[1]:
        notes.append("no interval: too few runs to say how they scatter about their sizes' curves")
    return _from_lines(1, (found.of_parameters, found.of_tokens), bias, budgets, level, notes)


def _by_parabolas(
    found: IsoFlop | None, bias: float | None, budgets: Sequence[float], level: float, *, named: bool
) -> Approach:
    if found is None:
        return Approach(number=2, reason="the runs form no two budgets of three sizes each")
    refused = [profile for profile in found.profiles if profile.parameters is None]
    notes = [_refusal(profile) for profile in refused]
    if not named:
        runs = sum(len(profile.sizes) for profile in found.profiles)
        notes.append(
            f"no column names budgets: {runs} runs of nearly equal FLOPs were taken for {len(found.profiles)}"
        )
    if found.line is None or found.of_tokens is None:
        interior = len(found.profiles) - len(refused)
        return Approach(
            number=2,
            reason=f"{interior} of {len(found.profiles)} budgets have a best size between their runs:"
            " 3 are the least",
            notes=tuple(notes),
        )
    return _from_lines(2, (found.line, found.of_tokens), bias, budgets, level, notes)


def _refusal(profile: Profile) -> str:
    wanted = {Verdict.BELOW: "smaller models", Verdict.ABOVE: "larger models"}
    remedy = wanted.get(profile.verdict, "more sizes")
    return f"no best size at {format_flops(profile.budget)}: {profile.verdict}; run {remedy} there"


def _by_law(fit: Fit, observations: Observations, budgets: Sequence[float], level: float) -> Approach:
    overhead = observations.flops_over_6nd if observations.flops_accounting == "exact" else 1.0
    optima = [fit.optimum(budget / overhead, level=level) for budget in budgets]
    intervals = fit.evidence.get("intervals")
    known = Range(*intervals["exponent_a"]) if intervals else None
    notes = [] if overhead == 1.0 else [f"FLOPs are taken as {overhead:.3f} x 6ND, the median of the runs"]
    exponent = float(fit.law.exponent_a)
    return Approach(
        number=3,
        exponent_a=exponent,
        exponent_a_interval=known,
        exponent_b=1 - exponent,
        exponent_b_interval=known and Range(1 - known.high, 1 - known.low),
        optima=tuple(
            Split(
                train_flops=budget,
                parameters=best.parameters,
                parameters_interval=best.parameters_interval,
                tokens=best.tokens,
                tokens_interval=best.tokens_interval,
            )
            for budget, best in zip(budgets, optima, strict=True)
        ),
        notes=(f"the {fit.law.form} form", *notes),
    )


def _from_lines(
    number: int,
    lines: tuple[PowerLine, PowerLine],
    bias: float | None,
    budgets: Sequence[float],
    level: float,
    notes: Sequence[str],
) -> Approach:
    of_parameters, of_tokens = lines
    if bias is not None:
        whose = "the envelope's" if number == 1 else "the parabolas'"
        caveat = f"is {whose} own bias if the law of Approach 3 holds, which no interval knows"
        notes = [*notes, f"of its a, {bias:+z.3f} {caveat}"]
    return Approach(
        number=number,
        exponent_a=of_parameters.exponent,
        exponent_a_interval=of_parameters.exponent_range(level),
        exponent_a_bias=bias,
        exponent_b=of_tokens.exponent,
        exponent_b_interval=of_tokens.exponent_range(level),
        optima=tuple(
            Split(
                train_flops=budget,
                parameters=of_parameters.at(budget),
                parameters_interval=of_parameters.range_at(budget, level),
                tokens=of_tokens.at(budget),
                tokens_interval=of_tokens.range_at(budget, level),
            )
            for budget in budgets
        ),
        notes=tuple(notes),
    )


def side_by_side(
    observations: Observations,
    fit: Fit,
    solve: Callable[[Observations], Solution],
    form: Form,
    *,
    budgets: Sequence[float],
    level: float,
    seed: int,
) -> dict[str, Any]:
    """What travels with a fit beside its law: `isoflop`, `approaches`, `accounting` and `points` of its JSON.

    `solve` fits a law of the fit's `form` to runs, for other ways of counting.
    """
    noise = shared_noise(observations, fit)
    draws = 0 if fit.draws is None else PARABOLA_DRAWS
    profiles = isoflop(observations, level=level, draws=draws, seed=seed, noise=noise)
    bias = bias_under(observations, fit.law)
    three = compare_approaches(
        observations, fit, profiles, bias=bias, budgets=budgets, level=level, seed=seed
    )
    budget, countings = compare_countings(observations, solve, form)
    return {
        "isoflop": profiles and _isoflop_json(profiles, bias, sensitivity(observations)),
        "approaches": [_approach_json(one, level) for one in three],
        "accounting": plain({"train_flops": budget, "countings": countings}) if countings else None,
        "points": _points_json(observations),
    }


def _approach_json(approach: Approach, level: float) -> dict[str, Any]:
    found = plain(approach)
    number = found.pop("number")
    return {"approach": number, "name": NAMES[number], "level": level, **found}


def _isoflop_json(found: IsoFlop, bias: float | None, variations: Sequence[Variation]) -> dict[str, Any]:
    """Approach 2 as JSON: minima by budget, N_opt = G C^a, its bias under Approach 3's law, sensitivity."""
    line = found.line
    return {
        "level": found.level,
        "profiles": [
            {
                "budget": p.budget,
                "runs": len(p.sizes),
                "verdict": p.verdict,
                "parameters": p.parameters,
                "tokens": p.tokens,
                "interval": list(p.interval),
                "loss_nats": p.loss,
            }
            for p in found.profiles
        ],
        "exponent_a": line and line.exponent,
        "exponent_a_interval": plain(line and line.exponent_range(found.level)),
        "exponent_a_bias": bias,
        "coefficient": line and float(np.exp(line.log_coefficient)),
        "sensitivity": plain(variations),
    }


def _points_json(observations: Observations) -> dict[str, Any]:
    """Which points counted and by which rules; those left out are listed in `exclusions`."""
    rules = observations.rules
    return {
        "used": len(observations),
        "left_out": len(observations.exclusions),
        "held_out": len(observations.held_out) if observations.held_out else 0,
        "burn_in_tokens": rules.burn_in.tokens,
        "burn_in_tokens_per_parameter": rules.burn_in.tokens_per_parameter,
        "repeats": rules.repeats,
        "flops": observations.flops_accounting,
        "flops_chosen_by": "user" if rules.flops else "source",
    }
