"""A fit for people: the answer in a sentence, the tables, what to beware of, the next command."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_scale.cli import fit_approaches, fit_selection
from llama_scale.cli.output import MARGIN, entry, table, wrapped
from llama_scale.quantities import format_count, format_fraction, format_level, format_number

if TYPE_CHECKING:
    from llama_scale.laws import Fit

SAME = 1e-6  # relative: objectives that differ by less are one


def report(fit: Fit) -> Iterator[Any]:
    """What `fit` prints: pieces of text and tables, in order."""
    evidence = fit.evidence
    yield from _law(fit)
    if evidence.get("profile"):
        yield from ("", *_profiles(evidence["profile"], evidence["selection"]))
    yield from ("", *_optima(fit))
    yield from ("", *fit_approaches.approaches(evidence))
    yield from _held_out(fit)
    if evidence["selection"]["candidates"]:
        yield from ("", *fit_selection.candidates(evidence["selection"]))
    yield from fit_selection.protocol(evidence.get("backtest"))
    yield ""
    yield from _reasons(fit)
    yield from _cautions(fit)


def digest(fit: Fit, source: Path) -> Iterator[Any]:
    """What `sweep` ends with: the law, its optima and test, what to beware of; `fit SOURCE` says the rest."""
    yield from _law(fit)
    yield from ("", *_optima(fit))
    yield from _held_out(fit)
    yield ""
    seeds = fit.evidence["selection"].get("seed_noise")
    yield entry("noise", f"{_noise(fit)}{f'; {seeds}' if seeds else ''}")
    yield from _cautions(fit)
    yield f"{'details':{MARGIN}}llama-scale fit {source}"


def _law(fit: Fit) -> Iterator[Any]:
    yield from (_sentence(fit), "")
    yield table(_constants(fit), ("constant", "value", *_interval_columns(fit), "standard error"))


def _cautions(fit: Fit) -> Iterator[str]:
    yield from (entry("warning", text) for text in fit.evidence.get("warnings", ()))
    yield from (entry("left out", text) for text in _exclusions(fit.evidence.get("exclusions", ())))


def kept(fit: Fit, file: Path | None, figures: Sequence[Path] = ()) -> Iterator[str]:
    """Where the fit and its figures are, and what to do with it."""
    if file:
        yield entry("kept in", f"{file}, with {fit.evidence['selection']['draws']} draws")
    yield from (f"{'figure':{MARGIN}}{figure}" for figure in figures)
    yield f"{'next':{MARGIN}}llama-scale plan --law {file or 'LAW.json'} --serve-tokens 1e12"


def refused(found: Mapping[str, Any]) -> Iterator[Any]:
    """What runs say without a law, where theirs is refused: `found` are the details of that error."""
    if any(not one["reason"] for one in found["approaches"]):
        yield "The law is refused. What the runs say without one:"
        yield from ("", *fit_approaches.approaches(found), "")
    yield from (entry(heading, text) for heading, text in fit_approaches.remarks(found))
    yield from (entry("warning", text) for text in found.get("warnings", ()))


def _sentence(fit: Fit) -> str:
    law = {name: format_number(float(value), 4) for name, value in fit.law.constants.items()}
    growth = format_number(float(fit.law.exponent_a), 3)
    bounds = (fit.evidence.get("intervals") or {}).get("exponent_a")
    sure = f" ({_span(bounds, format_number)})" if bounds else ""
    return wrapped(
        f"Loss falls as L = {law['E']} + {_falling(law)}, so the"
        f" best N grows as C^{growth}{sure}: {fit.evidence['n_observations']} runs, fitted within"
        f" {format_fraction(fit.evidence['diagnostics']['residual_rms'], 2)} (rms).",
    )


def _falling(law: Mapping[str, str]) -> str:
    terms = f"{law['A']} / N^{law['alpha']} + {law['B']} / D^{law['beta']}"
    return f"({terms})^{law['k']}" if "k" in law else terms


def _interval_columns(fit: Fit) -> list[str]:
    intervals = fit.evidence.get("intervals")
    return [f"{format_level(intervals['level'])} interval"] if intervals else []


def _constants(fit: Fit) -> list[list[str]]:
    intervals, errors = fit.evidence.get("intervals"), fit.evidence.get("standard_errors")
    values = {**fit.law.constants, "exponent_a": fit.law.exponent_a}
    rows = []
    for name, value in values.items():
        row = [name.replace("exponent_a", "a"), format_number(float(value), 4)]
        if intervals and errors:
            row += [_span(intervals[name], lambda v: format_number(v, 4)), format_number(errors[name], 2)]
        else:
            row += ["unknown"]
        rows.append(row)
    return rows


def _profiles(found: Mapping[str, Any], selection: Mapping[str, Any]) -> Iterator[Any]:
    """Intervals by profile, open where the objective never rises enough, and SciPy's opinion."""
    from llama_scale.laws.evidence import number_heard

    rows = [
        [name.replace("exponent_a", "a"), *(_end(bound) for bound in bounds)]
        for name, bounds in found["intervals"].items()
    ]
    yield table(rows, ("constant", f"{format_level(found['level'])} by profile: from", "to"))
    gap, mixed = found["scipy"]["gap"], number_heard(selection) > 1
    of = f"of the {selection['form']} fit nearest to the law: " if mixed else ""
    verdict = f"{-gap:.1e} lower" if gap < -SAME else "no lower"
    yield entry(
        "profile",
        f"{of}how far each constant can go, all others fitted anew, before the objective rises by"
        f" {format_number(found['threshold'], 3)}; SciPy's L-BFGS-B from {found['scipy']['starts']} starts"
        f" ends {verdict}",
    )


