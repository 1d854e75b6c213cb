"""What `fit` does with other kinds of data: runs that repeat theirs, and scores of tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from llama_scale.cli.output import entry, table, wrapped
from llama_scale.cli.settings import key_of
from llama_scale.errors import InputError
from llama_scale.quantities import format_fraction, format_level, format_number

if TYPE_CHECKING:
    from llama_scale.laws import Fit

REPEATED = "repeated"
OWN_LAW = "own"
MULTI_POWER = "multi-power"
ONLY_WITH = {"base-law": REPEATED, "fit-on": MULTI_POWER, "predict": MULTI_POWER}
DEFAULTED = ("repeats", "draws", "level", "seed")  # options whose default is a value like any other
OF_CHOICE = ("weights", "direction", "resampling", "budget", "backtest", "profile")
NOT_WITH = {
    REPEATED: OF_CHOICE,
    MULTI_POWER: (*OF_CHOICE, "scores", "task", "convention", "burn-in", *DEFAULTED, "flops"),
}
SCORE_ROWS = 5
EPOCHS = (2, 4, 8, 16, 40)
SYMBOLS = {"tokens_decay": "R_D*", "parameters_decay": "R_N*"}


def check_options(ctx: click.Context) -> None:
    """Raises InputError for an option that the form makes nothing of."""
    form = ctx.params["form"]
    for option in filter(lambda option: _is_given(ctx, option), ctx.command.params):
        name = key_of(option)
        if form != (its_form := ONLY_WITH.get(name, form)):
            raise InputError(
                f"--{name} is of no use with --form {form}", hint=f"it goes with --form {its_form}"
            )
        if name in NOT_WITH.get(form, ()):
            raise InputError(f"--form {form} takes no --{name}", hint=f"leave --{name} out")


def _is_given(ctx: click.Context, option: click.Parameter) -> bool:
    name = option.name or ""
    if name in DEFAULTED:
        return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    return bool(ctx.params.get(name)) and ctx.params[name] != "auto"


def scores(fit: Fit) -> Iterator[Any]:
    """What a loss scores: a table over the losses of the models that were scored, and how sure that is."""
    found = fit.downstream
    if found is None:
        return
    yield ""
    best, worst = found.losses
    level = found.evidence["level"]
    rows = []
    for step in range(SCORE_ROWS):
        loss = worst + (best - worst) * step / (SCORE_ROWS - 1)
        guess = found.predict(loss, level)
        span = "unknown" if guess.low is None else f"{float(guess.low):.3f} to {float(guess.high or 0):.3f}"
        rows.append((f"{loss:.3f}", f"{float(guess.score):.3f}", span))
    yield f"Score of {found.task} by loss ({found.models} models of {found.source}):"
    yield table(rows, ("loss", "score", f"{format_level(level)} interval"))
    curve = found.sigmoid
    tested = found.evidence["backtest"]
    factor = tested["factor"] if tested else 1.0
    widened = f", so intervals are widened by {format_fraction(factor - 1, 2)}" if factor > 1 else ""
    sure = (
        f"; curves of the worse models missed {tested['predicted_models']} better ones by"
        f" {tested['mean_error']:.3f} on average, {format_fraction(tested['coverage'], 2)} inside{widened}"
        if tested
        else ""
    )
    yield entry(
        "score",
        f"{float(curve.floor):.3f} + {float(curve.ceiling) - float(curve.floor):.3f} / (1 + exp("
        f"{float(curve.steepness):.3f} (L - {float(curve.midpoint):.3f}))), within {found.noise:.3f} (sd)"
        f" of a model{sure}",
    )
    yield ""


def report_repeated(fit: Fit) -> Iterator[Any]:
    """What `fit --form repeated` prints: what repeats are worth, every minimum, what to beware of."""
    found, chosen = fit.evidence["repeated_data"], fit.evidence["selection"]
    assert fit.repetition is not None
    worth = fit.repeated(1.0)
    decay = format_number(float(worth.repetition.tokens_decay), 4)
    yield wrapped(
        f"A repeated token loses its worth with R_D* = {decay}, parameters in excess with R_N* ="
        f" {format_number(float(worth.repetition.parameters_decay), 4)}: 4 epochs are worth"
        f" {format_number(float(worth.effective_tokens(4.0)), 3)} times the unique data, and no number of"
        f" epochs more than {format_number(float(worth.most_effective_tokens), 3)} times"
        f" ({fit.evidence['n_observations']} runs, {found['runs_repeated']} of which repeat).",
    )
    yield from ("", _worths(fit), "")
    if len(found["minima"]) > 1:
        yield "Minima of the objective, of which none is certain:"
        yield from (_minima(found), "")
    law = ", ".join(f"{name} {format_number(float(value), 4)}" for name, value in fit.law.constants.items())
    how = "fitted with the decays" if chosen["base_law"] == OWN_LAW else "held fixed"
    yield entry("law", f"of data seen once, {how}: {chosen['base_law']} ({law})")
    yield entry(
        "fit",
        f"objective {format_number(fit.evidence['objective'], 6)}, Huber delta"
        f" {format_number(chosen['delta'])}; half of the runs lie within"
        f" {format_fraction(fit.evidence['diagnostics']['residual_median'], 2)}; worst run"
        f" {fit.evidence['diagnostics']['worst_run']}, off by"
        f" {format_fraction(fit.evidence['diagnostics']['residual_max'], 2)}",
    )
    tested = fit.evidence["backtest"]
    if tested:
        yield entry(
            "backtest",
            f"laws of the cheaper runs erred {format_fraction(tested['mean_error'], 2)} on average over"
            f" {tested['predicted_runs']} dearer ones, of which {format_fraction(tested['coverage'], 2)} lay"
            f" inside {format_level(tested['level'])} intervals; predictions are widened by"
            f" {tested['factor']:.2f}",
        )
    yield from _intervals(fit)
    yield from (entry("warning", text) for text in fit.evidence["warnings"])


def _worths(fit: Fit) -> Any:
    """Epochs and what they are worth, with the middle of the draws."""
    from llama_scale.laws import central_range

    level = (fit.evidence["intervals"] or {}).get("level")
    law, draws = fit.repeated(1.0), fit.repetition_draws
    rows = []
    for epochs in EPOCHS:
        row = [str(epochs), format_number(float(law.effective_tokens(float(epochs))), 3)]
        if draws is not None and level:
            drawn = type(law)(law=fit.law, unique_tokens=1.0, repetition=draws)
            low, high = central_range(drawn.effective_tokens(float(epochs)), level)
            row.append(f"{format_number(low, 3)} to {format_number(high, 3)}")
        rows.append(row)
    columns = ["epochs", "worth, x unique data", *([f"{format_level(level)} interval"] if level else [])]
    return table(rows, columns)


def _minima(found: Mapping[str, Any]) -> Any:
    rows = [
        (
            format_number(minimum["tokens_decay"], 4),
            format_number(minimum["parameters_decay"], 4),
            format_number(minimum["objective"], 6),
            "" if minimum["share_of_draws"] is None else format_fraction(minimum["share_of_draws"], 2),
        )
        for minimum in found["minima"]
    ]
    marked = next(i for i, minimum in enumerate(found["minima"]) if minimum["chosen"])
    return table(rows, ("R_D*", "R_N*", "objective", "nearest draws"), marked=marked)


def _intervals(fit: Fit) -> Iterator[str]:
    intervals = fit.evidence["intervals"]
    if not intervals:
        return
    spans = [
        f"{symbol} {format_number(intervals[name][0], 3)} to {format_number(intervals[name][1], 3)}"
        for name, symbol in SYMBOLS.items()
        if name in intervals
    ]
    yield entry(
        "intervals",
        f"{', '.join(spans)}: the middle {format_level(intervals['level'])} of {fit.draws_note}",
    )
