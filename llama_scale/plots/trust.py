"""How far to believe a law: predicted against measured losses, residuals, backtests, the choice of form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llama_scale.errors import InputError
from llama_scale.laws.evidence import number_heard
from llama_scale.plots.style import (
    BLUE,
    GREY,
    SMALL,
    VERMILION,
    flops_axis,
    legend_below,
    new_figure,
    note,
    plain_axis,
    styled,
)
from llama_scale.quantities import format_fraction, format_level, format_number

if TYPE_CHECKING:
    from llama_scale.fitting import Observations
    from llama_scale.laws import Fit

MOST_CANDIDATES = 12
WIDEST = 1.5  # times beyond all losses: intervals that reach farther are cut there
Array = Any


def _errors(fit: Fit, runs: Observations) -> Array:
    """Predicted over measured loss less 1 (n,), in percent."""
    return 100 * (np.asarray(fit.law.loss(runs.parameters, runs.tokens)) / runs.loss - 1)


@styled
def predictions(fit: Fit, observations: Observations) -> Figure:
    """Predicted against measured loss: fitted runs as dots, held-out ones as diamonds with intervals."""
    figure = new_figure(height=5.0, width=5.6)
    axes = figure.add_subplot()
    fitted = np.asarray(fit.law.loss(observations.parameters, observations.tokens))
    everything, bounds = [observations.loss, fitted], []
    axes.plot(
        observations.loss, fitted, "o", color=BLUE, alpha=0.75, label=f"{len(observations)} fitted runs"
    )
    held = observations.held_out
    if held is not None:
        guess = fit.predict(held.parameters, held.tokens)
        loss = np.asarray(guess.loss)
        bars: Any = None
        if guess.low is not None and guess.high is not None:
            bars = np.array([loss - guess.low, np.asarray(guess.high) - loss])
            bounds = [np.asarray(guess.low), np.asarray(guess.high)]
        axes.errorbar(
            held.loss,
            loss,
            yerr=bars,
            fmt="D",
            color=VERMILION,
            markeredgecolor="white",
            markersize=7,
            capsize=3,
            zorder=4,
            label=f"{len(held)} held out"
            + (f", {format_level(guess.level)} intervals" if bars is not None else ""),
        )
        everything += [held.loss, loss]
    ends = _around(np.concatenate(everything), bounds)
    axes.plot(ends, ends, color=GREY, linewidth=1, label="as predicted")
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.set_aspect("equal")
    plain_axis(axes, "x", "measured loss (nats per token)")
    plain_axis(axes, "y", "predicted loss (nats per token)")
    axes.set_title("Predicted against measured loss")
    axes.legend(loc="upper left")
    return figure


def _around(losses: Array, bounds: Sequence[Array]) -> Array:
    """Ends of an axis that holds losses and the bounds on some of them, where these are not endless."""
    least, most = float(losses.min()), float(losses.max())
    every = np.concatenate([losses, *(np.clip(one, least / WIDEST, most * WIDEST) for one in bounds)])
    low, high = float(every.min()), float(every.max())
    return np.array([low, high]) * (high / low) ** np.array([-0.03, 0.03])


@styled
def residuals(fit: Fit, observations: Observations) -> Figure:
    """Relative errors of the law against compute and tokens per parameter; structure means a wrong form."""
    figure = new_figure(height=4.0, width=8.2)
    by_flops, by_ratio = figure.subplots(1, 2, sharey=True)
    rows = [(observations, "o", BLUE, f"{len(observations)} fitted runs")]
    if observations.held_out is not None:
        rows.append((observations.held_out, "D", VERMILION, f"{len(observations.held_out)} held out"))
    for runs, marker, colour, label in rows:
        error = _errors(fit, runs)
        for axes, x in ((by_flops, runs.train_flops), (by_ratio, runs.tokens / runs.parameters)):
            axes.plot(x, error, marker, color=colour, markeredgecolor="white", markersize=6, label=label)
    for axes in (by_flops, by_ratio):
        axes.axhline(0, color=GREY, linewidth=1)
        if fit.noise:
            label = f"noise of a run, ±{format_fraction(fit.noise, 2)}"
            axes.axhspan(-100 * fit.noise, 100 * fit.noise, color=GREY, alpha=0.13, linewidth=0, label=label)
    flops_axis(by_flops)
    plain_axis(by_ratio, "x", "tokens per parameter D/N")
    by_flops.set_ylabel("predicted over measured loss − 1 (%)")
    by_flops.set_title("Residuals by compute")
    by_ratio.set_title("Residuals by tokens per parameter")
    legend_below(figure, *by_flops.get_legend_handles_labels())
    return figure


@styled
def backtest(fit: Fit) -> Figure:
    """Laws of the nearer four fifths of the runs, judged on the farthest fifth that nothing of them saw.

    One column a direction: the error of every candidate there, the law's own marked, and how many of the
    runs its intervals covered. Raises InputError for a fit without that test.
    """
    verdicts: Sequence[Mapping[str, Any]] = (fit.evidence.get("backtest") or {}).get("protocol") or ()
    if not verdicts:
        raise InputError(
            f"the fit {fit.name} holds no test on its farthest runs",
            hint="make one: `llama-scale fit SOURCE --backtest`",
        )
    figure = new_figure(height=4.0, width=4.1 * max(len(verdicts), 1.6))
    for axes, verdict in zip(
        np.atleast_1d(figure.subplots(1, len(verdicts), sharey=True)), verdicts, strict=True
    ):
        _verdict(axes, verdict)
    figure.axes[0].set_ylabel("mean error on the farthest runs (%)")
    return figure


def _verdict(axes: Axes, verdict: Mapping[str, Any]) -> None:
    mixed = number_heard(verdict["chosen"]) > 1
    errors = [(one["mean_error"], one["chosen"] and not mixed) for one in verdict["candidates"]]
    if mixed:
        errors.append((verdict["mean_error"], True))
    for place, (error, fitted) in enumerate(sorted(errors)):
        axes.bar(place, 100 * error, color=BLUE if fitted else "#c4c4c4", width=0.8, edgecolor="white")
        if fitted:
            said = "the law" if mixed else "chosen"
            note(axes, place, 100 * error, said, offset=(0, 5), ha="center", fontweight="bold")
    far = "compute" if verdict["direction"] == "compute" else "tokens per parameter"
    axes.set_title(f"{format_number(verdict['factor'], 2)} x farther in {far}")
    covered = verdict["coverage"]
    told = f"{verdict['held_out_runs']} runs held out, {verdict['fitted_runs']} fitted"
    if covered is not None:
        told += f"\n{covered:.0%} inside the {format_level(verdict['level'])} intervals"
    axes.text(0.03, 0.97, told, transform=axes.transAxes, va="top", fontsize=SMALL)
    axes.set_ylim(0, 1.3 * 100 * max((error for error, _ in errors), default=1.0))
    axes.set_xlim(-1.8, len(errors) + 0.8)  # room for the word over the first bar
    axes.set_xticks([])
    axes.set_xlabel(f"{len(verdict['candidates'])} candidates{' and their mean' * mixed}, best first")
    axes.grid(visible=False, axis="x")


@styled
def choice(fit: Fit) -> Figure:
    """Each candidate's error in predicting farther runs from nearer ones, and how much it is heard.

    Raises InputError for a fit whose form was named, not chosen.
    """
    selection = fit.evidence.get("selection") or {}
    tried = sorted(selection.get("candidates") or (), key=lambda one: one["mean_error"])[:MOST_CANDIDATES]
    if not tried:
        raise InputError(
            f"nothing was chosen in the fit {fit.name}: its form was named, or its runs are too few",
            hint="let backtests choose: `llama-scale fit SOURCE --form auto`",
        )
    figure = new_figure(height=1.3 + 0.3 * len(tried))
    axes = figure.add_subplot()
    most, mixed = max(one["weight"] for one in tried) or 1.0, number_heard(selection) > 1
    for place, one in enumerate(reversed(tried)):
        error, heard = 100 * one["mean_error"], one["weight"] / most
        axes.plot([0, error], [place] * 2, color="#d0d0d0", linewidth=1)
        axes.scatter(
            [error],
            [place],
            s=18 + 130 * heard,
            color=BLUE if one["weight"] else GREY,
            zorder=3,
            marker="o" if one["weight"] else "x",
        )
        if one["chosen"]:
            said = "nearest to their mean, the law" if mixed else "chosen"
            note(axes, error, place, said, offset=(10, 0), fontweight="bold")
    axes.set_yticks(range(len(tried)), [_name(one) for one in reversed(tried)])
    axes.set_xlim(0, 1.25 * 100 * tried[-1]["mean_error"])
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("mean error in predicting farther runs from nearer ones (%)")
    axes.set_title("Forms by how they predict (larger: heard more)")
    return figure


def _name(one: Mapping[str, Any]) -> str:
    return f"{one['form']}, delta {one['delta']:g}, weights {one['weights']}"