def _end(bound: float | None) -> str:
    return "open" if bound is None else format_number(bound, 4)


def _optima(fit: Fit) -> Iterator[Any]:
    """Optima by budget: Approach 3, and Approach 2 beside it where the runs form that budget."""
    isoflop = fit.evidence.get("isoflop")
    profiles = {float(f"{p['budget']:.6g}"): p for p in (isoflop["profiles"] if isoflop else ())}
    columns = ["C (FLOPs)", "best N", "interval", "D", "D/N", "loss"]
    rows = []
    for optimum in fit.evidence["optima"]:
        row = [
            format_number(optimum["train_flops"]),
            format_count(optimum["parameters"]),
            _span(optimum["parameters_interval"], format_count),
            format_count(optimum["tokens"]),
            format_number(optimum["tokens_per_parameter"]),
            format_number(optimum["loss_nats"], 4),
        ]
        rows.append([*row, *([_parabola(profiles.get(optimum["train_flops"]))] if profiles else [])])
    yield table(rows, [*columns, *(["IsoFLOP N"] if profiles else [])])
    yield wrapped(f"N counts {fit.convention.replace('_', '-')} parameters, loss is in nats/token", 3)
    if fit.flops_accounting == "exact":
        over = format_number(fit.evidence["diagnostics"]["flops_over_6nd"])
        yield wrapped(f"C is counted as the runs count it: {over} times 6ND", 3)


def _parabola(profile: Mapping[str, Any] | None) -> str:
    if profile is None:
        return ""
    return format_count(profile["parameters"]) if profile["parameters"] else profile["verdict"]


def _held_out(fit: Fit) -> Iterator[Any]:
    """Runs that the law never saw, where there are any."""
    rows: Sequence[Mapping[str, Any]] = fit.evidence.get("held_out") or ()
    if not rows:
        return
    yield ""
    intervals = fit.evidence.get("intervals")
    known = f"{sum(bool(row['inside']) for row in rows)} of {len(rows)} inside, " if intervals else ""
    worst = max(abs(row["relative_error"]) for row in rows)
    yield wrapped(f"Runs that the law never saw ({known}worst error {format_fraction(worst, 2)}):")
    cells = [
        (
            row["run"],
            format_count(row["parameters"]),
            format_count(row["tokens"]),
            f"{row['predicted']:.4f}",
            *([_span((row["low"], row["high"]), lambda v: f"{v:.3f}")] if intervals else []),
            f"{row['measured']:.4f}",
            f"{row['relative_error']:+z.2%}",
        )
        for row in rows
    ]
    yield table(cells, ("run", "N", "D", "predicted", *_interval_columns(fit), "measured", "error"))


