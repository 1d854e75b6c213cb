"""A fit as a notebook shows it: constants with intervals, how sure it is, and runs that it never saw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_scale.laws.evidence import number_heard
from llama_scale.quantities import format_count, format_fraction, format_level, format_number

if TYPE_CHECKING:
    from llama_scale.laws.fits import Fit

MOST_ROWS = 12  # of held-out runs


def fit_markdown(fit: Fit) -> str:
    """Markdown of a fit, its tables as a notebook draws them; anybody may have written its evidence."""
    try:
        shown = [*_constants(fit), *_sureness(fit), *_held_out(fit), *_warnings(fit)]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        shown = [f"The evidence that came with it cannot be read: {error!r}."]
    return "\n".join([_title(fit), *shown])


def weighed_by(selection: Mapping[str, Any]) -> str:
    """What runs weigh by, of the `selection` of a fit's evidence: a power of compute, the noise of seeds."""
    by_compute = selection["weights"]
    if not selection.get("seed_noise"):
        return by_compute
    return "by the noise of seeds" + ("" if by_compute == "none" else f", times {by_compute}")


def fitted_by(selection: Mapping[str, Any]) -> str:
    """What was fitted and why, in words."""
    one = f"{selection['form']} form, Huber delta {selection['delta']:g}, weights {weighed_by(selection)}"
    mixed = number_heard(selection) > 1
    return f"{selection['note']}; nearest to it: {one}" if mixed else f"{one}; {selection['note']}"


def _title(fit: Fit) -> str:
    law = {name: format_number(float(value), 4) for name, value in fit.law.constants.items()}
    inner = f"{law['A']} / N^{law['alpha']} + {law['B']} / D^{law['beta']}"
    outer = f"({inner})^{law['k']}" if "k" in law else inner
    counted = fit.convention.replace("_", "-")
    return f"**{fit.name}**: L = {law['E']} + {outer}, N in {counted} parameters, from {fit.source}\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in rows)  # a run's name may hold one
    yield from (f"| {' | '.join(row)} |" for row in escaped)
    yield ""


def _constants(fit: Fit) -> Iterator[str]:
    intervals, errors = fit.evidence.get("intervals"), fit.evidence.get("standard_errors")
    values = {**fit.law.constants, "exponent_a": fit.law.exponent_a}
    level = format_level(intervals["level"]) if intervals else ""
    rows = []
    for name, value in values.items():
        row = [name, format_number(float(value), 4)]
        if intervals and errors and name in intervals:
            low, high = (format_number(end, 4) for end in intervals[name])
            row += [f"{low} to {high}", format_number(errors[name], 2)]
        else:
            row += ["unknown", "unknown"]
        rows.append(row)
    yield from _table(("constant", "value", f"{level} interval".strip(), "standard error"), rows)


def _sureness(fit: Fit) -> Iterator[str]:
    found: Mapping[str, Any] = fit.evidence.get("diagnostics") or {}
    tested: Mapping[str, Any] = fit.evidence.get("backtest") or {}
    selection: Mapping[str, Any] = fit.evidence.get("selection") or {}
    rows = []
    if "residual_rms" in found:
        rows.append(("residuals (rms)", format_fraction(found["residual_rms"], 2)))
    if "starts" in found:
        rows.append(("starts that agree", f"{found['starts_agreed']} of {found['starts']}"))
    if "note" in selection:
        rows.append(("fit", fitted_by(selection)))
    if "coverage" in tested:
        inside = f"{format_fraction(tested['coverage'], 2)} of {tested['predicted_runs']}"
        spread = f", {format_fraction(tested['covered'], 2)} once widened" if tested["spread"] else ""
        rows.append(("backtest error", format_fraction(tested["mean_error"], 2)))
        rows.append((f"inside {format_level(tested['level'])} intervals there", inside + spread))
    counted = fit.draws_note[:1].isdigit()  # our own notes begin with the number
    draws = (
        "none"
        if fit.draws is None
        else fit.draws_note
        if counted
        else f"{np.size(fit.draws.E)}: {fit.draws_note}"
    )
    yield from _table(("how sure", ""), [*rows, ("draws", draws)])


def _held_out(fit: Fit) -> Iterator[str]:
    runs = fit.evidence.get("held_out") or []
    if not runs:
        return
    known = [bool(run["inside"]) for run in runs if run["low"] is not None]
    inside = f" ({sum(known)} of {len(known)} inside their intervals)" if known else ""
    yield f"Runs that the law never saw{inside}:\n"
    rows = []
    for run in runs[:MOST_ROWS]:
        known = run["low"] is not None
        span = f"{run['low']:.4f} to {run['high']:.4f}" if known else "unknown"
        size, tokens = format_count(run["parameters"]), format_count(run["tokens"])
        losses = (f"{run['predicted']:.4f}", span, f"{run['measured']:.4f}")
        rows.append((run["run"], size, tokens, *losses, f"{run['relative_error']:+z.2%}"))
    yield from _table(("run", "N", "D", "predicted", "interval", "measured", "error"), rows)
    if len(runs) > MOST_ROWS:
        yield f"and {len(runs) - MOST_ROWS} more\n"


def _warnings(fit: Fit) -> Iterator[str]:
    for text in fit.evidence.get("warnings") or ():
        yield f"- **warning**: {text}"
