"""`fit --form multi-power`: laws of whole loss curves, in words and tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_scale.cli.output import current_output, entry, table, wrapped
from llama_scale.errors import InputError
from llama_scale.quantities import counted, format_count, format_fraction, format_number, parse_count

if TYPE_CHECKING:
    from llama_scale.fitting.curve_fit import CurveLaws, FutureSchedule, ModelCurves

LAW = "L = L0 + A S^-alpha - B sum (fall of rate) (1 - (1 + C rate^-gamma S_k)^-beta)"
CONSTANTS = ("L0", "A", "alpha", "B", "C", "beta", "gamma")
ERROR_COLUMNS = ("model", "curve", "role", "points", "mean", "worst", "last", "left out")
FINAL = {"cosine": 0.1}  # share of the peak at which a schedule ends, where it isn't said; else 0


def run(
    sources: Sequence[Path],
    words: dict[str, Any],
    futures: Sequence[str],
    *,
    output: Path | None,
    force: bool,
) -> None:
    """Fit, keep where asked, and print."""
    from llama_scale.files import check_new, write_atomically
    from llama_scale.fitting.curve_fit import fit_curve_laws

    laws = fit_curve_laws(
        sources,
        where=words["where"],
        fit_on=words["fit_on"],
        delta=words["delta"],
        future=[parse_future(text) for text in futures],
    )
    document = laws.to_json() | {"file": None if output is None else str(output)}
    if output is not None:
        check_new(output, overwrite=force, other="--output")
        text = json.dumps(document, allow_nan=False) + "\n"
        write_atomically(output, text, other="another file with --output")
    current_output().result(document, lambda: list(report(laws, output)))


def parse_future(text: str) -> FutureSchedule:
    """A schedule such as `cosine:72000`, `wsd:50k` or `linear:24000:0.1`, the last the share it ends at."""
    from llama_scale.fitting.curve_fit import FutureSchedule
    from llama_scale.fitting.curve_sources import SCHEDULES

    kind, *rest = text.split(":")
    try:
        steps = parse_count(rest[0])
        final = float(rest[1]) if len(rest) > 1 else FINAL.get(kind, 0.0)
        if kind not in SCHEDULES or len(rest) > 2 or not 0 <= final <= 1:
            raise ValueError
    except (IndexError, ValueError, InputError):
        raise InputError(
            f"cannot read the schedule {text!r}",
            hint=f"write KIND:STEPS or KIND:STEPS:FINAL, as cosine:72000:0.1; KIND is {', '.join(SCHEDULES)}",
        ) from None
    return FutureSchedule(kind=kind, steps=steps, final_fraction=final)


def report(laws: CurveLaws, file: Path | None) -> Iterator[Any]:
    """The answer in a sentence, the laws, their errors by curve, predictions, what to beware of."""
    points = sum(model.fit.points for model in laws.models)
    curves = sum(len(model.fitted) for model in laws.models)
    yield wrapped(
        f"{counted(len(laws.models), 'model')}, {curves} loss curves, {points} points: each model's curves"
        f" follow a multi-power law within"
        f" {_mean([error for model in laws.models for error in model.fitted])} on average.",
    )
    yield from (
        "",
        table([_constants(model) for model in laws.models], ("model", *CONSTANTS, "starts agree")),
    )
    yield wrapped(LAW, 3)
    yield from ("", "Errors by curve, relative to the loss:", table(_errors(laws), ERROR_COLUMNS))
    rows = [
        (
            _label(model),
            guess.schedule.kind,
            format_count(guess.schedule.steps),
            format_fraction(guess.schedule.final_fraction),
            f"{guess.loss_nats:.4f}",
            format_number(guess.beyond, 2),
        )
        for model in laws.models
        for guess in model.predictions
    ]
    if rows:
        columns = ("model", "schedule", "steps", "ends at", "final loss", "x longest")
        yield from ("", "Schedules that were not run, predicted:", table(rows, columns))
    yield ""
    yield from _reasons(laws)
    if file:
        yield entry("kept in", str(file))


def _constants(model: ModelCurves) -> list[str]:
    values = {name: format_number(float(getattr(model.fit.law, name)), 4) for name in CONSTANTS}
    marked = [f"{value} (bound)" if name in model.fit.at_bound else value for name, value in values.items()]
    return [_label(model), *marked, f"{model.fit.agreed} of {model.fit.starts}"]


def _errors(laws: CurveLaws) -> list[tuple[str, ...]]:
    rows = []
    for model in laws.models:
        left_out = {error.name: error for error in model.left_out or ()}
        for role, group in (("fitted", model.fitted), ("tested", model.tested)):
            for error in group:
                unseen = left_out.get(error.name) if role == "fitted" else None
                rows.append(
                    (
                        _label(model),
                        _short(error.name.removeprefix(f"{model.model}_")),
                        role,
                        str(error.points),
                        format_fraction(error.mean, 2),
                        format_fraction(error.worst, 2),
                        f"{error.final:+z.2%}",
                        "" if unseen is None else format_fraction(unseen.mean, 2),
                    )
                )
    return rows


def _label(model: ModelCurves) -> str:
    """A model's size, and its name where that says more."""
    if model.parameters is None:
        return _short(model.model)
    size = format_count(model.parameters)
    return size if size == model.model else f"{size} {_short(model.model)}"


def _short(name: str) -> str:
    """A run's id by its first digits; other names whole."""
    return name[:8] if len(name) == 16 and set(name) <= set("0123456789abcdef") else name


def _reasons(laws: CurveLaws) -> Iterator[str]:
    tested = [error for model in laws.models for error in model.tested]
    left_out = [error for model in laws.models for error in model.left_out or ()]
    if tested:
        yield entry(
            "tested", f"{counted(len(tested), 'curve')} that no law saw: off by {_mean(tested)} on average"
        )
    if left_out:
        yield entry(
            "left out",
            f"each fitted curve in turn, predicted by the law of its model's others: off by"
            f" {_mean(left_out)} on average",
        )
    yield entry("fit", f"sum of Huber losses on log loss, delta {format_number(laws.delta)}")
    yield from (entry("warning", text) for text in laws.warnings)
    if laws.exclusions:
        reasons = {exclusion.reason for exclusion in laws.exclusions}
        yield entry("not used", f"{counted(len(laws.exclusions), 'run')}: {'; '.join(sorted(reasons)[:3])}")


def _mean(errors: Sequence[Any]) -> str:
    return format_fraction(sum(error.mean for error in errors) / max(1, len(errors)), 2)