def _reasons(fit: Fit) -> Iterator[str]:
    from llama_scale.laws.evidence import number_heard
    from llama_scale.laws.notebook import fitted_by

    found, selection = fit.evidence["diagnostics"], fit.evidence["selection"]
    whose = " of the candidate nearest to the law" if number_heard(selection) > 1 else ""
    yield entry(
        "fit",
        f"{found['starts_agreed']} of {found['starts']} starts agree on the optimum{whose}{_scipy(fit)};"
        f" worst run {found['worst_run']}, off by {format_fraction(found['residual_max'], 2)}; noise"
        f" {_noise(fit)}; {fitted_by(selection)}",
    )
    if selection.get("seed_noise"):
        yield entry("seeds", selection["seed_noise"])
    yield from (entry(heading, text) for heading, text in fit_approaches.remarks(fit.evidence))
    yield from _certainty(fit)


def _noise(fit: Fit) -> str:
    found = fit.evidence["diagnostics"]
    trunk = f" and {format_fraction(found['trunk_noise'], 2)} a trunk" if found["trunk_noise"] else ""
    return f"{format_fraction(found['own_noise'], 2)} a run{trunk}"


def _scipy(fit: Fit) -> str:
    """What SciPy made of the fit, where starts disagreed; with a profile it stands there."""
    checked = fit.evidence.get("scipy")
    if not checked or fit.evidence.get("profile"):
        return ""
    return f", SciPy's L-BFGS-B finds {'a lower one, taken' if checked['gap'] < -SAME else 'none lower'}"


def _certainty(fit: Fit) -> Iterator[str]:
    """What the intervals mean, and what backtests made of them."""
    from llama_scale.laws.evidence import number_heard

    tested = fit.evidence.get("backtest") or {}
    if "coverage" in tested:
        widened = f"exponents are made to waver by {format_fraction(tested['spread'])}"
        if tested["factor"] > 1:
            widened += f" and predicted intervals widened by {format_fraction(tested['factor'] - 1)}"
        more = (
            "" if tested.get("protocol") else ". Add --backtest for a test on runs held out from all of this"
        )
        yield entry(
            "backtest",
            f"laws of the nearer runs erred {format_fraction(tested['mean_error'], 2)} on average over"
            f" {tested['predicted_runs']} predictions of farther ones, of which"
            f" {format_fraction(tested['coverage'], 2)} lay inside {format_level(tested['level'])}"
            f" intervals; {widened}, so that {format_fraction(tested['covered'], 2)} do{more}",
        )
    intervals = fit.evidence.get("intervals")
    if intervals:
        level, mixed = format_level(intervals["level"]), number_heard(fit.evidence["selection"]) > 1
        of = "refits by those that are heard, before they waver" if mixed else "given the form"
        yield entry(
            "intervals",
            f"constants: {of}; optima and losses: the middle {level} of {fit.draws_note}."
            f" A loss: where one new run should land {level} of the time, its own noise included",
        )


def _exclusions(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Reasons with their counts; single runs by name."""
    reasons = Counter(row["reason"] for row in rows)
    named = {row["reason"]: row["run"] for row in rows}
    return [
        f"{f'{count} runs' if count > 1 else named[reason]}: {reason}"
        for reason, count in reasons.most_common()
    ]


def _span(bounds: Sequence[float | None] | None, written: Any) -> str:
    if not bounds or bounds[0] is None or bounds[1] is None:
        return "unknown"
    return f"{written(bounds[0])} to {written(bounds[1])}"
